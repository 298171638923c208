"""fio in the same run: what the disk gives to a program that does nothing else."""

from __future__ import annotations

import ctypes
import json
import math
import os
import shutil
import signal
import subprocess
from collections.abc import Callable

from savefmt.bench.values import BenchSetting
from savefmt.errors import ImageIOError

CHUNK = 1 << 20
"""Of a window, what our io_uring engine asks for in one request."""

_SECTOR = 4096
"""No disk wants direct requests in larger units."""

_PR_SET_PDEATHSIG = 1


def fio_version() -> str | None:
    """Return fio's version, None where it is not installed or does not start."""
    if shutil.which("fio") is None:
        return None
    try:
        said = subprocess.run(["fio", "--version"], capture_output=True, check=False).stdout
    except OSError:
        return None
    words = said.decode(errors="replace").split()
    return words[0] if words and words[0].startswith("fio-") else None


def fio_rate(fd: int, setting: BenchSetting, offset: int, length: int) -> float:
    """Let fio write or read a part of an open file.

    Parameters
    ----------
    fd : int
        The file, nameless or not; fio gets at it through ``/proc``.
    setting : BenchSetting
        Direction, block size, requests at once, direct or buffered.
    offset, length : int
        The part; `length` is at least 4096.

    Returns
    -------
    float
        Bytes per second, a final sync included.

    Raises
    ------
    ImageIOError
        If fio fails, or says what is no rate.
    """
    words = _command(fd, setting, offset, length)
    try:
        done = subprocess.run(words, capture_output=True, check=False, preexec_fn=_dying_with_us())
    except OSError as error:
        raise ImageIOError(f"fio failed: {error.strerror}") from error
    said = done.stdout.decode(errors="replace")
    rate = None if done.returncode else _rate(said, setting.work)
    if rate is None:
        complaint = done.stderr.decode(errors="replace") or said
        lines = complaint.strip().splitlines() if done.returncode else []
        raise ImageIOError(f"fio failed: {lines[-1][:200] if lines else 'no result'}")
    return rate


def _rate(said: str, work: str) -> float | None:
    """Take the rate from fio's report, before which it may print remarks."""
    try:
        rate = float(json.loads(said[said.index("{") :])["jobs"][0][work]["bw_bytes"])
    except (ValueError, LookupError, TypeError, ArithmeticError, RecursionError):
        return None
    return rate if math.isfinite(rate) and rate > 0 else None


def _dying_with_us() -> Callable[[], None]:
    """Make what has fio killed with us, however we die: its file is on the disk until then."""
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def prepare() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # too late to be told
            os._exit(1)

    return prepare


def _command(fd: int, setting: BenchSetting, offset: int, length: int) -> list[str]:
    block = min(setting.window, length // _SECTOR * _SECTOR)
    depth = setting.threads
    library = "libaio"
    if setting.engine == "io_uring":  # which cuts windows into chunks, all at once
        chunk = min(block, CHUNK)
        depth *= -(-block // chunk)
        block = chunk
        library = "io_uring"
    words = [
        "fio",
        "--name=savefmt",
        "--output-format=json",
        f"--filename=/proc/{os.getpid()}/fd/{fd}",
        "--allow_file_create=0",
        "--fallocate=none",
        "--thread",  # processes of its own would outlive it
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
    jobs = min(setting.threads, length // block)
    part = length // jobs // block * block
    words += ["--ioengine=psync", f"--numjobs={jobs}", "--group_reporting"]
    return [*words, f"--offset={offset}", f"--offset_increment={part}", f"--size={part}"]
