"""The command line: parse, call the library once, show, return a code."""

from __future__ import annotations

from savefmt.cli.main import entry, main

__all__ = ["entry", "main"]
