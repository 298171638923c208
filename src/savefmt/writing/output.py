"""A file that appears under its name only when it is complete and on the disk."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from savefmt.errors import ImageIOError, OutputWarning
from savefmt.model import StrPath
from savefmt.native.file import File
from savefmt.writing import unfinished
from savefmt.writing.attributes import copy_attributes
from savefmt.writing.copying import copy_extents
from savefmt.writing.inuse import refuse_in_use
from savefmt.writing.nameless import open_linkable, own_path
from savefmt.writing.places import Place, rename_new


class OutputFile:
    """Written without a name and with mode 0600; `commit` gives it the name, all else nothing.

    If the file system has no files without a name, the file gets a hidden name next to its
    target, which `abort` removes.

    Parameters
    ----------
    target : str, os.PathLike or Place
        The name in the end; a place stays the caller's.
    overwrite : bool
        Replace a file of that name.
    direct : bool
        Ask for direct I/O.
    engine : str
        One of `savefmt.model.ENGINES`.

    Attributes
    ----------
    file : File
        To write to.
    target : str
        As given.
    notes : list of str
        What is worth telling about the finished file, in words.

    Raises
    ------
    ConversionError
        If the target exists without `overwrite`, or is no regular file.
    ImageIOError
        If the folder cannot be written.
    """

    def __init__(
        self,
        target: StrPath | Place,
        *,
        overwrite: bool,
        direct: bool = False,
        engine: str = "auto",
    ) -> None:
        self._fd = -1
        self._hidden: str | None = None
        self._own_place = not isinstance(target, Place)
        self._place = target if isinstance(target, Place) else Place.open(target)
        self.target = self._place.path
        self._overwrite = overwrite
        self.notes: list[str] = []
        unfinished.begin(self)
        try:
            self._place.require_file(overwrite=overwrite)
            if self._own_place:
                refuse_in_use(self.target)
            self._create()
            self.file = File(self._fd, path=self.target, write=True, direct=direct, engine=engine)
        except BaseException as error:
            self.abort()
            if isinstance(error, OSError) and not isinstance(error, ImageIOError):
                raise ImageIOError.from_os(error, path=self.target) from error
            raise

    def _create(self) -> None:
        fd = open_linkable(self._place.folder)
        self._fd = self._create_hidden() if fd is None else fd

    def _create_hidden(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with self._hidden_name() as name:
            return os.open(name, flags, 0o600, dir_fd=self._place.folder)

    @contextmanager
    def _hidden_name(self) -> Iterator[str]:
        """Make up the name that `abort` removes, unless it turns out to be another file's."""
        self._hidden = self._place.hidden_name()
        try:
            yield self._hidden
        except FileExistsError:
            self._hidden = None
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abort()

    @property
    def descriptor(self) -> int:
        """The file itself, which stays ours."""
        return self._fd

    @property
    def path(self) -> str:
        """A path by which this process can open the growing file once more."""
        return own_path(self._fd)

    @property
    def status(self) -> os.stat_result:
        """Length and room of the file, also when it is committed."""
        return os.fstat(self._fd) if self._fd >= 0 else self._status

    @property
    def room(self) -> int:
        """Bytes that the file system has left."""
        found = os.fstatvfs(self._fd)
        return found.f_bavail * found.f_frsize

    @property
    def lengths(self) -> tuple[int, int]:
        """Length of the file and what it takes on the disk, also when it is committed."""
        status = self.status
        return status.st_size, status.st_blocks * 512

    def extend(self, start: int, end: int) -> None:
        """Let the file read as zeros from `start`, where it ends, to `end`."""
        del start
        self.set_length(end)

    def end_at(self, end: int) -> None:
        """Say where the image ends: a file ends there, too."""

    def set_length(self, length: int) -> None:
        """Make the file that long; what is new reads as zeros."""
        try:
            os.truncate(self._fd, length)
        except OSError as error:
            raise ImageIOError.from_os(error, path=self.target) from error

    def set_mode(self, mode: int) -> None:
        """Say who may use the file, while nobody can reach it."""
        try:
            os.fchmod(self._fd, mode)
        except OSError as error:
            raise ImageIOError.from_os(error, path=self.target) from error

    def resemble(self, original: int) -> None:
        """Take owner, mode and attributes of another file, while nobody can reach this one."""
        try:
            self.notes += copy_attributes(original, self._fd)
        except OSError as error:
            raise ImageIOError.from_os(error, path=self.target) from error

    def commit(self, *, warn: bool = False) -> None:
        """Sync, then give the file its name.

        What goes wrong after that is told in `notes`: the target stands whole.

        Parameters
        ----------
        warn : bool
            Tell it by an `OutputWarning`, too: for callers who have no report to put it in.
        """
        self.file.sync()
        self.file.close()
        try:
            self._status = os.fstat(self._fd)
            self._give_name()
        except OSError as error:
            raise ImageIOError.from_os(error, path=self.target) from error
        doubt = self._place.sync(self._fd)
        if doubt is not None:
            self.notes.append(doubt)
        self._close()
        for note in self.notes if warn else ():
            warnings.warn(f"{os.fspath(self.target)}: {note}", OutputWarning, stacklevel=3)

    def _give_name(self) -> None:
        if self._hidden is not None:
            self._rename(self._hidden)
            return
        try:
            self._link(self._place.name)
        except FileExistsError:
            if not self._overwrite:
                raise
        except OSError:  # no hard links here, so a file without a name stays without one
            self._copy_to_hidden()
            self._rename(self._hidden or "")
            return
        else:
            return
        # Nothing replaces a file but a rename.
        with self._hidden_name() as name:
            self._link(name)
        self._rename(name)

    def _link(self, name: str) -> None:
        os.link(own_path(self._fd), name, dst_dir_fd=self._place.folder, follow_symlinks=True)

    def _rename(self, hidden: str) -> None:
        folder, name = self._place.folder, self._place.name
        if self._overwrite:
            os.rename(hidden, name, src_dir_fd=folder, dst_dir_fd=folder)
        else:
            rename_new(hidden, name, folder)
        self._hidden = None

    def _copy_to_hidden(self) -> None:
        fd = self._create_hidden()
        old, self._fd = self._fd, fd
        try:
            copy_extents(old, fd)
            copy_attributes(old, fd)
            os.fsync(fd)
        finally:
            os.close(old)

    def abort(self) -> None:
        """Remove the file, unless it was committed; harmless when repeated."""
        file = getattr(self, "file", None)
        if file is not None:
            file.close()
        if self._hidden is not None and self._place.folder >= 0:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._hidden, dir_fd=self._place.folder)
            self._hidden = None
        self._close()

    def _close(self) -> None:
        # The number is forgotten first: after a failed close it may be another file's.
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)
        if self._own_place:
            self._place.close()
        unfinished.end(self)


def check_target(target: StrPath, *, overwrite: bool) -> None:
    """Refuse a target that may not be written, before the work rather than after it.

    Raises
    ------
    ConversionError
        If it exists without `overwrite`, or is no regular file.
    ImageIOError
        If its folder is missing.
    """
    with Place.open(target) as place:
        place.require_file(overwrite=overwrite)
    refuse_in_use(target)
