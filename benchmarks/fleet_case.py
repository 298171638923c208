"""Thousands of small images: what a fleet costs beside the work itself.

``python benchmarks/fleet_case.py`` prints a table: one process that does nothing else, then
``savefmt fleet check`` with one and two workers, on this host and by a dask scheduler.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from golden import load

from savefmt.fleet.records import Outcome
from savefmt.fleet.verbs import perform

NAMES = ("libvirt-live", "libvirt-zstd", "libvirt-raw", "libvirt-gzip")
"""Images of 0.1 to 0.7 MiB."""

_A_FOLDER = 500
_PR_SET_CHILD_SUBREAPER = 36


class Measured(NamedTuple):
    """A row: seconds, CPU seconds of all processes, peaks of client and scheduler in MiB."""

    what: str
    seconds: float
    cpu: float
    client: float
    scheduler: float


def cpu_seconds() -> float:
    """Return what this process and all that have ended below it have used."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def make_images(folder: Path, count: int) -> Path:
    """Make a folder of links to a few images."""
    (folder / "originals").mkdir()
    originals = [load.unpack(name, folder / "originals") for name in NAMES]
    images = folder / "images"
    for number in range(count):
        place = images / f"{number // _A_FOLDER:03}"
        place.mkdir(parents=True, exist_ok=True)
        os.link(originals[number % len(originals)], place / f"{number:06}.save")
    return images


def alone(images: Path, count: int) -> Measured:
    """Do the work in this process, one image after the other."""
    paths = sorted(images.rglob("*.save"))[:count]
    began, cpu = time.perf_counter(), cpu_seconds()
    for path in paths:
        assert perform("check", str(path), {}).verdict is Outcome.GOOD
    seconds, cpu = time.perf_counter() - began, cpu_seconds() - cpu
    return Measured("only the work, in one process", seconds, cpu, 0, 0)


def fleet(what: str, images: Path, journal: Path, *words: str, scheduler: int = 0) -> Measured:
    """Run ``savefmt fleet``; its memory is looked at until it ends."""
    command = [sys.executable, "-m", "savefmt", "fleet", "check", str(images), "-q"]
    journal.unlink(missing_ok=True)
    began, cpu = time.perf_counter(), cpu_seconds()
    with subprocess.Popen([*command, "-o", str(journal), *words]) as process:
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, high_water(process.pid))
            time.sleep(0.05)
    seconds = time.perf_counter() - began
    assert process.returncode == 0
    cpu = cpu_seconds() - cpu
    return Measured(what, seconds, cpu, peak, high_water(scheduler) if scheduler else 0)


def high_water(pid: int) -> float:
    """Return the peak of a process's memory in MiB, 0 where it is gone."""
    try:
        found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0.0
    return int(found[1]) / 1024 if found else 0.0


def started(stack: ExitStack, folder: Path, program: str, *words: str) -> subprocess.Popen[bytes]:
    """Start a program of dask's."""
    command = [sys.executable, "-m", f"distributed.cli.{program}", *words]
    command += ["--host", "127.0.0.1", "--no-dashboard"]
    with (folder / f"{program}.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process


def by_dask(folder: Path, images: Path, workers: int) -> Measured:
    """Run on a scheduler of our own, which is new for each row."""
    cpu = cpu_seconds()
    with ExitStack() as stack:
        place = folder / f"scheduler-{workers}.json"
        words = ("--port", "0", "--scheduler-file", str(place))
        scheduler = started(stack, folder, "dask_scheduler", *words)
        while not place.exists() or not (text := place.read_text()):
            time.sleep(0.05)
        address = text.partition('"address": "')[2].partition('"')[0]
        for _ in range(workers):
            started(stack, folder, "dask_worker", address, "--nthreads=1", "--no-nanny")
        log = folder / "dask_worker.log"
        while log.read_text().count("Registered to") < workers:
            time.sleep(0.05)
        log.write_text("")
        what = f"--scheduler, {workers} worker{'s' * (workers > 1)}"
        journal = folder / "run.jsonl"
        more = ("--scheduler", address)
        found = fleet(what, images, journal, *more, scheduler=scheduler.pid)
    with suppress(ChildProcessError):
        while True:
            os.wait()  # for the workers' own processes, which are ours since those are gone
    return found._replace(cpu=cpu_seconds() - cpu)


def lines(rows: list[Measured], count: int, sample: int) -> Iterator[str]:
    """Yield the table as Markdown."""
    head = "time | an image | CPU, an image | client | scheduler"
    yield f"| {count} images of 0.1 to 0.7 MiB | {head} |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        images = sample if row is rows[0] else count
        each = " | ".join(f"{1000 * took / images:.2f} ms" for took in (row.seconds, row.cpu))
        peaks = [f"{peak:.0f} MiB" if peak else "" for peak in (row.client, row.scheduler)]
        yield f"| {row.what} | {row.seconds:.1f} s | {each} | {' | '.join(peaks)} |"


def main() -> int:
    """Measure all rows, and print them."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--dir", type=Path, help="where to make them")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="savefmt-fleet-", dir=args.dir) as name:
        folder = Path(name)
        images = make_images(folder, args.images)
        sample = max(args.images // 10, 1)
        rows = [alone(images, sample)]
        for jobs in (1, 2):
            what, journal = f"--jobs {jobs}", folder / "run.jsonl"
            rows.append(fleet(what, images, journal, "--jobs", str(jobs)))
        rows += [by_dask(folder, images, workers) for workers in (1, 2)]
        size = (folder / "run.jsonl").stat().st_size
    print(*lines(rows, args.images, sample), sep="\n")
    print(f"\nThe journal takes {size / args.images:.0f} bytes an image.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
