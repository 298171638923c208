"""What the tests of failing system calls share: which fail how, and the process that is struck."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
DRIVERS = HERE.parent / "csrc"
NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
SHORT = 0

HARMLESS = {errno.EINTR, SHORT}
CALLS = {
    "pread": [errno.EIO, errno.EINTR, SHORT],
    "pwrite": [errno.EIO, errno.ENOSPC, errno.EINTR, SHORT],
    "fsync": [errno.EIO, errno.EINTR],
    "ftruncate": [errno.ENOSPC, errno.EINTR],
    "fallocate": [errno.ENOSPC, errno.EINTR],
    "rename": [errno.EIO],
    "fstat": [errno.EIO],
    "lseek": [errno.EIO],
    "mmap": [errno.ENOMEM],
    "copy_file_range": [errno.EIO, errno.ENOSPC, SHORT],
    "close": [errno.EIO],
}


class Runner:
    """Runs commands in a folder, disturbed."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("make") is None or shutil.which("cc") is None:
            pytest.skip("no compiler here")
        subprocess.run(["make", "-s", "-C", DRIVERS, "faulty"], check=True)
        self.folder = folder
        self._process = subprocess.Popen(
            [sys.executable, HERE / "runner.py"],
            cwd=folder,
            env={
                **os.environ,
                "LD_PRELOAD": str(DRIVERS / "build" / "faulty.so"),
                "TMPDIR": str(folder),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, words: list[str], call: str, number: int, errnum: int) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([words, call, number, errnum]) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate(timeout=30)


def sample(count: int, dice: random.Random) -> list[int]:
    """Which of so many calls fail: the last and any other, or each."""
    if NIGHTLY or count < 2:
        return list(range(1, count + 1))
    return [dice.randrange(1, count), count]
