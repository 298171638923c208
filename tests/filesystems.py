"""Small file systems on loop devices, for what only some of them can do."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CLONING = ("xfs", "btrfs")
"""Those that let files share extents."""


class CannotMountError(Exception):
    """Why there is no such file system here."""


def obstacle(kind: str) -> str | None:
    """Why a file system cannot be made, None if nothing is known against it."""
    if os.geteuid() != 0:
        return f"only root can mount {kind}"
    program = f"mkfs.{kind}"
    return None if shutil.which(program) else f"{program} is not installed"


@contextmanager
def mounted(kind: str, folder: Path, length: int = 320 << 20) -> Iterator[Path]:
    """Make and mount a file system, in a sparse file beside the place.

    Parameters
    ----------
    kind : str
        One of `CLONING`.
    folder : Path
        Where to put the two.
    length : int
        Bytes of the file system.

    Yields
    ------
    Path
        Where it is mounted.

    Raises
    ------
    CannotMountError
        With the reason.
    """
    reason = obstacle(kind)
    if reason is not None:
        raise CannotMountError(reason)
    disk, place = folder / f"{kind}.disk", folder / kind
    place.mkdir()
    disk.touch()
    os.truncate(disk, length)
    _run(f"mkfs.{kind}", "-q", str(disk))
    said = _run("mount", "-o", "loop", str(disk), str(place), check=False)
    if said.returncode:
        raise CannotMountError(f"{kind} cannot be mounted here: {said.stdout.strip()}")
    try:
        yield place
    finally:
        _run("umount", str(place))
        disk.unlink()


def used(place: Path) -> int:
    """Return the bytes that a file system has given away, once all is written."""
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _run("sync", "-f", str(place))
        status = os.fstatvfs(fd)
    finally:
        os.close(fd)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


def _run(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, check=check, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
