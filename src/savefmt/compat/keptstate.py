"""The device state of QEMU programs, kept in the user's cache: asking means starting them."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from savefmt.compat.statetable import StateTable, read_state_table
from savefmt.errors import SavefmtError
from savefmt.writing.cachefolder import cache_folder, evict, is_own, mark_used
from savefmt.writing.output import OutputFile

_SUFFIX = ".vmstate"
_CACHE_LIMIT = 4 << 20
"""Bytes that all tables in the cache folder take: what was not used for longest goes."""
_LONGEST = 1 << 20


def kept_state_table(binary: str, status: os.stat_result) -> StateTable:
    """Return the device state of a QEMU program, which is asked once.

    Parameters
    ----------
    binary : str
        The program itself, not a script that leads to one: it would stay the same when
        the program changes.
    status : os.stat_result
        Of its file.

    Returns
    -------
    StateTable
        As `read_state_table` gives it.

    Raises
    ------
    MonitorError
        If the program does not tell.
    """
    same = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    try:
        path = cache_folder() / f"{'-'.join(f'{number:x}' for number in same)}{_SUFFIX}"
    except SavefmtError:  # it works without a cache folder, too
        return read_state_table(binary)
    if (kept := _load(path)) is not None:
        return kept
    table = read_state_table(binary)
    with contextlib.suppress(SavefmtError):
        _save(path, table)
    return table


def _load(path: Path) -> StateTable | None:
    """Read a table, if it is one that this user wrote."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            if not is_own(os.fstat(fd)):
                return None
            table = _unpack(json.loads(file.read(_LONGEST)))
            mark_used(fd)
            return table
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _unpack(document: Mapping[str, Any]) -> StateTable:
    names = {str(kind): str(name) for kind, name in document["names"].items()}
    versions = {
        str(name): (int(least), int(most)) for name, (least, most) in document["versions"].items()
    }
    return StateTable(names, versions)


def _save(path: Path, table: StateTable) -> None:
    data = json.dumps({"names": table.names, "versions": table.versions}).encode()
    with OutputFile(path, overwrite=True, direct=False) as output:
        output.file.write(data, 0)
        output.commit()
    evict(path.parent, _SUFFIX, _CACHE_LIMIT, path.name)
