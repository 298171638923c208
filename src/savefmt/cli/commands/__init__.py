"""One module a command, named as the command, with its options."""

from __future__ import annotations
