"""The command line: parsing and printing only."""

from riskalign.cli.app import main

__all__ = ["main"]
