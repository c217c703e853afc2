"""The quickstart's configurations (package data)."""
