"""Run the command line as ``python -m savefmt``."""

from __future__ import annotations

from savefmt.cli import entry

if __name__ == "__main__":
    entry()
