"""Files that are being written, so that none of them is left when the process ends.

A second Ctrl-C may interrupt the removal of a half-made file; then this removes it at the exit.
"""

from __future__ import annotations

import atexit
import contextlib
import os
from typing import Protocol


class Unfinished(Protocol):
    """Something with a name for the time being."""

    def abort(self) -> None:
        """Remove it; harmless when repeated."""


_WORKS: dict[Unfinished, int] = {}
"""Each with the process that makes it: a forked one must leave it alone."""


def begin(work: Unfinished) -> None:
    """Note that something is being written."""
    if not _WORKS:
        atexit.register(abort_all)
    _WORKS[work] = os.getpid()


def end(work: Unfinished) -> None:
    """Note that it is whole, or gone; harmless when repeated."""
    _WORKS.pop(work, None)


def abort_all() -> None:
    """Remove everything that was begun and has not ended."""
    for work, process in tuple(_WORKS.items()):
        if process == os.getpid():
            with contextlib.suppress(Exception):
                work.abort()
