"""A whole file into another one: its extents shared where possible, else copied."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator

_FICLONE = getattr(fcntl, "FICLONE", 0x4004_9409)
_PIECE_LENGTH = 64 << 20
_SMALL_LENGTH = 1 << 20
_CANNOT = (
    errno.EBADF,
    errno.EINVAL,
    errno.ENOSYS,
    errno.ENOTTY,
    errno.EOPNOTSUPP,
    errno.EPERM,
    errno.ETXTBSY,
    errno.EXDEV,
)


def share_content(source: int, target: int) -> bool:
    """Let a file share all of another one's extents, where the file system can."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        return False
    return True


def copy_extents(
    source: int,
    target: int,
    moved: Callable[[int], None] = lambda length: None,
    *,
    length: int | None = None,
) -> None:
    """Make an empty file equal to another one byte by byte, holes left out.

    Parameters
    ----------
    source, target : int
        Descriptors.
    moved : callable
        Told of the bytes copied so far.
    length : int, optional
        Of what is wanted of it: no more than there is.
    """
    length = os.lseek(source, 0, os.SEEK_END) if length is None else length
    os.ftruncate(target, length)
    done = 0
    for start, end in _extents(source, length):
        while start < end:
            count = _copy_piece(source, target, start, min(end - start, _PIECE_LENGTH))
            if count == 0:
                return  # the source has shrunk, which its owner must notice
            start += count
            done += count
            moved(done)


def _extents(fd: int, length: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of each piece that is not a hole."""
    end = 0
    while end < length:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
            end = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole is left
                return
            if error.errno != errno.EINVAL:
                raise
            start, end = end, length  # the file system cannot tell
        if start >= length:
            return
        yield start, min(end, length)


def _copy_piece(source: int, target: int, offset: int, length: int) -> int:
    try:
        return os.copy_file_range(source, target, length, offset, offset)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
    data = os.pread(source, min(length, _SMALL_LENGTH), offset)
    done = 0
    while done < len(data):
        done += os.pwrite(target, memoryview(data)[done:], offset + done)
    return done
