"""Pages that no record of a sequential stream names, and what may explain that.

The first pass of a save sends every page, including pages of zeros. So a page without a record
is missing from the file, except in memory that QEMU leaves out on purpose.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from operator import itemgetter
from typing import Protocol

from savefmt.errors import FormatError, UnsupportedError
from savefmt.format.configuration import IGNORE_SHARED
from savefmt.format.ram import ListedBlock
from savefmt.format.thin import ThinMark
from savefmt.format.wire import pack_counted
from savefmt.frozen import dataclass
from savefmt.guest.needs import DeviceReader, GuestSource
from savefmt.model import PageRun, Section
from savefmt.native.index import BlockIndex
from savefmt.reading.pageindex import PageIndex
from savefmt.reading.walk import has_capability

Runs = Iterable[tuple[int, int]]
"""Numbers of the first page and behind the last, ascending."""

_BALLOON, _VIRTIO_MEM = "virtio-balloon", "virtio-mem"
_HINTING = b"\x05" + pack_counted(b"virtio-balloon-device/free-page-report")
"""Head of the subsection that a balloon sends only with free-page-hint."""


class PayloadReader(DeviceReader, Protocol):
    """Reads device sections whole, too."""

    def payload(self, section: Section) -> memoryview:
        """Return the payload of a section."""


class UnsentSource(GuestSource, Protocol):
    """A sequential image, walked to its end; `SaveImage` is one."""

    mark: ThinMark | None

    @property
    def devices(self) -> PayloadReader:
        """Device sections."""


@dataclass(frozen=True, slots=True)
class Unsent:
    """Pages of a block that no record names, all for the same reason.

    Attributes
    ----------
    block : str
        idstr of the block.
    pages : int
        All that the block has.
    first, count : int
        Number of the first page that no record names, and how many there are.
    reason : str
        What may explain it; empty where nothing does.
    proven : bool
        Whether the image proves that it is so.
    runs : tuple of (int, int)
        All of them, where that was asked for.
    """

    block: str
    pages: int
    first: int
    count: int
    reason: str = ""
    proven: bool = False
    runs: tuple[tuple[int, int], ...] = ()

    def __str__(self) -> str:
        why = f": {self.reason}" if self.reason else ""
        return (
            f"{self.count} of {self.pages} pages of {self.block!r} never came, "
            f"the first is page {self.first}{why}"
        )


def is_main_memory(idstr: str) -> bool:
    """Whether a block is main memory, a node or a DIMM, and no device's."""
    return "/" not in idstr and (idstr.endswith(".ram") or "." not in idstr)


def gaps_between(runs: Iterable[PageRun], count: int) -> Iterator[tuple[int, int]]:
    """Yield what of the first `count` pages is in none of the runs, which ascend."""
    at = 0
    for run in runs:
        if run.first > at:
            yield at, run.first
        at = run.first + run.count
    if at < count:
        yield at, count


def absent_runs(index: BlockIndex) -> Iterator[tuple[int, int]]:
    """Yield the pages of a block that no record names."""
    for run in index.runs():
        if run.kind == "absent":
            yield run.pages.first, run.pages.first + run.pages.count


def explain_absent(source: UnsentSource, index: PageIndex) -> list[Unsent]:
    """Tell why pages never came, and which, where an index of the stream is there."""
    return explain_unsent(source, map(absent_runs, index.blocks), keep=True)


def explain_unsent(
    source: UnsentSource, gaps: Iterable[Runs], *, keep: bool = False
) -> list[Unsent]:
    """Tell why pages never came.

    Parameters
    ----------
    source : UnsentSource
        The image.
    gaps : iterable of iterables of (int, int)
        Pages that no record names, of each block in the order of the list.  They may be many,
        so they are gone through once.
    keep : bool
        Return them, too.

    Returns
    -------
    list of Unsent
        One for each block and reason.
    """
    found: list[Unsent] = []
    excuses: _Excuses | None = None
    for block, runs in zip(source.head.blocks.blocks, gaps, strict=True):
        left = iter(runs)
        if (one := next(left, None)) is not None:
            excuses = excuses or _Excuses(source)
            found += excuses.sort(block, chain([one], left), keep)
    return found


def count_unsent(blocks: Iterable[ListedBlock], gaps: Iterable[Runs], reason: str) -> list[Unsent]:
    """Count pages that never came, where one reason holds for all of them."""
    found = []
    for block, runs in zip(blocks, gaps, strict=True):
        pages = _Pages(keep=False)
        for first, end in runs:
            pages.add(first, end)
        if pages.count:
            found.append(pages.unsent(block, reason, False))
    return found


class _Pages:
    """Counts pages for the same reason."""

    def __init__(self, keep: bool) -> None:
        self._keep = keep
        self._runs: list[tuple[int, int]] = []
        self.first = -1
        self.count = 0

    def add(self, first: int, end: int) -> None:
        self.first = first if self.first < 0 else self.first
        self.count += end - first
        if self._keep:
            self._runs.append((first, end))

    def unsent(self, block: ListedBlock, reason: str, proven: bool) -> Unsent:
        names = block.idstr, block.page_count, self.first, self.count
        return Unsent(*names, reason, proven, tuple(self._runs))


class _Excuses:
    def __init__(self, source: UnsentSource) -> None:
        self._source = source
        configuration = source.head.configuration
        self._old = configuration is None
        self._ignores = has_capability(configuration, IGNORE_SHARED)
        mark = source.mark
        self._in_base = {own for own, _ in mark.blocks} if mark is not None else set()
        try:
            self._hinted = any(map(self._hints, source.devices.sections))
            from savefmt.guest.plugged import find_virtio_mem  # which decodes devices

            self._plugged = find_virtio_mem(source, [])
            self._resizable = {
                section.idstr.rpartition("/")[0]
                for section in source.devices.sections
                if section.idstr.endswith("/" + _VIRTIO_MEM)
            }
        except (FormatError, UnsupportedError):
            self._hinted, self._plugged, self._resizable = False, {}, set()

    def _hints(self, section: Section) -> bool:
        if section.idstr.rpartition("/")[2] != _BALLOON:
            return False
        return _HINTING in bytes(self._source.devices.payload(section))

    def sort(self, block: ListedBlock, gaps: Runs, keep: bool) -> Iterator[Unsent]:
        """Yield the pages of a block by what explains that they never came."""
        unplugged, rest = _Pages(keep), _Pages(keep)
        plugged = self._plugged_runs(block)
        for first, end in gaps:
            for start, stop, inside in _split(first, end, plugged):
                (rest if inside else unplugged).add(start, stop)
        if unplugged.count:
            yield unplugged.unsent(block, "virtio-mem has not plugged them", True)
        if rest.count:
            yield rest.unsent(block, *self._reason(block, rest.count == block.page_count))

    def _reason(self, block: ListedBlock, whole: bool) -> tuple[str, bool]:
        if block.idstr in self._in_base:
            return "the memory of a thin image lies in its base", True
        if self._ignores and whole:
            return "QEMU may have left the block out, as x-ignore-shared asks for", False
        owner = block.idstr.rpartition("/")[0]
        if owner in self._resizable and owner not in self._plugged:
            return "virtio-mem may not have plugged them", False
        if self._hinted and is_main_memory(block.idstr):
            return "the guest may have called them free (free-page-hint of its balloon)", False
        if self._old:
            return "QEMU 1.5 left pages of zeros out, and nothing tells what saved this", False
        return "", False

    def _plugged_runs(self, block: ListedBlock) -> list[tuple[int, int]]:
        """Return the pages of a block that QEMU must have sent."""
        device = self._plugged.get(block.idstr.rpartition("/")[0])
        if device is None or len(device.region) != block.used_length:
            return [(0, block.page_count)]
        size = block.page_size
        return [(offset // size, (offset + length) // size) for offset, length in device.runs]


def _split(
    first: int, end: int, runs: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, int, bool]]:
    """Cut a stretch of pages where one of `runs`, which ascend, begins or ends."""
    number = bisect_right(runs, first, key=itemgetter(1))
    while first < end:
        start, stop = runs[number] if number < len(runs) else (end, end)
        if first < start:
            yield first, min(start, end), False
        if start < end:
            yield max(first, start), min(stop, end), True
        first, number = min(stop, end), number + 1
