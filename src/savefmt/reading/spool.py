"""Unlinked temporary files, for data that cannot be read in its own place."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from typing import Self

from savefmt.errors import ImageIOError
from savefmt.model import IOOptions, StrPath
from savefmt.native.file import File, View
from savefmt.native.pages import is_zero

_HOLE_LENGTH = 4096


class Spool:
    """An unlinked temporary file in the making; zeros become holes.

    Attributes
    ----------
    folder : str
        Where it is.
    """

    def __init__(self) -> None:
        import tempfile  # loads half of the standard library, and few images need room

        self.folder = tempfile.gettempdir()
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._file.close()

    @property
    def descriptor(self) -> int:
        """The file itself, which stays ours."""
        return self._file.fileno()

    def write(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        """Write what of it is not zero."""
        try:
            write_sparsely(self._file.fileno(), memoryview(data), offset)
        except OSError as error:
            raise ImageIOError.from_os(error, path=self.folder) from error

    def open(
        self,
        io: IOOptions,
        length: int,
        *,
        view: View | None = None,
        path: StrPath | None = None,
    ) -> File:
        """Open what was written, as a file of that length or as a view of it.

        Parameters
        ----------
        io : IOOptions
            How it is read.
        length : int
            Of the file.
        view : View, optional
            Other files may be in it, too.
        path : str or os.PathLike, optional
            What errors are of: with a view, the file that it shows.

        Returns
        -------
        File
            To be closed, which gives the room back.
        """
        fd = self._file.fileno()
        try:
            os.ftruncate(fd, length)
        except OSError as error:
            raise ImageIOError.from_os(error, path=self.folder) from error
        return File(fd, path=path or self.folder, engine=io.engine, view=view)


def spool(
    pieces: Iterator[tuple[int, bytes | memoryview]],
    io: IOOptions,
    *,
    needed: int,
    length: int | None = None,
) -> File:
    """Write pieces to an unlinked temporary file; zeros become holes.

    Parameters
    ----------
    pieces : iterator of (int, bytes)
        Each with its offset.
    io : IOOptions
        How the file is read.
    needed : int
        Bytes that it takes at least: what cannot fit is refused at once.
    length : int, optional
        Of the file; otherwise it ends with the pieces.

    Returns
    -------
    File
        To be closed, which gives the room back.

    Raises
    ------
    ImageIOError
        What the operating system refused.
    """
    with Spool() as file:
        refuse_without_room(file.folder, needed)
        end = 0
        for offset, piece in pieces:
            file.write(piece, offset)
            end = max(end, offset + len(piece))
        return file.open(io, end if length is None else length)


def in_order(pieces: Iterable[bytes | memoryview]) -> Iterator[tuple[int, bytes | memoryview]]:
    """Yield pieces that follow each other, each with its offset."""
    at = 0
    for piece in pieces:
        yield at, piece
        at += len(piece)


def refuse_without_room(folder: str, needed: int) -> None:
    """Refuse a spool for which the folder has no room.

    Raises
    ------
    ImageIOError
        If the folder has too little room; the message tells how much it has.
    """
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    if needed > free:
        raise ImageIOError(
            f"unpacking takes {needed >> 20} MiB or more, and {free >> 20} MiB are free "
            "here; name another folder in TMPDIR",
            errno=errno.ENOSPC,
            path=folder,
        )


def write_sparsely(fd: int, piece: memoryview, offset: int) -> None:
    """Write the bytes that are not zero to a file of zeros."""
    start = 0
    for at in range(0, len(piece), _HOLE_LENGTH):
        if is_zero(piece[at : at + _HOLE_LENGTH]):
            _write_all(fd, piece[start:at], offset + start)
            start = at + _HOLE_LENGTH
    _write_all(fd, piece[start:], offset + start)


def _write_all(fd: int, data: memoryview, offset: int) -> None:
    while data:
        done = os.pwrite(fd, data, offset)
        data, offset = data[done:], offset + done
