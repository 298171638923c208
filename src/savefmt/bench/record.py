"""Samples as they come in: rates, CPU time, progress."""

from __future__ import annotations

import resource
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from savefmt.bench.fio import fio_rate, fio_version
from savefmt.bench.scratch import forget
from savefmt.bench.values import BenchSetting, Measurement, Spread
from savefmt.errors import ImageIOError
from savefmt.frozen import dataclass
from savefmt.progress import Meter


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
        self._theirs: dict[BenchSetting, list[float]] = defaultdict(list)
        self._lengths: dict[BenchSetting, int] = {}

    def on_bytes(self, done: int) -> None:
        """Pass on the progress of the run at hand."""
        self._meter.update(self._before + done)

    @contextmanager
    def timed(self, setting: BenchSetting, length: int) -> Iterator[None]:
        """Time the body as one run of a setting."""
        cpu = _cpu_seconds()
        began = time.perf_counter()
        yield
        seconds = time.perf_counter() - began
        self._ours[setting].append(_Sample(length / seconds, _cpu_seconds() - cpu))
        self._lengths[setting] = length
        self.skip(length)

    def note(self, text: str) -> None:
        """Keep what went wrong without being fatal, once."""
        if text not in self.notes:
            self.notes.append(text)

    def run_fio(self, fd: int, setting: BenchSetting, offset: int, length: int) -> bool:
        """Let fio do the same; its failing is worth a note, and ends this setting's turns.

        Returns
        -------
        bool
            Whether it did.
        """
        done = self.fio is not None and setting not in self._fio_failed
        if done:
            try:
                self._theirs[setting].append(fio_rate(fd, setting, offset, length))
            except ImageIOError as error:
                self.note(error.message)
                self._fio_failed.add(setting)
                done = False
        self.skip(length)
        return done

    def cool(self, fd: int) -> None:
        """Put a file out of the page cache."""
        self.cold &= forget(fd)

    def measurements(self) -> tuple[Measurement, ...]:
        """Summarize all settings, in the order of their first run."""
        return tuple(self._summary(setting) for setting in self._ours)

    def _summary(self, setting: BenchSetting) -> Measurement:
        samples = self._ours[setting]
        runs = tuple(sample.rate for sample in samples)
        rate = Spread.of(runs)
        theirs = self._theirs.get(setting)
        fio = Spread.of(theirs) if theirs else None
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
        )

    def skip(self, length: int) -> None:
        """Count a run as done, or as one that will not be."""
        self._before += length
        self.on_bytes(0)


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
