"""A folder of files that appears, or changes, in one step."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Set
from types import TracebackType
from typing import Self

from savefmt.errors import ConversionError, ImageIOError
from savefmt.model import StrPath
from savefmt.writing import unfinished
from savefmt.writing.attributes import copy_attributes
from savefmt.writing.output import OutputFile
from savefmt.writing.places import Place, exchange, rename_new


class OutputFolder:
    """Filled under a hidden name; `commit` gives it the name, all else removes it.

    Parameters
    ----------
    target : str or os.PathLike
        The name in the end.
    overwrite : bool
        Let it change places with a folder of that name.

    Attributes
    ----------
    notes : list of str
        What is worth telling about the finished folder, in words.
    written : list of os.stat_result
        Of the files in it, once they have their names.

    Raises
    ------
    ConversionError
        If the target exists without `overwrite`, or is no folder.
    ImageIOError
        If the folder around it cannot be written.
    """

    def __init__(self, target: StrPath, *, overwrite: bool) -> None:
        self.target = os.fspath(target)
        self._overwrite = overwrite
        self.notes: list[str] = []
        self.written: list[os.stat_result] = []
        self._fd = -1
        self._names: set[str] = set()  # what we write
        self._others: set[str] = set()  # what else the old folder holds
        self._linked: set[str] = set()  # those of the others that both folders hold
        self._hidden: str | None = None
        self._aside: str | None = None  # the old folder's temporary name
        self._place = Place.open(target)
        unfinished.begin(self)
        try:
            _require_folder(self._place, overwrite=overwrite)
            self._create()
        except BaseException as error:
            self.abort()
            if isinstance(error, OSError) and not isinstance(error, ImageIOError):
                raise ImageIOError.from_os(error, path=target) from error
            raise

    def _create(self) -> None:
        self._hidden = self._place.hidden_name()
        try:
            os.mkdir(self._hidden, 0o700, dir_fd=self._place.folder)
        except FileExistsError:
            self._hidden = None
            raise
        self._fd = _open(self._hidden, self._place.folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abort()

    def file(self, name: str, *, engine: str = "auto") -> OutputFile:
        """Begin a file in the folder.

        Parameters
        ----------
        name : str
            Without a slash.
        engine : str
            One of `savefmt.model.ENGINES`.
        """
        self._names.add(name)
        return self._begin(name, engine)

    def scratch(self, *, engine: str = "auto") -> OutputFile:
        """Begin a file that never gets its name."""
        return self._begin("scratch", engine)

    def _begin(self, name: str, engine: str) -> OutputFile:
        place = Place(os.path.join(self.target, name), self._fd, name)
        return OutputFile(place, overwrite=False, engine=engine)

    def commit(self) -> None:
        """Sync, then give the folder its name.

        What else an older folder of that name holds comes along.  What goes wrong after
        the name is given is told in `notes`.
        """
        place, hidden = self._place, self._hidden or ""
        try:
            self.written = [os.stat(name, dir_fd=self._fd) for name in os.listdir(self._fd)]
            if not self._overwrite or place.status() is None:
                os.fsync(self._fd)
                rename_new(hidden, place.name, place.folder)
            else:
                self._replace(hidden)
        except OSError as error:
            raise ImageIOError.from_os(error, path=self.target) from error
        doubt = place.sync(self._fd)
        if doubt is not None:
            self.notes.append(doubt)
        self.abort()

    def _replace(self, hidden: str) -> None:
        place = self._place
        old = _open(place.name, place.folder)
        try:
            self.notes += copy_attributes(old, self._fd)
            self._others = {name for name in os.listdir(old) if name not in self._names}
            # A file can be in both folders, so it never lacks its name.
            self._linked = _link_files(old, self._fd, self._others)
        finally:
            os.close(old)
        os.fsync(self._fd)
        self._take_place(hidden)
        if self._others:
            names = ", ".join(sorted(self._others)[:3])
            more = ", ..." if len(self._others) > 3 else ""
            self.notes.append(f"what else was in the folder is still there: {names}{more}")

    def _take_place(self, hidden: str) -> None:
        """Let the new folder and the old one change places."""
        place = self._place
        with contextlib.suppress(NotImplementedError):
            exchange(hidden, place.name, place.folder)
            return
        # The second best way: for a moment there is no folder, but never a mixed one.
        self._aside = place.hidden_name()
        try:
            rename_new(place.name, self._aside, place.folder)
            rename_new(hidden, place.name, place.folder)
        except BaseException:
            if place.status() is None:
                rename_new(self._aside, place.name, place.folder)
            raise

    def abort(self) -> None:
        """Remove what has not got the name; harmless when repeated."""
        if self._place.folder >= 0:
            for name in (self._hidden, self._aside):
                if name is not None:
                    self._remove(name)
        self._hidden = self._aside = None
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)
        self._place.close()
        unfinished.end(self)

    def _remove(self, hidden: str) -> None:
        """Remove a folder of a hidden name, the new one or the old one, and no strange file."""
        try:
            fd = _open(hidden, self._place.folder)
        except FileNotFoundError:
            return
        except OSError as error:
            self.notes.append(f"{hidden} could not be removed: {error.strerror}")
            return
        try:
            if self._fd >= 0 and not os.path.samestat(os.fstat(fd), os.fstat(self._fd)):
                for name in self._others - self._linked:
                    with contextlib.suppress(FileNotFoundError):
                        os.rename(name, name, src_dir_fd=fd, dst_dir_fd=self._fd)
            for name in self._names | self._linked:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=fd)
            os.rmdir(hidden, dir_fd=self._place.folder)
        except OSError as error:
            self.notes.append(f"not all of {hidden} could be removed: {error.strerror}")
        finally:
            os.close(fd)


def check_folder(target: StrPath, *, overwrite: bool) -> None:
    """Refuse a folder that may not be written, before the work rather than after it.

    Raises
    ------
    ConversionError
        If it is no folder, or exists without `overwrite`.
    ImageIOError
        If the folder around it does not exist.
    """
    with Place.open(target) as place:
        _require_folder(place, overwrite=overwrite)


def _require_folder(place: Place, *, overwrite: bool) -> None:
    status = place.status()
    if status is None:
        return
    if not stat.S_ISDIR(status.st_mode):
        raise ConversionError("the target is not a folder; blocks need one", path=place.path)
    if not overwrite:
        raise ConversionError(
            "the target exists; --force replaces files of the same names in it", path=place.path
        )


def _open(name: str, folder: int) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, dir_fd=folder)


def _link_files(old: int, new: int, names: Set[str]) -> set[str]:
    """Let files be in two folders, and return which are: a folder has one place only."""
    linked = set()
    for name in names:
        with contextlib.suppress(OSError):
            os.link(name, name, src_dir_fd=old, dst_dir_fd=new, follow_symlinks=False)
            linked.add(name)
    return linked
