"""`bench`: run every setting in turn, several times over, and sum up."""

from __future__ import annotations

import os
import platform
from contextlib import nullcontext
from importlib.metadata import version

from savefmt.bench.advise import advise
from savefmt.bench.baseline import compare_with
from savefmt.bench.folder import FolderBench
from savefmt.bench.image import ImageBench
from savefmt.bench.record import Recorder
from savefmt.bench.scratch import file_system_of
from savefmt.bench.values import BenchFacts, BenchOptions, BenchReport, Setting
from savefmt.errors import UnsupportedError
from savefmt.model import OnProgress, StrPath
from savefmt.progress import Meter


def bench(
    path: StrPath,
    options: BenchOptions | None = None,
    *,
    baseline: dict[Setting, float] | None = None,
    progress: OnProgress | None = None,
) -> BenchReport:
    """Measure what a disk gives for save images.

    Parameters
    ----------
    path : str or os.PathLike
        A folder: nameless files are written there and read back.  An image: it is read.
    options : BenchOptions, optional
        What to measure.
    baseline : dict, optional
        Median rates to compare with, from `load_baseline`.
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
        If only direct I/O is wanted and the file system has none.
    """
    options = options or BenchOptions()
    name = os.fspath(path)
    target = FolderBench(name, options) if os.path.isdir(name) else ImageBench(name, options)
    with nullcontext(target) if isinstance(target, FolderBench) else target:
        record = Recorder(Meter(progress, options.repeat * target.total(), "measuring"))
        modes = _granted(options, target, record, name)
        for _ in range(options.repeat):
            for direct in modes:
                target.run(direct, record)
    measurements = compare_with(baseline or {}, record.measurements())
    is_image = isinstance(target, ImageBench)
    return BenchReport(
        path=name,
        is_image=is_image,
        options=options,
        facts=_facts(name, record.fio),
        cold=record.cold,
        notes=tuple(record.notes),
        measurements=measurements,
        advice=advise(measurements, name, is_image=is_image),
    )


def _granted(
    options: BenchOptions, target: FolderBench | ImageBench, record: Recorder, path: str
) -> list[bool]:
    if target.grants_direct():
        return list(options.direct)
    if False not in options.direct:
        raise UnsupportedError("the file system has no direct I/O; --direct=off", path=path)
    if True in options.direct:
        record.notes.append("the file system has no direct I/O: buffered only")
    return [False]


def _facts(path: str, fio: str | None) -> BenchFacts:
    room = os.statvfs(path)
    return BenchFacts(
        savefmt=version("savefmt"),
        python=platform.python_version(),
        kernel=platform.release(),
        machine=platform.machine(),
        cpus=len(os.sched_getaffinity(0)),
        file_system=file_system_of(path),
        free_length=room.f_bavail * room.f_frsize,
        fio=fio,
    )
