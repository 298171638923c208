"""Samples as they come in: rates, CPU time, progress."""

from __future__ import annotations

import itertools
import resource
import statistics
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from savefmt.bench.fio import FioResult, fio_version, run_fio
from savefmt.bench.scratch import forget
from savefmt.bench.values import BenchSetting, Latency, Measurement, Spread
from savefmt.errors import ImageIOError
from savefmt.frozen import dataclass
from savefmt.native.file import File
from savefmt.progress import Meter

_SMALL = 64 << 10
"""What the engine writes through the page cache because it is short, unless windows are."""


@dataclass(frozen=True, slots=True)
class _Sample:
    rate: float
    cpu_seconds: float


class Runs:
    """Collects what the runs give.

    Parameters
    ----------
    meter : Meter
        Told of all bytes moved, by fio too.

    Attributes
    ----------
    fio : str or None
        fio's version; None where it is missing.
    cold : bool
        Whether every file was out of the page cache before it was read.
    notes : list of str
        What went wrong without being fatal.
    """

    def __init__(self, meter: Meter) -> None:
        self.fio = fio_version()
        self.cold = True
        self.notes: list[str] = []
        self._meter = meter
        self._fio_failed: set[BenchSetting] = set()
        self._before = 0
        self._ours: dict[BenchSetting, list[_Sample]] = defaultdict(list)
        self._theirs: dict[BenchSetting, list[FioResult]] = defaultdict(list)
        self._lengths: dict[BenchSetting, int] = {}
        self._seconds: dict[BenchSetting, float] = defaultdict(float)
        self._latencies: dict[BenchSetting, Counter[int]] = defaultdict(Counter)

    def on_bytes(self, done: int) -> None:
        """Pass on the progress of the run at hand."""
        self._meter.update(self._before + done)

    @contextmanager
    def timed(self, setting: BenchSetting, length: int, *files: File) -> Iterator[None]:
        """Time the body as one run of a setting, and the requests that it makes to files."""
        for file in files:
            file.measure(min(setting.window, _SMALL))
        cpu = _cpu_seconds()
        began = time.perf_counter()
        yield
        seconds = time.perf_counter() - began
        self._ours[setting].append(_Sample(length / seconds, _cpu_seconds() - cpu))
        self._lengths[setting] = length
        self._seconds[setting] += seconds
        for file in files:
            for nanoseconds, count in file.take_latencies():
                self._latencies[setting][nanoseconds] += count
        self.skip(length)

    @property
    def least_seconds(self) -> float:
        """How long the setting that was measured least has been."""
        return min(self._seconds.values(), default=0)

    def note(self, text: str) -> None:
        """Keep what went wrong without being fatal, once."""
        if text not in self.notes:
            self.notes.append(text)

    def run_fio(self, fds: Sequence[int], setting: BenchSetting, offset: int, length: int) -> bool:
        """Let fio do the same; its failing is worth a note, and ends this setting's turns.

        Parameters
        ----------
        fds : sequence of int
            The files, one for each job.
        setting : BenchSetting
            What to do.
        offset, length : int
            The part of each file.

        Returns
        -------
        bool
            Whether it did.
        """
        done = self.fio is not None and setting not in self._fio_failed
        if done:
            try:
                self._theirs[setting].append(run_fio(fds, setting, offset, length))
            except ImageIOError as error:
                self.note(error.message)
                self._fio_failed.add(setting)
                done = False
        self.skip(len(fds) * length)
        return done

    def cool(self, *fds: int) -> None:
        """Put files out of the page cache."""
        for fd in fds:
            self.cold &= forget(fd)

    def measurements(self) -> tuple[Measurement, ...]:
        """Summarize all settings, in the order of their first run."""
        return tuple(self._summary(setting) for setting in self._ours)

    def _summary(self, setting: BenchSetting) -> Measurement:
        samples = self._ours[setting]
        runs = tuple(sample.rate for sample in samples)
        rate = Spread.of(runs)
        theirs = self._theirs.get(setting)
        fio = Spread.of([one.rate for one in theirs]) if theirs else None
        return Measurement(
            setting.work,
            setting.direct,
            setting.threads,
            setting.window,
            setting.engine,
            self._lengths[setting],
            rate,
            runs,
            statistics.median(sample.cpu_seconds for sample in samples),
            fio,
            rate.median / fio.median if fio else None,
            jobs=setting.jobs,
            latency=_latency(self._latencies[setting]),
            fio_latency=_middle([one.latency for one in theirs if one.latency]) if theirs else None,
        )

    def skip(self, length: int) -> None:
        """Count a run as done, or as one that will not be."""
        self._before += length
        self.on_bytes(0)


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _latency(counts: Counter[int]) -> Latency | None:
    """Sum up how many requests took how many nanoseconds."""
    if not counts:
        return None
    values = sorted(counts)
    ranks = list(itertools.accumulate(counts[value] for value in values))
    total = ranks[-1]
    middle, late = (values[bisect_left(ranks, share * total / 100)] for share in (50, 99))
    return Latency(middle / 1e9, late / 1e9, values[-1] / 1e9, total)


def _middle(runs: Sequence[Latency]) -> Latency | None:
    """Sum up runs of which only the percentiles are known."""
    if not runs:
        return None
    return Latency(
        statistics.median(run.p50 for run in runs),
        statistics.median(run.p99 for run in runs),
        max(run.maximum for run in runs),
    )
