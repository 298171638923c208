"""A file to which savefmt only ever adds whole lines."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

from savefmt.errors import ConversionError, ImageIOError
from savefmt.model import StrPath
from savefmt.writing.cachefolder import is_own
from savefmt.writing.places import Place

_LONGEST = 16 << 20
"""Bytes of a line that is read; a longer line was not written by savefmt."""


class AddedLines:
    """Opened for its whole life, so that a line goes where the first look went.

    Parameters
    ----------
    path : str or os.PathLike
        The file; made with mode 0600 if it is not there.
    head : bytes
        How a file begins that may be added to: a slip of the pen must not cost another.

    Raises
    ------
    ConversionError
        If it is no regular file, or begins with something else.
    ImageIOError
        What the operating system refused.
    """

    def __init__(self, path: StrPath, *, head: bytes) -> None:
        self.path = path
        self._fd = -1
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
        try:
            with Place.open(path) as place:
                self._fd = os.open(place.name, flags, 0o600, dir_fd=place.folder)
            self._require(head)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError) and not isinstance(error, ImageIOError):
                raise ImageIOError.from_os(error, path=path) from error
            raise

    def _require(self, head: bytes) -> None:
        if not stat.S_ISREG(self.status.st_mode):
            raise ConversionError("this is not a regular file", path=self.path)
        if os.pread(self._fd, len(head), 0) not in (b"", head):
            raise ConversionError(
                "this file holds something else and is left alone; name another one",
                path=self.path,
            )

    @property
    def status(self) -> os.stat_result:
        """Of the open file."""
        return os.fstat(self._fd)

    def read(self) -> Iterator[bytes]:
        """Yield the lines, if nobody but this user can have written them."""
        if not is_own(self.status):
            return
        with open(os.dup(self._fd), "rb") as file:
            file.seek(0)
            while line := file.readline(_LONGEST):
                yield line

    def add(self, line: bytes) -> None:
        """Add a line by one write, so that no other process can write into it, and sync it.

        Raises
        ------
        ImageIOError
            If it could not be added completely; the next one still begins a line of its own.
        """
        try:
            length = self.status.st_size
            torn = length > 0 and os.pread(self._fd, 1, length - 1) != b"\n"
            data = b"\n" * torn + line + b"\n"
            if os.write(self._fd, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._fd)
        except OSError as error:
            raise ImageIOError.from_os(error, path=self.path) from error

    def close(self) -> None:
        """Let go of the file; harmless when repeated."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
