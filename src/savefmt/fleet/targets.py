"""From what the caller names to files: folders are gone through, patterns matched."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterable, Iterator

from savefmt.errors import ImageIOError
from savefmt.frozen import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """A file to look at.

    Attributes
    ----------
    path : str
        Absolute.
    base : str
        The folder that it was found under, or its own.
    named : bool
        Whether the caller named the file itself.
    """

    path: str
    base: str
    named: bool


def find_targets(names: Iterable[str]) -> Iterator[Target]:
    """Yield files, each once.

    Parameters
    ----------
    names : iterable of str
        Files, folders and patterns such as ``/srv/*.save``.  In folders, links are not
        followed, hidden files are passed over, and so is what is no regular file.

    Yields
    ------
    Target
        Those of a folder in the order of their names.

    Raises
    ------
    ImageIOError
        If a name leads nowhere.
    """
    seen: set[str] = set()
    for name in names:
        for target in _targets(os.path.abspath(name)):
            if target.path not in seen:
                seen.add(target.path)
                yield target


def _targets(path: str) -> Iterator[Target]:
    if os.path.isdir(path):
        yield from _inside(path, path)
    elif os.path.lexists(path):
        yield Target(path, os.path.dirname(path), named=True)
    elif found := sorted(glob.glob(path)):
        for one in found:
            yield from _targets(one)
    else:
        raise ImageIOError("No such file or folder", errno=2, path=path)


def _inside(folder: str, base: str) -> Iterator[Target]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise ImageIOError.from_os(error, path=folder) from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _inside(entry.path, base)
        elif entry.is_file(follow_symlinks=False):
            yield Target(entry.path, base, named=False)


def identity_of(path: str) -> tuple[int, ...]:
    """Return what tells whether a file changed, on all hosts alike; empty if it cannot be told.

    Inode, size, and time of change in nanoseconds.
    """
    try:
        status = os.stat(path)
    except OSError:
        return ()
    if not stat.S_ISREG(status.st_mode):
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns
