"""fio in the same run: the rate of the disk for a program that does nothing else."""

from __future__ import annotations

import ctypes
import json
import math
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from savefmt.bench.values import BenchSetting, Latency
from savefmt.errors import ImageIOError, UnsupportedError
from savefmt.frozen import dataclass

CHUNK = 1 << 20
"""Of a window, what our io_uring engine asks for in one request."""

_SECTOR = 4096
"""No disk wants direct requests in larger units."""

_SPECIAL = set("$`\"'\\;#,")
"""What fio does not take as it is in a path."""

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


@dataclass(frozen=True, slots=True)
class FioResult:
    """What a run of fio gave.

    Attributes
    ----------
    rate : float
        Bytes per second (``bw``), a final sync included.
    latency : Latency or None
        Completion latency (``clat``) of its requests.
    """

    rate: float
    latency: Latency | None = None


def run_fio(fds: Sequence[int], setting: BenchSetting, offset: int, length: int) -> FioResult:
    """Let fio write or read a part of open files, all at the same time.

    Parameters
    ----------
    fds : sequence of int
        The files, nameless or not; fio gets at them through ``/proc``.
    setting : BenchSetting
        Direction, block size, requests at once, direct or buffered.
    offset, length : int
        The part of each file; `length` is at least 4096.

    Returns
    -------
    FioResult
        Of all of them together.

    Raises
    ------
    ImageIOError
        If fio fails, or says what is no rate.
    """
    words = _command(fds, setting, offset, length)
    try:
        done = subprocess.run(words, capture_output=True, check=False, preexec_fn=_dying_with_us())
    except OSError as error:
        raise ImageIOError(f"fio failed: {error.strerror}") from error
    said = done.stdout.decode(errors="replace")
    result = None if done.returncode else _result(said, setting.work)
    if result is None:
        complaint = done.stderr.decode(errors="replace") or said
        lines = complaint.strip().splitlines() if done.returncode else []
        raise ImageIOError(f"fio failed: {lines[-1][:200] if lines else 'no result'}")
    return result


def _result(said: str, work: str) -> FioResult | None:
    """Take the figures from fio's report, before which it may print remarks."""
    try:
        figures = json.loads(said[said.index("{") :])["jobs"][0][work]
        rate = _positive(figures["bw_bytes"])
    except (ValueError, LookupError, TypeError, ArithmeticError, RecursionError):
        return None
    return FioResult(rate, _latency(figures))


def _latency(figures: Any) -> Latency | None:
    """Take the latencies, which a fio may be told not to keep."""
    try:
        found = figures["clat_ns"]
        shares = found["percentile"]
        return Latency(
            _positive(shares["50.000000"]) / 1e9,
            _positive(shares["99.000000"]) / 1e9,
            _positive(found["max"]) / 1e9,
        )
    except (ValueError, LookupError, TypeError, ArithmeticError):
        return None


def _positive(value: Any) -> float:
    number = float(value)
    if not (math.isfinite(number) and number > 0):
        raise ValueError("no figure")
    return number


def _dying_with_us() -> Callable[[], None]:
    """Make what has fio killed with us, however we die: its file is on the disk until then."""
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def prepare() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # too late to be told
            os._exit(1)

    return prepare


def _command(fds: Sequence[int], setting: BenchSetting, offset: int, length: int) -> list[str]:
    words = [f"--{word}" for word in _options(setting, offset, length)]
    if setting.work == "read":
        words.append("--readonly")
    for fd in fds:
        words += [f"--name=savefmt{fd}", f"--filename=/proc/{os.getpid()}/fd/{fd}"]
    # Processes of its own would outlive it.
    return ["fio", "--output-format=json", "--name=global", "--thread", *words]


def _options(setting: BenchSetting, offset: int, length: int) -> list[str]:
    """Say in fio's words what one of its jobs does."""
    block = min(setting.window, length // _SECTOR * _SECTOR)
    depth = setting.threads
    library = "libaio"
    if setting.engine == "io_uring":  # which cuts windows into chunks, all at once
        chunk = min(block, CHUNK)
        depth *= -(-block // chunk)
        block = chunk
        library = "io_uring"
    words = [
        "group_reporting",
        "allow_file_create=0",
        "fallocate=none",
        f"rw={setting.work}",
        f"bs={block}",
        f"direct={int(setting.direct)}",
        *(["end_fsync=1"] if setting.work == "write" else []),
    ]
    if setting.direct:
        place = [f"offset={offset}", f"size={length}"]
        return [*words, f"ioengine={library}", f"iodepth={depth}", *place]
    # Buffered requests wait in the call: only more threads have more of them at once.
    jobs = min(setting.threads, length // block)
    part = length // jobs // block * block
    words += ["ioengine=psync", f"numjobs={jobs}"]
    return [*words, f"offset={offset}", f"offset_increment={part}", f"size={part}"]


def job_file(path: str, sections: Iterable[tuple[BenchSetting, int, int]]) -> str:
    """Write down what fio does for each setting, as a job file for any host.

    Parameters
    ----------
    path : str
        A folder, in which fio makes the files that it writes and reads; or a file, which it
        only reads.
    sections : iterable of (BenchSetting, int, int)
        Each with offset and length; one follows the other.

    Returns
    -------
    str
        The text of the job file.

    Raises
    ------
    UnsupportedError
        If fio would take the path for something else.
    """
    path = os.path.abspath(path)
    if not path.isprintable() or set(path) & _SPECIAL or path != path.strip():
        raise UnsupportedError(
            "a fio job cannot name this path; rename the file or folder", path=path
        )
    is_folder = os.path.isdir(path)
    place = path.replace(":", "\\:")
    lines = [
        "; What savefmt bench compares itself with: the rate is bw, the latency clat.",
        "; Run it by: fio --output-format=json FILE",
        "[global]",
        "thread",
        f"directory={place}" if is_folder else f"filename={place}",
    ]
    for number, (setting, offset, length) in enumerate(sections):
        mode = "direct" if setting.direct else "buffered"
        title = f"{setting.work}-{mode}-{setting.engine}-T{setting.threads}-{setting.window >> 10}K"
        for job in range(setting.jobs):
            lines += ["", f"[{title}-{number}-{job}]"]
            lines += [] if job else ["stonewall"]  # all jobs of one setting run at once
            lines += [f"filename=savefmt-fio-{job}"] if is_folder else ["readonly"]
            options = _options(setting, offset, length)
            lines += [o for o in options if not (is_folder and o == "allow_file_create=0")]
    return "\n".join(lines) + "\n"
