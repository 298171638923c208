"""An open file as something to walk through and to read from."""

from __future__ import annotations
