"""Two programs taking turns at the same work, and what each turn took."""

from __future__ import annotations

import mmap
import os
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from savefmt.bench.machine import available_memory
from savefmt.bench.scratch import forget

ROOT = Path(__file__).resolve().parents[1]
TIMED = Path(__file__).with_name("timed.py")


@dataclass(frozen=True)
class Turn:
    """What one turn took."""

    seconds: float
    cpu_seconds: float = 0.0
    peak_kib: int = 0
    command: str = ""


@dataclass(frozen=True)
class Side:
    """One of the two: its work, the files it reads and the files it leaves behind.

    `go` does the work once.  Before that, out of the clock, `reads` leave the page
    cache, `writes` are removed, and memory for both is made ready.
    """

    go: Callable[[], Turn]
    reads: Sequence[Path] = ()
    writes: Sequence[Path] = ()

    def turn(self) -> Turn:
        """Take one turn from a clean start."""
        remove(self.writes)
        for path in self.reads:
            cool(path)
        touch_memory(2 * sum(512 * path.stat().st_blocks for path in self.reads))
        return self.go()


@dataclass
class Pair:
    """What both sides took, turn by turn."""

    ours: list[Turn] = field(default_factory=list)
    theirs: list[Turn] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Our time over theirs: the middle one of all turns.

        The two of one turn ran right after each other, so that other work on the machine
        met both.
        """
        turns = zip(self.ours, self.theirs, strict=True)
        return statistics.median(mine.seconds / other.seconds for mine, other in turns)


def shown(words: Sequence[str | Path]) -> str:
    """Return a command as a reader would type it: ours by its name, files without folders."""
    texts = [os.fspath(word) for word in words]
    if texts[0] == sys.executable:
        own = 2 if texts[1] == os.fspath(TIMED) else 3  # else -m savefmt
        texts = ["savefmt", *texts[own:]]
    return shlex.join(re.sub(r"(?<![^=])/(?:[^/ ]+/)+", "", text) for text in texts)


def alternate(ours: Side, theirs: Side, turns: int) -> Pair:
    """Let the sides take turns; who begins changes, too."""
    pair = Pair()
    for number in range(turns):
        order = [(pair.theirs, theirs), (pair.ours, ours)]
        for taken, side in order if number % 2 else reversed(order):
            taken.append(side.turn())
    remove([*ours.writes, *theirs.writes])
    return pair


def process(*words: str | Path, to: Path | None = None, accept: Sequence[int] = (0,)) -> Turn:
    """Run a process to its end, its output going to a file or nowhere."""
    command = [os.fspath(word) for word in words]
    with open(to or os.devnull, "wb") as out:
        began = time.perf_counter()
        child = subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE)
        turn = _wait(child, began, accept)
        if to is not None:
            os.fsync(out.fileno())
            turn = replace(turn, seconds=time.perf_counter() - began)
    return replace(turn, command=shown(command))


def _wait(child: subprocess.Popen[bytes], began: float, accept: Sequence[int]) -> Turn:
    assert child.stderr is not None
    with child.stderr:
        said = child.stderr.read().decode(errors="replace")
    # wait4, because no other call tells the peak of one child alone.
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode not in accept:
        raise SystemExit(f"{child.args!r} ended with {child.returncode}: {said}")
    return Turn(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss)


def savefmt(*words: str | Path, accept: Sequence[int] = (0,)) -> Turn:
    """Run our command as a user would, start-up and all."""
    return process(sys.executable, "-m", "savefmt", "-q", *words, accept=accept)


def savefmt_inside(*words: str | Path) -> Turn:
    """Run our command and count from where it begins, as fio counts for itself."""
    return inside(TIMED, *words)


def inside(script: Path, *words: str | Path) -> Turn:
    """Run a script that counts for itself, and says so in its last line."""
    command = [sys.executable, os.fspath(script), *(os.fspath(word) for word in words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command!r} ended with {done.returncode}: {done.stderr}")
    seconds, cpu, peak = done.stderr.splitlines()[-1].split()
    return Turn(float(seconds), float(cpu), int(peak), shown(command))


def cool(path: Path) -> None:
    """Write a file back and drop it from the page cache."""
    fd = os.open(path, os.O_RDONLY)
    try:
        forget(fd)
    finally:
        os.close(fd)


def touch_memory(length: int) -> None:
    """Use that much memory once, and free it.

    A host may take back what its guest has not used for two seconds (free page reporting).  To
    get it again took 3 s a GiB where this was found, so a program with buffers in the page cache
    was three times slower after one without than after itself.

    A process of its own does it: the kernel would count our own peak as that of what we start.

    Parameters
    ----------
    length : int
        Bytes; at most half of what is available is used.
    """
    length = min(length, available_memory() // 2)
    if length >= mmap.PAGESIZE:
        subprocess.run([sys.executable, "-S", "-c", _TOUCH, str(length)], check=True)


_TOUCH = """
import mmap, sys
length = int(sys.argv[1])
memory = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE)
memory[:: mmap.PAGESIZE] = b"x" * len(range(0, length, mmap.PAGESIZE))
"""


def remove(paths: Iterable[Path]) -> None:
    """Remove files, and let the file system finish that now rather than later."""
    for folder in {path.parent for path in paths if path.exists()}:
        for path in paths:
            path.unlink(missing_ok=True)
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(fd)
        os.close(fd)
