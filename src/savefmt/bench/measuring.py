"""`bench`: run every setting in turn, several times over, and sum up."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from importlib.metadata import version

from savefmt.bench.advise import advise
from savefmt.bench.baseline import Baseline, compare_with
from savefmt.bench.folderbench import FolderBench
from savefmt.bench.imagebench import ImageBench
from savefmt.bench.machine import cpu_model, disk_of, file_system_of, memory_length
from savefmt.bench.record import Runs
from savefmt.bench.values import (
    DIFFERENT,
    BenchFacts,
    BenchOptions,
    BenchReport,
    Measurement,
)
from savefmt.errors import UnsupportedError
from savefmt.frozen import replace
from savefmt.model import OnProgress, StrPath
from savefmt.progress import Meter

_ENOUGH = 4
"""Windows for each thread, below which a rate tells more of the start than of the disk."""


def bench(
    path: StrPath,
    options: BenchOptions | None = None,
    *,
    baseline: Baseline | None = None,
    progress: OnProgress | None = None,
) -> BenchReport:
    """Measure what a disk gives for save images.

    Parameters
    ----------
    path : str or os.PathLike
        A folder: nameless files are written there and read back.  An image: it is read.
    options : BenchOptions, optional
        What to measure.
    baseline : Baseline, optional
        An earlier report to compare with, from `load_baseline`.
    progress : callable, optional
        Told of the bytes moved; returning False cancels.

    Returns
    -------
    BenchReport
        Figures and a conclusion.

    Raises
    ------
    ImageIOError
        If there is too little room, or the operating system refuses.
    UnsupportedError
        If nothing that is wanted can be had: the kernel has no such engine for us, the file
        system no direct I/O, the image no data.
    """
    name = os.fspath(path)
    with _work(name, options or BenchOptions()) as (work, options, notes):
        # How often a time asks for is not known before.
        total = 0 if options.runtime else options.repeat * work.total(options)
        record = Runs(Meter(progress, total, "measuring"))
        rounds = 0
        while rounds < options.repeat or record.least_seconds < options.runtime:
            for direct in options.direct:
                work.run(options, direct, record)
            rounds += 1
    measurements = record.measurements()
    report = BenchReport(
        path=name,
        is_image=work.target.is_image,
        options=options,
        facts=_facts(name, record.fio),
        cold=record.cold,
        notes=(*notes, *_doubts(options, measurements), *record.notes),
        measurements=measurements,
        advice=advise(measurements, work.target),
    )
    return compare_with(baseline, report) if baseline else report


def amount(path: StrPath, options: BenchOptions | None = None) -> int:
    """Return how many bytes `bench` would move at least, fio's included; parameters as there."""
    with _work(os.fspath(path), options or BenchOptions()) as (work, granted, _):
        return granted.repeat * work.total(granted)


def fio_job(path: StrPath, options: BenchOptions | None = None) -> str:
    """Return the job file with which fio alone measures the same; parameters as of `bench`.

    Raises
    ------
    UnsupportedError
        If fio cannot run: the image has no long stretch of data, or fio cannot use its path.
    """
    with _work(os.fspath(path), options or BenchOptions()) as (work, granted, _):
        return work.fio_job(granted)


@contextmanager
def _work(
    name: str, options: BenchOptions
) -> Iterator[tuple[FolderBench | ImageBench, BenchOptions, list[str]]]:
    """Open what is measured; with the settings that are left, and why others are not."""
    work = FolderBench(name, options) if os.path.isdir(name) else ImageBench(name, options)
    with nullcontext(work) if isinstance(work, FolderBench) else work:
        yield work, *_granted(options, work, name)


def _granted(
    options: BenchOptions, work: FolderBench | ImageBench, path: str
) -> tuple[BenchOptions, list[str]]:
    """Leave out what file system and kernel refuse, with a note, unless nothing would be left."""
    notes = []
    if True in options.direct and not work.grants(direct=True):
        if False not in options.direct:
            raise UnsupportedError(
                "the file system does not support direct I/O; use --direct=off", path=path
            )
        notes.append("the file system does not support direct I/O: only buffered I/O was measured")
        options = replace(options, direct=(False,))
    if "io_uring" in options.engines:
        try:
            work.grants(engine="io_uring")
        except UnsupportedError:
            if "psync" not in options.engines:
                raise
            notes.append("this kernel does not let savefmt use io_uring: only psync was measured")
            options = replace(options, engines=("psync",))
    return options, notes


def _doubts(options: BenchOptions, measurements: Sequence[Measurement]) -> Iterator[str]:
    """Say why figures may tell little of the disk."""
    length = max(m.length // m.jobs for m in measurements)
    if length < _ENOUGH * max(options.threads) * max(options.windows):
        yield (
            f"some runs move fewer than {_ENOUGH} windows for each thread: they measure mostly "
            "their start"
        )
    if count := sum(m.different for m in measurements):
        yield (
            f"runs of one setting differ by more than {DIFFERENT} times in {count} of "
            f"{len(measurements)} lines, marked !: the disk may have two speeds, and the "
            "median may match neither"
        )
    if options.runtime and (count := sum(m.steady is not True for m in measurements)):
        yield (
            f"{count} of {len(measurements)} settings did not become steady (five runs within "
            "20 %, without a trend): take a longer --runtime, or a --size that no cache of "
            "the disk holds"
        )


def _facts(path: str, fio: str | None) -> BenchFacts:
    room = os.statvfs(path)
    return BenchFacts(
        savefmt=version("savefmt"),
        python=platform.python_version(),
        kernel=platform.release(),
        machine=platform.machine(),
        cpu=cpu_model(),
        cpus=len(os.sched_getaffinity(0)),
        memory_length=memory_length(),
        file_system=file_system_of(path),
        disk=disk_of(path),
        free_length=room.f_bavail * room.f_frsize,
        fio=fio,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )
