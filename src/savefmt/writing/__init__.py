"""Files that take their name when they are complete, and changes in place."""

from __future__ import annotations
