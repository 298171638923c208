"""The frozen values of a measurement."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Sequence
from typing import ClassVar, Self

from savefmt.frozen import dataclass
from savefmt.model import IOOptions

ENGINES = ("psync", "io_uring")
"""What moves the bytes."""

SMALLEST_WINDOW = 4096
"""Nothing moves less than a page."""

DIFFERENT = 1.5
"""How many times faster one run of a setting is than another where its median tells little."""

PATTERNS = ("dense", "sparse")
"""Guests that can be made up; any other name is an image's."""


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What to measure, and how often.

    Attributes
    ----------
    length : int
        Bytes of pages that each run moves; a pattern taken from an image ignores it.
    threads, windows, direct, engines : tuple
        Every combination is measured; `engines` are of `ENGINES`.
    pattern : str
        One of `PATTERNS`, or the path of an image whose present pages to imitate.
    repeat : int
        Runs of each combination, at least.
    fill : bool
        Use the last 10 % of the disk, too.
    runtime : float
        Seconds that each combination is measured for, at least, however many runs that takes.
    jobs : int
        Guests at once, each with a file and threads of its own, as when a host shuts down.
    """

    length: int = 1 << 30
    threads: tuple[int, ...] = (1, 2, 4)
    windows: tuple[int, ...] = (1 << 20, 4 << 20)
    direct: tuple[bool, ...] = (True, False)
    engines: tuple[str, ...] = ("psync",)
    pattern: str = "dense"
    repeat: int = 3
    fill: bool = False
    runtime: float = 0
    jobs: int = 1

    def __post_init__(self) -> None:
        if self.length < 1 << 20:
            raise ValueError("a run must move 1 MiB at least")
        lists = (self.threads, self.windows, self.direct, self.engines)
        if not (all(lists) and self.repeat > 0 and self.jobs > 0 and self.runtime >= 0):
            raise ValueError("nothing to measure")
        if not all(_fits(window) for window in self.windows):
            raise ValueError("a window must be a power of 2 from 4 KiB to 64 MiB")
        if unknown := set(self.engines) - set(ENGINES):
            raise ValueError(f"no engine {min(unknown)!r}")

    def settings(self, work: str, direct: bool) -> Iterator[BenchSetting]:
        """Yield every setting of one kind of work and one mode."""
        for threads, window, engine in itertools.product(self.threads, self.windows, self.engines):
            yield BenchSetting(work, direct, threads, window, engine, self.jobs)


def _fits(window: int) -> bool:
    return SMALLEST_WINDOW <= window <= 64 << 20 and window.bit_count() == 1


_LAST = 5
"""Runs that must agree."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Bytes per second: the slowest run, the middle one, the fastest."""

    minimum: float
    median: float
    maximum: float

    @classmethod
    def of(cls, rates: Sequence[float]) -> Self:
        """Summarize at least one rate."""
        return cls(min(rates), statistics.median(rates), max(rates))


@dataclass(frozen=True, slots=True)
class BenchSetting:
    """One combination: what is done, and how."""

    work: str
    direct: bool
    threads: int
    window: int
    engine: str = "psync"
    jobs: int = 1

    @property
    def worker_count(self) -> int:
        """Threads of each job, under the name that `savefmt.model.Pace` has for them."""
        return self.threads

    @property
    def io(self) -> IOOptions:
        """How to open an image for it."""
        return IOOptions(self.threads, self.direct, engine=self.engine)


@dataclass(frozen=True, slots=True)
class Latency:
    """How long requests took, in seconds: half of them, 99 of 100, and the longest.

    `count` is how many there were in all runs, None where fio does not tell.  Ours are no more
    than 3 % too long.
    """

    p50: float
    p99: float
    maximum: float
    count: int | None = None


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one combination gave.

    Attributes
    ----------
    work, direct, threads, window, engine
        The combination; `work` is ``write`` or ``read`` (of pages, as mapped-ram) or ``stream``
        (one sequential stream, written).
    length : int
        Bytes that each run moved.
    rate : Spread
        Bytes per second, the final sync included.
    jobs : int
        How many files at once, each with so many threads; `length` and rates are of all of them.
    runs : tuple of float
        The rate of every run, in the order they were made.
    cpu_seconds : float
        Of the middle run, user and system together.
    fio_rate : Spread or None
        fio with the same block size and as many requests at once, in turn with ours.
    fio_share : float or None
        Our median over fio's.
    latency : Latency or None
        Of the requests of all runs, each from the call to its end.
    fio_latency : Latency or None
        What fio calls completion latency (clat): the medians over its runs, and the longest.
    baseline_ratio : float or None
        Our median over that of the same combination in an earlier report.
    different : bool
        Some run was more than 1.5 times as fast as another: the median may lie between the two
        speeds that such a disk has.
    steady : bool or None
        Whether the last five runs agree, as SNIA's tests of disks want it: they lie within 20 %
        of their mean, and the line through them rises or falls by 10 % at most.  None where
        there are fewer.
    """

    work: str
    direct: bool
    threads: int
    window: int
    engine: str
    length: int
    rate: Spread
    runs: tuple[float, ...]
    cpu_seconds: float
    fio_rate: Spread | None = None
    fio_share: float | None = None
    baseline_ratio: float | None = None
    jobs: int = 1
    latency: Latency | None = None
    fio_latency: Latency | None = None

    COMPUTED: ClassVar = ("different", "steady")

    @property
    def setting(self) -> BenchSetting:
        """The combination alone."""
        return BenchSetting(
            self.work, self.direct, self.threads, self.window, self.engine, self.jobs
        )

    @property
    def different(self) -> bool:
        """Whether the median is of runs that differ too much."""
        return self.rate.maximum > DIFFERENT * self.rate.minimum

    @property
    def steady(self) -> bool | None:
        """Whether the last five runs agree."""
        last = self.runs[-_LAST:]
        if len(last) < _LAST:
            return None
        mean = statistics.fmean(last)
        rise = (_LAST - 1) * statistics.linear_regression(range(_LAST), last).slope
        return max(last) - min(last) <= 0.2 * mean and abs(rise) <= 0.1 * mean


@dataclass(frozen=True, slots=True)
class ComparedSetting:
    """One combination in two reports.

    Attributes
    ----------
    work, direct, threads, window, engine, jobs, length
        The combination, and the bytes that each run moved in both.
    before, after : Spread
        Bytes per second in the first and in the second report.
    ratio : float
        The second median over the first.
    apart : bool
        All runs of one report are faster than all of the other: more than noise.
    p99_before, p99_after : float or None
        Seconds that 99 of 100 requests took at most.
    """

    work: str
    direct: bool
    threads: int
    window: int
    engine: str
    jobs: int
    length: int
    before: Spread
    after: Spread
    ratio: float
    apart: bool
    p99_before: float | None = None
    p99_after: float | None = None


@dataclass(frozen=True, slots=True)
class BenchComparison:
    """Two reports side by side.

    Attributes
    ----------
    before, after : str
        The files.
    differences : tuple of str
        What else differs: machine, disk, kernel, pattern.
    settings : tuple of ComparedSetting
        What both measured with as many bytes, in the order of the second.
    only_before, only_after : int
        Measurements that the other report lacks.
    """

    before: str
    after: str
    differences: tuple[str, ...]
    settings: tuple[ComparedSetting, ...]
    only_before: int
    only_after: int


@dataclass(frozen=True, slots=True)
class BenchFacts:
    """The machine: what a rate depends on besides the settings."""

    savefmt: str
    python: str
    kernel: str
    machine: str
    cpu: str
    cpus: int
    memory_length: int
    file_system: str
    disk: str | None
    free_length: int
    fio: str | None
    date: str


@dataclass(frozen=True, slots=True)
class Subject:
    """What was measured, as far as the command lines that follow depend on it.

    Attributes
    ----------
    path : str
        A folder or an image.
    is_image : bool
        Which of the two.
    mapped : bool
        The image is mapped-ram, which libvirt reads through several channels.
    by_libvirt : bool
        The image has libvirt's header, so virsh can restore it.
    """

    path: str
    is_image: bool = False
    mapped: bool = True
    by_libvirt: bool = True


@dataclass(frozen=True, slots=True)
class Advice:
    """The settings to choose, why, and the command lines that use them."""

    direct: bool
    threads: int
    window: int
    engine: str
    reason: str
    commands: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BenchReport:
    """All that `savefmt.bench.bench` found.

    Attributes
    ----------
    path : str
        The folder written to, or the image read.
    is_image : bool
        Which of the two.
    options : BenchOptions
        As measured: without what the kernel or the file system refused.
    facts : BenchFacts
        The machine.
    cold : bool
        Whether the page cache held nothing of a file before it was read.
    notes : tuple of str
        What could not be measured, and why.
    measurements : tuple of Measurement
        In the order of the options.
    advice : Advice
        The conclusion.
    """

    path: str
    is_image: bool
    options: BenchOptions
    facts: BenchFacts
    cold: bool
    notes: tuple[str, ...]
    measurements: tuple[Measurement, ...]
    advice: Advice
