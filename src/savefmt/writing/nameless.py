"""Files without a name, which disappear with the process in every case."""

from __future__ import annotations

import contextlib
import errno
import os

from savefmt.model import StrPath

_UNKNOWN = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL, errno.ENOSYS)
"""What a kernel or a file system says that has no such files."""


def open_linkable(folder: int) -> int | None:
    """Open a file that can get a name later, mode 0600.

    Parameters
    ----------
    folder : int
        Descriptor of the folder that it will be in.

    Returns
    -------
    int or None
        None where kernel or file system have no such files.
    """
    flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
    try:
        fd = os.open(".", flags, 0o600, dir_fd=folder)
    except OSError as error:
        if error.errno in _UNKNOWN:
            return None
        raise
    if not os.path.exists(own_path(fd)):  # no /proc, by which it would get its name
        os.close(fd)
        return None
    return fd


def own_path(fd: int) -> str:
    """Return a path by which this process can open a file of its own again."""
    return f"/proc/self/fd/{fd}"


def open_nameless(folder: StrPath) -> int:
    """Open a file that never gets a name, on any file system.

    Parameters
    ----------
    folder : str or os.PathLike
        On it.

    Returns
    -------
    int
        The descriptor, for reading and writing.
    """
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise
    import tempfile  # imported here, because it is rarely needed

    fd, name = tempfile.mkstemp(prefix=".savefmt-", dir=folder)
    os.unlink(name)
    return fd


def grants_direct(folder: StrPath) -> bool:
    """Try whether files of a folder can be written past the page cache."""
    with contextlib.suppress(OSError):
        fd = open_nameless(folder)
        try:
            os.close(os.open(own_path(fd), os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC))
            return True
        finally:
            os.close(fd)
    return False
