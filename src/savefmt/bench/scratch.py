"""Files without a name, which disappear with the process in every case."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

from savefmt.bench.machine import available_memory, file_system_of
from savefmt.errors import ImageIOError
from savefmt.model import StrPath
from savefmt.writing.nameless import open_nameless

_KEEP = 10
"""Percent of a disk that stay free unless told otherwise."""

_IN_MEMORY = ("ramfs", "tmpfs")
"""File systems that keep their files in the host's memory, whatever they report."""

_LOOK = 1 << 30
"""Bytes whose pages are looked up at once: a file may be larger than memory."""

_LOW_BIT = bytes(byte & 1 for byte in range(256))


@contextmanager
def nameless_file(folder: StrPath, length: int) -> Iterator[int]:
    """Open a file that no folder lists.

    Parameters
    ----------
    folder : str or os.PathLike
        On the disk to measure.
    length : int
        It reads as so many zeros.

    Yields
    ------
    int
        The descriptor.

    Raises
    ------
    ImageIOError
        If the folder cannot be written, or not that much.
    """
    try:
        fd = _open_nameless(folder, length)
    except OSError as error:
        raise ImageIOError.from_os(error, path=folder) from error
    try:
        yield fd
    finally:
        os.close(fd)


def _open_nameless(folder: StrPath, length: int) -> int:
    fd = open_nameless(folder)
    try:
        os.ftruncate(fd, length)
    except OSError:
        os.close(fd)
        raise
    return fd


def require_space(folder: StrPath, length: int, *, fill: bool) -> None:
    """Refuse to fill a disk.

    Parameters
    ----------
    folder : str or os.PathLike
        On it.
    length : int
        Bytes that will be taken at once.
    fill : bool
        Let it get as full as it can, rather than keep 10 % free.

    Raises
    ------
    ImageIOError
        ENOSPC, before anything is written.
    """
    try:
        room = os.statvfs(folder)
        in_memory = file_system_of(folder) in _IN_MEMORY
    except OSError as error:
        raise ImageIOError.from_os(error, path=folder) from error
    free = room.f_bavail * room.f_frsize
    if in_memory:
        free = min(free, available_memory())
    keep = 0 if fill else room.f_blocks * room.f_frsize * _KEEP // 100
    if length > free - keep:
        usable = max(free - keep, 0) >> 20
        raise ImageIOError(
            f"a run needs {-(-length >> 20)} MiB, and only {usable} MiB may be used"
            + ("" if fill else f", since {_KEEP} % of the disk must stay free; --fill allows more"),
            errno=errno.ENOSPC,
            path=folder,
        )


def forget(fd: int) -> bool:
    """Drop a file from the page cache.

    This asks for the one file; dropping all caches, as root could, would cost every
    guest on the host.

    Parameters
    ----------
    fd : int
        The file; what is dirty is written first.

    Returns
    -------
    bool
        Whether nothing of it is cached any more.
    """
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    return cached_pages(fd) == 0


def cached_pages(fd: int) -> int | None:
    """Count the pages of a file that the page cache holds, without reading any.

    Even a read that may not wait makes the kernel read ahead; mincore(2) only looks.

    Parameters
    ----------
    fd : int
        The file.

    Returns
    -------
    int or None
        None if it cannot be known. For a file that this user neither owns nor may write, the
        kernel reports all pages as cached.
    """
    length = os.fstat(fd).st_size
    total = 0
    for start in range(0, length, _LOOK):
        count = _cached_in(fd, start, min(_LOOK, length - start))
        if count is None:
            return None
        total += count
    return total


def _cached_in(fd: int, start: int, length: int) -> int | None:
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64)
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)
    address = libc.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, fd, start)
    if address == ctypes.c_void_p(-1).value:
        return None
    try:
        states = ctypes.create_string_buffer(-(-length // mmap.PAGESIZE))
        if libc.mincore(address, length, states) != 0:
            return None
        return sum(states.raw.translate(_LOW_BIT))
    finally:
        libc.munmap(address, length)
