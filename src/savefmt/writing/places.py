"""Where a target is: a folder that is held open, and a name in it.

From here on nothing is found by its path again.  What happens to the folders above cannot
lead a target elsewhere, and a symbolic link is followed only where the kernel would follow
it with `fs.protected_symlinks` on.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from types import TracebackType
from typing import Self

from savefmt.errors import ConversionError, ImageIOError
from savefmt.model import StrPath

_MAX_LINKS = 40
"""As the kernel has it."""
_NAME_LIMIT = 255
_NOREPLACE = 1
_EXCHANGE = 2
_NO_SYNC = (errno.EBADF, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
"""What a folder says that we may not read, or whose file system syncs files alone."""
_NO_FLAGS = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


class Place:
    """A name in a folder that is held open.

    Attributes
    ----------
    path : str or os.PathLike
        As the user gave it, for messages alone.
    folder : int
        Descriptor of the folder.
    name : str
        The name in it.  Nothing, or no symbolic link, stood there when it was opened.
    """

    def __init__(self, path: StrPath, folder: int, name: str) -> None:
        self.path = path
        self.folder = folder
        self.name = name

    @classmethod
    def open(cls, path: StrPath) -> Self:
        """Open the folder of a file that may not exist yet.

        Raises
        ------
        ConversionError
            If a symbolic link on the way is not to be trusted.
        ImageIOError
            If the folder is missing, or closed to us.
        """
        try:
            folder, name = _resolve(path)
        except FileNotFoundError as error:
            reason = "the folder does not exist; make it first"
            raise ImageIOError(reason, errno=errno.ENOENT, path=path) from error
        except OSError as error:
            raise ImageIOError.from_os(error, path=path) from error
        return cls(path, folder, name)

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
        """Let go of the folder; harmless when repeated."""
        folder, self.folder = self.folder, -1
        if folder >= 0:
            with contextlib.suppress(OSError):
                os.close(folder)

    def status(self) -> os.stat_result | None:
        """Tell what has the name, None for nothing."""
        try:
            return os.stat(self.name, dir_fd=self.folder, follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ImageIOError.from_os(error, path=self.path) from error

    def require_file(self, *, overwrite: bool) -> None:
        """Refuse a target that may not be written.

        Raises
        ------
        ConversionError
            If it exists without `overwrite`, or is no regular file.
        """
        status = self.status()
        # A link of the kernel, such as /dev/stdout, may lead to a file without a name.
        special = _is_special(self.path) if status is None else not stat.S_ISREG(status.st_mode)
        if status is not None and stat.S_ISBLK(status.st_mode):
            raise ConversionError(
                "the target is a block device, to which only whole images are written (convert, "
                "detach, save); name a file",
                path=self.path,
            )
        if special:
            raise ConversionError(
                "the target is not a regular file; use - to write to a pipe", path=self.path
            )
        if status is not None and not overwrite:
            raise ConversionError("the target exists; --force replaces it", path=self.path)

    def hidden_name(self) -> str:
        """Make up a temporary name that no other file has."""
        token = os.urandom(8).hex()
        stem = os.fsencode(self.name)[: _NAME_LIMIT - len(token) - 10]
        return f".{os.fsdecode(stem)}.savefmt-{token}"

    def sync(self, fd: int) -> str | None:
        """Return when the name is on the disk.

        Parameters
        ----------
        fd : int
            What has just got the name.

        Returns
        -------
        str or None
            What is in doubt, if anything: the target is complete at this point, so nothing that
            happens here is a failure.
        """
        try:
            try:
                os.fsync(self.folder)
            except OSError as error:
                if error.errno not in _NO_SYNC:
                    raise
                os.fsync(fd)  # which takes the name along on most file systems
        except OSError as error:
            reason = error.strerror or error
            return f"it is whole, but whether its name is on the disk is unknown: {reason}"
        return None


def _is_special(path: StrPath) -> bool:
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False


def _resolve(path: StrPath) -> tuple[int, str]:
    """Open the folder that a path leads to, link by link; return it with the last name."""
    rest = os.fspath(path)
    folder: int | None = None  # where we are
    try:
        for _ in range(_MAX_LINKS):
            head, name = os.path.split(rest.rstrip("/") or rest)
            if name in ("", ".", ".."):
                rest = _own_path(rest, folder)
                continue
            above, folder = folder, _open_folder(head or ".", folder)
            if above is not None:
                os.close(above)
            link = _read_link(name, folder, path)
            if link is None:
                found, folder = folder, None
                return found, name
            rest = link
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    finally:
        if folder is not None:
            os.close(folder)


def _open_folder(path: str, folder: int | None) -> int:
    flags = os.O_DIRECTORY | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_RDONLY, dir_fd=folder)
    except PermissionError:
        return os.open(path, flags | os.O_PATH, dir_fd=folder)  # enough to write into it


def _own_path(path: str, folder: int | None) -> str:
    """Return the path that a folder has by itself, for ``.`` has no name."""
    fd = _open_folder(path, folder)
    try:
        own = os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
    if own == "/":
        raise ConversionError("the target is the root of all folders; name another", path=path)
    return own


def _read_link(name: str, folder: int, path: StrPath) -> str | None:
    """Return where a symbolic link leads, None if no link has this name."""
    try:
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        return None
    try:
        link = os.fstat(fd)
        if not stat.S_ISLNK(link.st_mode):
            return None
        around = os.fstat(folder)
        open_to_all = around.st_mode & stat.S_ISVTX and around.st_mode & stat.S_IWOTH
        if open_to_all and link.st_uid not in (os.geteuid(), around.st_uid):
            raise ConversionError(
                "a symbolic link of somebody else in a folder that all may write to is not "
                "followed; name the file that it leads to",
                path=path,
            )
        return os.readlink("", dir_fd=fd)
    finally:
        os.close(fd)


def rename_new(old: str, new: str, folder: int) -> None:
    """Rename inside a folder without replacing anything.

    Raises
    ------
    FileExistsError
        If something stands under the new name.
    """
    try:
        _renameat2(old, new, folder, _NOREPLACE)
    except NotImplementedError:
        try:
            os.stat(new, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            os.rename(old, new, src_dir_fd=folder, dst_dir_fd=folder)
        else:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new) from None


def exchange(one: str, other: str, folder: int) -> None:
    """Let two names of a folder change places at one stroke.

    Raises
    ------
    NotImplementedError
        If kernel or file system cannot.
    """
    _renameat2(one, other, folder, _EXCHANGE)


def _renameat2(old: str, new: str, folder: int, flags: int) -> None:
    import ctypes  # late: most names are given by a link

    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:  # an old C library
        raise NotImplementedError from None
    call.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    if call(folder, os.fsencode(old), folder, os.fsencode(new), flags):
        number = ctypes.get_errno()
        if number in _NO_FLAGS:
            raise NotImplementedError
        raise OSError(number, os.strerror(number), new)
