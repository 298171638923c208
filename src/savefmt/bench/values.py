"""The frozen values of a measurement."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Sequence
from typing import Self

from savefmt.frozen import dataclass
from savefmt.model import IOOptions

ENGINES = ("psync", "io_uring")
"""What moves the bytes."""

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
        Runs of each combination.
    fill : bool
        Use the last 10 % of the disk, too.
    """

    length: int = 1 << 30
    threads: tuple[int, ...] = (1, 2, 4)
    windows: tuple[int, ...] = (1 << 20, 4 << 20)
    direct: tuple[bool, ...] = (True, False)
    engines: tuple[str, ...] = ("psync",)
    pattern: str = "dense"
    repeat: int = 3
    fill: bool = False

    def __post_init__(self) -> None:
        if self.length < 1 << 20:
            raise ValueError("a run must move 1 MiB at least")
        lists = (self.threads, self.windows, self.direct, self.engines)
        if not (all(lists) and self.repeat > 0):
            raise ValueError("nothing to measure")
        if unknown := set(self.engines) - set(ENGINES):
            raise ValueError(f"no engine {min(unknown)!r}")

    def combinations(self) -> Iterator[tuple[int, int, str]]:
        """Yield threads, window and engine of every setting of one mode."""
        yield from itertools.product(self.threads, self.windows, self.engines)


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

    @property
    def io(self) -> IOOptions:
        """As the engine takes it."""
        return IOOptions(self.threads, self.direct, self.window, self.engine)


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
    runs : tuple of float
        The rate of every run, in the order they were made.
    cpu_seconds : float
        Of the middle run, user and system together.
    fio_rate : Spread or None
        fio with the same block size and as many requests at once, in turn with ours.
    fio_share : float or None
        Our median over fio's.
    baseline_ratio : float or None
        Our median over that of the same combination in an earlier report.
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

    @property
    def setting(self) -> BenchSetting:
        """The combination alone."""
        return BenchSetting(self.work, self.direct, self.threads, self.window, self.engine)


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
