"""From the caller's names to files: folders are searched, patterns matched."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterable, Iterator
from typing import Any, Self

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
    identity : tuple of int
        As `identity_of` told when it was found.
    trouble : str
        Why there is nothing to look at: what was named is not there, or cannot be gone through.
    host, place : str
        The host that it must be read on, by its own name and by its address; empty where any
        host will do.
    """

    path: str
    base: str
    named: bool
    identity: tuple[int, ...] = ()
    trouble: str = ""
    host: str = ""
    place: str = ""

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Self:
        """Read what JSON made of one."""
        return cls(**{**values, "identity": tuple(values["identity"])})


def find_targets(names: Iterable[str]) -> Iterator[Target]:
    """Yield files, each once.

    Parameters
    ----------
    names : iterable of str
        Files, folders and patterns such as ``/srv/*.save``.  In folders, links are not
        followed; hidden files and everything except regular files are skipped.

    Yields
    ------
    Target
        Those of a folder in the order of their names; one with `trouble` where a name leads
        nowhere, or a folder cannot be read.
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
        yield Target(path, os.path.dirname(path), True, identity_of(path))
    elif found := sorted(glob.glob(path)):
        for one in found:
            yield from _targets(one)
    else:
        yield Target(path, os.path.dirname(path), True, trouble="No such file or folder")


def _inside(folder: str, base: str) -> Iterator[Target]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        yield Target(folder, base, False, trouble=error.strerror or str(error))
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        try:
            if entry.is_dir(follow_symlinks=False):
                yield from _inside(entry.path, base)
            elif entry.is_file(follow_symlinks=False):
                yield Target(entry.path, base, False, identity_of(entry.path))
        except OSError as error:
            yield Target(entry.path, base, False, trouble=error.strerror or str(error))


def identity_of(path: str) -> tuple[int, ...]:
    """Return what shows whether a file changed, the same on all hosts; empty if not known.

    Inode, size, and time of change in nanoseconds.
    """
    try:
        status = os.stat(path)
    except OSError:
        return ()
    if not stat.S_ISREG(status.st_mode):
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns
