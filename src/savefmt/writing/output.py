"""A file that appears under its name only when it is complete and on the disk."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from types import TracebackType
from typing import Self

from savefmt.errors import ConversionError, ImageIOError
from savefmt.model import StrPath
from savefmt.native.file import File
from savefmt.writing.inuse import refuse_in_use

_NAME_LIMIT = 255


class OutputFile:
    """Written beside its target with mode 0600, renamed by `commit`, else removed.

    Parameters
    ----------
    target : str or os.PathLike
        The name in the end.  A symbolic link is followed.
    overwrite : bool
        Replace a file of that name.
    direct : bool
        Ask for direct I/O.
    engine : str
        One of `savefmt.model.ENGINES`.

    Raises
    ------
    ConversionError
        If the target exists without `overwrite`, or is no regular file.
    ImageIOError
        If the folder cannot be written.
    """

    def __init__(
        self, target: StrPath, *, overwrite: bool, direct: bool, engine: str = "auto"
    ) -> None:
        self.target = os.path.realpath(target)
        self.folder, self._name = os.path.split(self.target)
        self._overwrite = overwrite
        check_target(target, overwrite=overwrite)
        self.path = self._free_name()
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ImageIOError.from_os(error, path=self.target) from error
        self._fd = fd
        try:
            self.file = File(fd, path=self.target, write=True, direct=direct, engine=engine)
        except BaseException:
            self._drop()
            raise

    def _free_name(self) -> str:
        token = os.urandom(4).hex()
        stem = os.fsencode(self._name)[: _NAME_LIMIT - len(token) - 10]
        return os.path.join(self.folder, f".{os.fsdecode(stem)}.savefmt-{token}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abort()

    def set_length(self, length: int) -> None:
        """Make the file that long; what is new reads as zeros."""
        try:
            os.truncate(self._fd, length)
        except OSError as error:
            raise ImageIOError.from_os(error, path=self.target) from error

    def commit(self) -> None:
        """Sync, then give the file its name; nothing happens to it afterwards."""
        self.file.sync()
        self.file.close()
        try:
            if self._overwrite:
                os.rename(self.path, self.target)
            else:
                _rename_new(self.path, self.target)
            sync_folder(self.folder)
        except OSError as error:
            raise ImageIOError.from_os(error, path=self.target) from error
        os.close(self._fd)
        self._fd = -1

    def abort(self) -> None:
        """Remove the file, unless it was committed; harmless when repeated."""
        if self._fd >= 0:
            self.file.close()
            self._drop()

    def _drop(self) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self.path)
        os.close(self._fd)
        self._fd = -1


def check_target(target: StrPath, *, overwrite: bool) -> None:
    """Refuse a target that may not be written.

    Raises
    ------
    ConversionError
        If it exists without `overwrite`, or is no regular file.
    ImageIOError
        If its folder is missing or not to be written.
    """
    path = os.path.realpath(target)
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        folder = os.path.dirname(path)
        if not os.path.isdir(folder):
            raise ImageIOError(
                "the folder does not exist; make it first", errno=2, path=target
            ) from None
        return
    except OSError as error:
        raise ImageIOError.from_os(error, path=target) from error
    if not stat.S_ISREG(mode):
        raise ConversionError(
            "the target is not a regular file; use - to write to a pipe", path=target
        )
    if not overwrite:
        raise ConversionError("the target exists; --force replaces it", path=target)
    refuse_in_use(path)


def _rename_new(path: str, target: str) -> None:
    """Rename without replacing, where the file system can."""
    try:
        os.link(path, target)
    except FileExistsError:
        raise
    except OSError:  # no hard links here
        if os.path.exists(target):
            raise FileExistsError(17, os.strerror(17), target) from None
        os.rename(path, target)
        return
    os.unlink(path)


def sync_folder(folder: StrPath) -> None:
    """Return when names that came or went in a folder are on the disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
