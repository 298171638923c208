"""The readable parts of a file, in smaller pieces around the unreadable places."""

from __future__ import annotations

import errno
from collections.abc import Iterable

from savefmt.errors import ImageIOError
from savefmt.native.file import File
from savefmt.salvage.ranges import Ranges

PIECES = (1 << 20, 64 << 10, 4 << 10)
"""Bytes that are read at a time, and around a bad place."""

_BAD = frozenset({errno.EIO, errno.ENODATA, errno.EILSEQ, errno.EUCLEAN, errno.EREMOTEIO})
"""What file systems and devices say of sectors that are lost."""


class Readable:
    """A file of which parts cannot be read, or hold what nobody wrote there.

    Parameters
    ----------
    file : File
        The caller closes it.
    bad : iterable of (int, int)
        Parts known to be bad, from their start to before their end; they are not read.

    Attributes
    ----------
    length : int
        Of the file.
    bad : Ranges
        All bad parts that are known by now.
    failed : Ranges
        Those of them that the system refused to read.
    """

    def __init__(self, file: File, bad: Iterable[tuple[int, int]] = ()) -> None:
        self.file = file
        self.length = file.length
        self.bad = Ranges((start, min(end, file.length)) for start, end in bad)
        self.failed = Ranges()

    def pread(self, length: int, offset: int) -> bytes:
        """Read what is there, fewer bytes only at the end of the file; bad parts are zeros.

        Raises
        ------
        ImageIOError
            What is no matter of bad sectors.
        """
        end = min(offset + length, self.length)
        if end <= offset:
            return b""
        if not self.bad.overlap(offset, end):
            try:
                return self.file.read(end - offset, offset)
            except ImageIOError as error:
                if error.errno not in _BAD:
                    raise
        data = bytearray(end - offset)
        for first, last in self.bad.outside(offset, end):
            self._read_pieces(data, offset, first, last, 0)
        return bytes(data)

    def _read_pieces(self, data: bytearray, base: int, start: int, end: int, level: int) -> None:
        size = PIECES[level]
        while start < end:
            stop = min(start - start % size + size, end)
            try:
                data[start - base : stop - base] = self.file.read(stop - start, start)
            except ImageIOError as error:
                if error.errno not in _BAD:
                    raise
                if level + 1 < len(PIECES):
                    self._read_pieces(data, base, start, stop, level + 1)
                else:
                    self.bad.add(start, stop)
                    self.failed.add(start, stop)
            start = stop
