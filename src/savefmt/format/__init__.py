"""Bytes to values and back: envelope, stream, RAM, device state; without policy or I/O."""

from __future__ import annotations
