"""The quickstart's configuration and its committed training pairs (package data)."""
