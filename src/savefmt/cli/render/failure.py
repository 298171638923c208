"""What JSON says about an error; a module of its own, since text output needs no types."""

from __future__ import annotations

from typing import TypedDict


class ErrorValues(TypedDict):
    """What went wrong, and where."""

    type: str
    message: str
    path: str | None
    offset: int | None
    errno: int | None


class FailedValues(TypedDict):
    """An image that could not be read, among others that could."""

    path: str
    error: ErrorValues
