"""What a name stands for that an image shall be written to."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile

from savefmt.compat.policy import Destination, DestinationKind
from savefmt.errors import ImageIOError
from savefmt.model import StrPath

_KINDS = {
    stat.S_IFREG: DestinationKind.FILE,
    stat.S_IFIFO: DestinationKind.PIPE,
    stat.S_IFSOCK: DestinationKind.SOCKET,
    stat.S_IFCHR: DestinationKind.CHARACTER,
    stat.S_IFBLK: DestinationKind.BLOCK,
}


def look_at(path: StrPath) -> Destination:
    """Tell what a target is, before anything is written.

    Parameters
    ----------
    path : str or os.PathLike
        ``-`` is standard output, taken for a pipe; a name without a file becomes one.

    Returns
    -------
    Destination
        With `direct` tried in the target's folder, by a file without a name.

    Raises
    ------
    ImageIOError
        If its folder is missing, or the target is one.
    """
    name = os.fspath(path)
    if name == "-":
        return Destination(DestinationKind.PIPE, direct=False)
    try:
        mode = os.stat(name).st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    except OSError as error:
        raise ImageIOError.from_os(error, path=path) from error
    kind = _KINDS.get(stat.S_IFMT(mode))
    folder = os.path.dirname(os.path.realpath(name))
    if kind is None or not os.path.isdir(folder):
        missing = kind is not None
        raise ImageIOError(
            "the folder does not exist; make it first" if missing else "this is a folder",
            errno=2 if missing else 21,
            path=path,
        )
    return Destination(kind, direct=kind is DestinationKind.FILE and grants_direct(folder))


def grants_direct(folder: str) -> bool:
    """Try whether files of a folder can be written past the page cache."""
    flags = os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC
    try:
        os.close(os.open(folder, flags | os.O_TMPFILE, 0o600))
        return True
    except OSError:
        pass  # the folder's file system may know no files without a name
    with contextlib.suppress(OSError), tempfile.NamedTemporaryFile(dir=folder) as file:
        os.close(os.open(file.name, flags))
        return True
    return False
