"""Bytes to values and back: envelope, stream, RAM and codecs, without policy or I/O."""

from __future__ import annotations
