"""Which programs savefmt runs without being asked."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

_EMULATOR = re.compile(r"qemu-system-[\w.-]+|qemu-kvm|qemu|kvm")


def is_trusted_emulator(path: str) -> bool:
    """Whether a program is called like a QEMU, and only root could have put it there."""
    return bool(_EMULATOR.fullmatch(os.path.basename(path))) and _is_roots(path)


def _is_roots(path: str) -> bool:
    """Whether a file and all folders above it are root's alone to write."""
    places = [path, *map(str, Path(path).parents)]
    return all(
        status.st_uid == 0 and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        for status in map(os.stat, places)
    )
