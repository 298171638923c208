"""fio in the same run: what the disk gives to a program that does nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import Any

from savefmt.bench.values import Setting
from savefmt.errors import ImageIOError

CHUNK = 1 << 20
"""Of a window, what our io_uring engine asks for in one request."""


def fio_version() -> str | None:
    """Return fio's version, None where it is not installed."""
    if shutil.which("fio") is None:
        return None
    done = subprocess.run(["fio", "--version"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def fio_rate(fd: int, setting: Setting, offset: int, length: int) -> float:
    """Let fio write or read a part of an open file.

    Parameters
    ----------
    fd : int
        The file, nameless or not; fio gets at it through ``/proc``.
    setting : Setting
        Direction, block size, requests at once, direct or buffered.
    offset, length : int
        The part.

    Returns
    -------
    float
        Bytes per second, a final sync included.

    Raises
    ------
    ImageIOError
        If fio fails.
    """
    words = _command(fd, setting, offset, length)
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    try:
        result: dict[str, Any] = json.loads(done.stdout)["jobs"][0][setting.work]
    except (ValueError, LookupError):
        result = {}
    if done.returncode or not result.get("bw_bytes"):
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no result"]
        raise ImageIOError(f"fio failed: {lines[-1]}")
    return float(result["bw_bytes"])


def _command(fd: int, setting: Setting, offset: int, length: int) -> list[str]:
    block = setting.window
    depth = setting.threads
    library = "libaio"
    if setting.engine == "io_uring":  # which cuts windows into chunks, all at once
        block = min(block, CHUNK)
        depth *= setting.window // block
        library = "io_uring"
    words = [
        "fio",
        "--name=savefmt",
        "--output-format=json",
        f"--filename=/proc/{os.getpid()}/fd/{fd}",
        "--allow_file_create=0",
        "--fallocate=none",
        f"--rw={setting.work}",
        f"--bs={block}",
        f"--direct={int(setting.direct)}",
        "--readonly" if setting.work == "read" else "--end_fsync=1",
    ]
    if setting.direct:
        return [
            *words,
            f"--iodepth={depth}",
            f"--ioengine={library}",
            f"--offset={offset}",
            f"--size={length}",
        ]
    # Buffered requests wait in the call: only more threads have more of them at once.
    part = max(length // setting.threads // setting.window, 1) * setting.window
    jobs = ["--ioengine=psync", "--thread", f"--numjobs={setting.threads}", "--group_reporting"]
    return [*words, *jobs, f"--offset={offset}", f"--offset_increment={part}", f"--size={part}"]
