"""Change a file in place: one sector of it, or a new file that replaces it.

A disk writes a sector completely or not at all, and a name leads to the old file or to the new
one. A crash could leave any other change half done.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from savefmt.errors import ConversionError, ImageChangedError, ImageIOError
from savefmt.frozen import dataclass
from savefmt.model import StrPath
from savefmt.native.file import FileState
from savefmt.progress import Meter
from savefmt.writing.attributes import other_names
from savefmt.writing.copying import copy_extents, share_content
from savefmt.writing.inuse import refuse_in_use
from savefmt.writing.output import OutputFile
from savefmt.writing.places import Place

SECTOR_LENGTH = 512
"""The least that any disk writes at once, and always whole."""


@dataclass(frozen=True, slots=True)
class Change:
    """Bytes that change: their place, the old bytes, and as many new bytes."""

    offset: int
    old: bytes
    new: bytes


def fits_in_place(changes: Sequence[Change], length: int | None = None) -> bool:
    """Tell whether a disk makes all changes at once."""
    if length is not None or len(changes) != 1:
        return False
    (one,) = changes
    last = one.offset + len(one.new) - 1
    return one.offset // SECTOR_LENGTH == last // SECTOR_LENGTH


def copy_changed(
    source: int,
    output: OutputFile,
    changes: Sequence[Change],
    meter: Meter,
    *,
    length: int | None = None,
) -> None:
    """Make a new file equal to another one except some bytes, sharing as much as possible.

    Parameters
    ----------
    source : int
        Descriptor of the other one.
    output : OutputFile
        The fresh one.
    changes : sequence of Change
        What differs.
    meter : Meter
        Counts the copied bytes, if there are any.
    length : int, optional
        The new length.

    Raises
    ------
    ImageIOError
        What the operating system refused.
    """
    try:
        if not share_content(source, output.descriptor):
            _copy(source, output, meter, length)
    except OSError as error:
        if isinstance(error, ImageIOError):
            raise
        raise ImageIOError.from_os(error, path=output.target) from error
    for change in changes:
        output.file.write(change.new, change.offset)
    if length is not None:
        output.set_length(length)


def _copy(source: int, output: OutputFile, meter: Meter, length: int | None) -> None:
    status = os.fstat(source)
    most = os.lseek(source, 0, os.SEEK_END) if length is None else length
    stored = most if stat.S_ISBLK(status.st_mode) else status.st_blocks * 512
    meter.total = min(stored, most)
    if meter.total > output.room:
        raise ImageIOError(
            f"the change needs a new file of {meter.total} bytes, and the file system has "
            f"{output.room} left; free some space",
            errno=errno.ENOSPC,
            path=output.target,
        )
    meter.phase = "copying"
    copy_extents(source, output.descriptor, meter.update, length=length)


class Original:
    """The very file that an image was read from, open for a change and locked.

    Parameters
    ----------
    path : str or os.PathLike
        Its name.
    state : FileState
        Of the file when it was read.

    Attributes
    ----------
    place : Place
        Where it lies.
    descriptor : int
        The file itself.

    Raises
    ------
    ImageChangedError
        If the name leads to another file now, or if the file was written to.
    ImageIOError
        If it may not be written, or another process changes it.
    """

    def __init__(self, path: StrPath, state: FileState) -> None:
        self._state = state
        self.descriptor = -1
        refuse_in_use(path)
        self.place = Place.open(path)
        try:
            flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
            self.descriptor = os.open(self.place.name, flags, dir_fd=self.place.folder)
            _lock(self.descriptor, path)
            self.require_unchanged()
        except OSError as error:
            self.close()
            if isinstance(error, ImageIOError):
                raise
            raise ImageIOError.from_os(error, path=path) from error
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file and the lock; harmless when repeated."""
        fd, self.descriptor = self.descriptor, -1
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)
        self.place.close()

    def require_unchanged(self) -> None:
        """Refuse to change a file that is not the one that was read.

        Raises
        ------
        ImageChangedError
            If the name leads to another file now, or if the file was written to.
        """
        named = self.place.status()
        states = [named and FileState.of(named), FileState.of(os.fstat(self.descriptor))]
        if states != [self._state, self._state]:
            raise ImageChangedError(
                "the image was replaced or changed since it was read, and is left alone; look "
                "at it, and begin again",
                path=self.place.path,
            )

    def rewrite(self, old: bytes, new: bytes, meter: Meter) -> list[str]:
        """Change the first bytes of the file.

        Parameters
        ----------
        old, new : bytes
            The old and the new bytes, of equal length.
        meter : Meter
            Counts the copied bytes, if there are any.

        Returns
        -------
        list of str
            What is worth telling, in words.

        Raises
        ------
        ImageIOError
            If that failed; the file is as it was.
        """
        start, end = _difference(old, new)
        return self.change([Change(start, old[start:end], new[start:end])], meter)

    def change(
        self, changes: Sequence[Change], meter: Meter, *, length: int | None = None
    ) -> list[str]:
        """Change some bytes of the file, and perhaps its length.

        Parameters
        ----------
        changes : sequence of Change
            All or none of them are made.
        meter : Meter
            Counts the copied bytes, if there are any.
        length : int, optional
            The new length of the file.

        Returns
        -------
        list of str
            What is worth telling, in words.

        Raises
        ------
        ImageIOError
            If that failed; the file is as it was.
        """
        if fits_in_place(changes, length):
            (one,) = changes
            self._overwrite(one.old, one.new, one.offset)
            return []
        with self.successor() as output:
            copy_changed(self.descriptor, output, changes, meter, length=length)
            return self.supersede(output)

    def _overwrite(self, old: bytes, new: bytes, offset: int) -> None:
        try:
            self._write(new, offset)
        except BaseException as error:
            remark = ""
            try:
                self._write(old, offset)
            except OSError as second:
                remark = f"; the old bytes could not be put back: {second.strerror}"
            if isinstance(error, OSError):
                reason = f"{error.strerror}{remark}"
                raise ImageIOError(
                    reason, errno=error.errno or 0, path=self.place.path, offset=offset
                ) from error
            raise

    def _write(self, data: bytes, offset: int) -> None:
        while data:
            count = os.pwrite(self.descriptor, data, offset)
            data, offset = data[count:], offset + count
        os.fsync(self.descriptor)

    def successor(self, *, direct: bool = False, engine: str = "auto") -> OutputFile:
        """Begin the file that is to replace this one; `supersede` ends it."""
        if stat.S_ISBLK(os.fstat(self.descriptor).st_mode):
            raise ConversionError(
                "an image on a block device cannot be replaced in place; convert it into a "
                "file, change that, and write it back",
                path=self.place.path,
            )
        return OutputFile(self.place, overwrite=True, direct=direct, engine=engine)

    def supersede(self, output: OutputFile) -> list[str]:
        """Let a finished file take the place of this one.

        Owner, mode, access lists and extended attributes go with the name.

        Returns
        -------
        list of str
            What is worth telling, in words.
        """
        output.resemble(self.descriptor)
        names = other_names(os.fstat(self.descriptor))
        self.require_unchanged()
        output.commit()
        return [*names, *output.notes]


def _lock(fd: int, path: StrPath) -> None:
    """Keep other changes out, if the file system has locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        reason = "another process is changing this image; wait until it has finished"
        raise ImageIOError(reason, errno=errno.EAGAIN, path=path) from error
    except OSError:
        pass


def _difference(old: bytes, new: bytes) -> tuple[int, int]:
    """Return start and end of the bytes outside of which both are equal."""
    if len(old) != len(new) or old == new:
        raise ValueError("nothing can be changed in place that grows, or stays the same")
    different = [at for at, pair in enumerate(zip(old, new, strict=True)) if pair[0] != pair[1]]
    return different[0], different[-1] + 1
