"""What kind of target a name is, for an image that is to be written."""

from __future__ import annotations

import os
import stat

from savefmt.compat.policy import Destination, DestinationKind
from savefmt.errors import ImageIOError
from savefmt.model import StrPath
from savefmt.writing.nameless import grants_direct

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
    if kind is DestinationKind.FILE:
        return Destination(kind, direct=grants_direct(folder))
    return Destination(kind, direct=kind is DestinationKind.BLOCK)
