"""Images mounted for real, as a user does it."""

from __future__ import annotations

import ctypes.util
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CAP_SYS_ADMIN = 21


def lack() -> str:
    """Say why nothing can be mounted here, or nothing."""
    if ctypes.util.find_library("fuse3") is None:
        return "no libfuse3"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "no /dev/fuse"
    status = Path("/proc/self/status").read_text()
    granted = int(status.partition("CapEff:")[2].split()[0], 16)
    return "" if granted >> CAP_SYS_ADMIN & 1 else "only root may mount here"


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "savefmt", "mount", *map(str, words)]


def mounted_at(folder: Path) -> bool:
    return os.path.ismount(folder)


@contextmanager
def mounted(image: Path, *options: str) -> Iterator[Path]:
    """Mount an image as a user does, in the background."""
    folder = image.parent / f"{image.name}.mounted"
    folder.mkdir()
    # With a pipe we would wait for the end of who keeps the other end.
    done = subprocess.run(command(image, folder, *options), stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == 0, done.stderr
    assert mounted_at(folder)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True, timeout=60)
    assert not mounted_at(folder)
    folder.rmdir()
