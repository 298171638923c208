"""Block devices made of files."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def loop_device(backing: Path, length: int, *, fill: bytes = b"\x5a") -> Iterator[Path]:
    """Make a block device; skips where there are none.

    Parameters
    ----------
    backing : Path
        The file that it lies in; removed in the end.
    length : int
        In bytes.
    fill : bytes
        One byte, which is everywhere on it.

    Yields
    ------
    Path
        The device.
    """
    backing.write_bytes(fill * length)
    with loop_over(backing) as device:
        yield device
    if backing.is_file():
        backing.unlink()


@contextmanager
def loop_over(backing: Path) -> Iterator[Path]:
    """Make a block device of a file that is there; skips where there are none."""
    try:
        command = ["losetup", "--show", "-f", str(backing)]
        made = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no loop device: {error}")
    try:
        yield Path(made.stdout.strip())
    finally:
        subprocess.run(["losetup", "-d", made.stdout.strip()], check=True)
