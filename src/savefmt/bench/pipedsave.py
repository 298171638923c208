"""A sequential save as libvirt makes it: QEMU into a pipe, one helper out of it."""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
from collections.abc import Callable
from contextlib import suppress

PIECE = 1 << 20
"""What libvirt's iohelper reads and writes at a time."""


def write_stream(fd: int, length: int, on_bytes: Callable[[int], None]) -> None:
    """Write `length` bytes that come through a pipe, then sync.

    Parameters
    ----------
    fd : int
        Where to, direct or not as it was opened.
    length : int
        A multiple of `PIECE`.
    on_bytes : callable
        Told of the bytes done; what it raises ends the work.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    with suppress(OSError):  # more than a user may have
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIECE)
    feeder = threading.Thread(target=_feed, args=(writer, length))
    feeder.start()
    try:
        _drain(reader, fd, length, on_bytes)
    finally:
        os.close(reader)  # a feeder still writing gets EPIPE
        feeder.join()
    os.fdatasync(fd)


def _feed(writer: int, length: int) -> None:
    """Be QEMU."""
    with mmap.mmap(-1, PIECE) as noise:
        noise[:] = os.urandom(PIECE)
        view = memoryview(noise)
        try:
            while length:
                length -= os.write(writer, view[: min(length, PIECE)])
        except BrokenPipeError:
            pass
        finally:
            view.release()
            os.close(writer)


def _drain(reader: int, fd: int, length: int, on_bytes: Callable[[int], None]) -> None:
    """Be the helper: fill a page-aligned piece, write it out, begin anew."""
    with mmap.mmap(-1, PIECE) as piece, memoryview(piece) as view:
        for done in range(0, length, PIECE):
            filled = 0
            while filled < PIECE:
                filled += os.readv(reader, [view[filled:]])
            written = 0
            while written < PIECE:
                written += os.pwrite(fd, view[written:], done + written)
            on_bytes(done + PIECE)
