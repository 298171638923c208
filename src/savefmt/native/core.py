"""Calling the C core and turning its error value into an exception."""

from __future__ import annotations

import errno
import os
from functools import partial
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from typing import Any

from savefmt.errors import (
    ClosedImageError,
    CorruptError,
    ImageIOError,
    OperationCancelled,
    SavefmtError,
    TruncatedError,
    UnsupportedError,
)
from savefmt.model import StrPath
from savefmt.native._core import ffi, lib

__all__ = [
    "WAIT_MS",
    "NeedContentError",
    "Owned",
    "blank",
    "call",
    "cell",
    "ffi",
    "keep",
    "lib",
    "raise_for",
]

WAIT_MS = 100
"""How long one wait in C may take: signals are served in between."""

_NO_OFFSET = (1 << 64) - 1

_ADVICE = {
    errno.ENOSPC: "free some space or choose another folder",
    errno.EDQUOT: "the quota is used up",
    errno.EIO: "the device failed; copy what is left of it first",
    errno.EFBIG: "this file system cannot hold a file of that size",
}

# What the C core says of a call on the file being written.
_TARGET_CALLS = ("write", "fallocate", "fsync", "read back")


class NeedContentError(UnsupportedError):
    """A delta came up where no page content is kept; spooling the image helps."""


_ERRORS: dict[int, type[SavefmtError]] = {
    lib.SF_E_FORMAT: CorruptError,
    lib.SF_E_TRUNCATED: TruncatedError,
    lib.SF_E_UNSUPPORTED: UnsupportedError,
    lib.SF_E_CONTENT: NeedContentError,
    lib.SF_E_CANCELLED: OperationCancelled,
    lib.SF_E_CLOSED: ClosedImageError,
}


def raise_for(err: Any, path: StrPath | None = None, target: StrPath | None = None) -> None:
    """Raise what the error value says.

    Parameters
    ----------
    err : cdata
        The error value.
    path : str or os.PathLike, optional
        The file concerned.
    target : str or os.PathLike, optional
        The file concerned where writing failed, if that is another one.

    Raises
    ------
    SavefmtError
        Of the class that fits the status, with the file's path and the offset.
    MemoryError
        When the C core could not allocate.
    """
    message = ffi.string(err.message).decode(errors="replace")
    offset = None if err.offset == _NO_OFFSET else err.offset
    if target is not None and message.startswith(_TARGET_CALLS):
        path = target
    if err.status == lib.SF_E_OS:
        reason = f"cannot {message}: {os.strerror(err.errnum)}"
        if advice := _ADVICE.get(err.errnum):
            reason = f"{reason}; {advice}"
        raise ImageIOError(reason, errno=err.errnum, path=path, offset=offset)
    if err.status == lib.SF_E_NOMEM:
        raise MemoryError(message)
    if err.status == lib.SF_E_RANGE:
        raise ValueError(message)
    raise _ERRORS[err.status](message, path=path, offset=offset)


def call(
    function: Any, *args: Any, path: StrPath | None = None, target: StrPath | None = None
) -> bool:
    """Call a fallible function of the C core, whose last argument is the error value.

    Returns
    -------
    bool
        True for OK, False for AGAIN.
    """
    err = ffi.new("struct sf_err *")
    status = function(*args, err)
    if status == lib.SF_OK:
        return True
    if status == lib.SF_AGAIN:
        return False
    raise_for(err, path, target)
    raise AssertionError("unreachable")


def blank(length: int) -> mmap:
    """Return zeros that take memory only where they are written: a file may claim any length."""
    try:
        return mmap(-1, max(length, 1), flags=MAP_PRIVATE | MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"{length} bytes") from error


def keep(pointer: Any, *owners: Any) -> Any:
    """Return `pointer` so that it keeps alive what it points into.

    Nothing of it is undone in Python: a bound method of a tuple holds the owners, and what
    it returns when the pointer goes is of no interest.
    """
    return ffi.gc(pointer, owners.count)


class Owned:
    """An empty cell for a thing of the C core that lives as long as an object of Python.

    The object first has the cell as an attribute; then the maker is called, with the cell as
    its last argument. A signal handler may run, and raise, between any two bytecodes, but it
    can never lose the thing. The thing ends with the last reference to this object, in one call
    of C, which joins all threads. The collector of cycles ends it only after everything that
    might still use it; see ``owned.h``.

    Parameters
    ----------
    kind : str
        Name of the struct, which has an ``_own`` in ``owned.h``.
    borrowed : object
        The object that the thing points into: it stays alive as long as the thing.

    Attributes
    ----------
    cell : cdata
        A ``struct kind **``.

    Raises
    ------
    MemoryError
        If there is none for it.
    """

    __slots__ = ("_life", "cell")

    def __init__(self, kind: str, *borrowed: Any) -> None:
        self._life: list[object] = []
        self.cell = getattr(lib, f"{kind}_own")(id(borrowed), id(self._life))
        if not self.cell:
            raise MemoryError

    @property
    def content(self) -> Any:
        """What the cell holds: a ``struct kind *``."""
        return self.cell[0]


def cell(kind: str, *borrowed: Any) -> Any:
    """Return an empty cell for a thing of the C core that lives as long as a ``with`` block.

    The cell comes first, the maker is called with it as its last argument, and the cell
    ends what it holds::

        with cell("sf_job", pages) as job:
            call(lib.sf_fill_start, ..., job)

    The end of the block does that in one call of C, which joins all threads.  A second
    signal waits until it has ended.

    Parameters
    ----------
    kind : str
        Name of the struct, which has a ``_drop`` in ``sf_cell.h``.
    borrowed : object
        The object that the thing points into: it stays alive as long as the thing.

    Returns
    -------
    cdata
        A ``struct kind **``.  What it holds is ``cell[0]``.
    """
    # The one object with a finalizer holds the cell's memory, and its end holds the borrowed
    # object: with a chain of two finalizers, the collector of cycles might free the inner one
    # first.
    end = partial(getattr(lib, f"{kind}_drop"))
    end.borrowed = borrowed  # type: ignore[attr-defined]
    return ffi.gc(ffi.new(f"struct {kind} **"), end)
