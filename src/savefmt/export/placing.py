"""Write the pages of an image to their places in another file, in one parallel pass."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter

from savefmt.errors import ConversionError
from savefmt.export.stretches import MemorySegment, perhaps_absent
from savefmt.format.configuration import IGNORE_SHARED
from savefmt.format.ram import BlockList
from savefmt.image import SaveImage
from savefmt.model import Finding, IOOptions, Layout
from savefmt.native.file import File
from savefmt.native.jobs import move_pages
from savefmt.native.pages import BlockPages, Watch
from savefmt.native.records import Scanner, Scatter
from savefmt.progress import Meter
from savefmt.reading.visitors import SkimVisitor, pass_over
from savefmt.reading.walk import PageSink
from savefmt.writing.clones import place_pages


@dataclass(frozen=True, slots=True)
class Placed:
    """A segment, and where in the target it begins."""

    segment: MemorySegment
    offset: int


@dataclass(frozen=True, slots=True)
class Written:
    """Pages that had content, and bytes of them that were cloned instead of copied."""

    present: int
    cloned: int = 0


def write_pages(
    image: SaveImage,
    target: File,
    placed: Sequence[Placed],
    io: IOOptions,
    meter: Meter,
    findings: list[Finding],
    watch: Watch | None = None,
) -> Written:
    """Write the pages of segments to their places.

    Parameters
    ----------
    image : SaveImage
        In any form.  A sequential one is read once from end to end.
    target : File
        Reads as zeros where the pages go; zero pages are not written.
    placed : sequence of Placed
        None overlapping in the target.
    io, meter
        As everywhere.
    findings : list of Finding
        Receives what the image turns out not to hold.
    watch : Watch, optional
        Looks at the pages.

    Returns
    -------
    Written
        What went there.
    """
    if image.layout is Layout.MAPPED_RAM:
        return _move(image, target, placed, io, meter, watch)
    return Written(_scatter(image, target, placed, io, meter, findings, watch))


def _move(
    image: SaveImage,
    target: File,
    placed: Sequence[Placed],
    io: IOOptions,
    meter: Meter,
    watch: Watch | None,
) -> Written:
    blocks = image.mapped.pages
    parts = [
        part_of(blocks[item.segment.block], item.segment.first, item.segment.count)
        for item in placed
    ]
    present = sum(part.present for part in parts)
    meter.total = present * image.page_size
    offsets = [item.offset for item in placed]
    moved = place_pages(image.file, parts, target, offsets, io, meter.update, watch=watch)
    return Written(present, moved.cloned)


def part_of(pages: BlockPages, first: int, count: int) -> BlockPages:
    """Return some of a block's pages as if they were a block of their own."""
    begin, shift = divmod(first, 8)
    bitmap = bytes(pages.bitmap[begin : (first + count + 7) // 8])
    if shift:
        bitmap = (int.from_bytes(bitmap, "little") >> shift).to_bytes(len(bitmap), "little")
    offset = pages.offset + first * pages.page_size
    return BlockPages(pages.name, count, pages.page_size, offset, bytearray(bitmap))


# --- sequential images ---


@dataclass(slots=True)
class _Stretch:
    """Pages of a block that go to one place."""

    block: int
    first: int
    count: int
    offset: int
    page_size: int
    pages: BlockPages | None = None

    @property
    def end(self) -> int:
        return self.first + self.count


@dataclass(frozen=True, slots=True)
class _Mirror:
    """Pages that the guest sees once more: a copy of part of a stretch."""

    stretch: _Stretch
    first: int
    count: int
    offset: int


def _scatter(
    image: SaveImage,
    target: File,
    placed: Sequence[Placed],
    io: IOOptions,
    meter: Meter,
    findings: list[Finding],
    watch: Watch | None,
) -> int:
    stretches, mirrors = _split(placed)
    visitor = _Placer(image, target, stretches, io, watch)
    try:
        pass_over(image, visitor, io, meter)
        visitor.finish()
    finally:
        visitor.abort()
    _copy_mirrors(target, mirrors, io)
    if IGNORE_SHARED in image.capabilities:
        _note_absent(image, stretches, findings)
    return sum(_pages_of(stretch).present for stretch in stretches) + sum(
        part.present for part in _mirrored(mirrors)
    )


class _Placer(SkimVisitor):
    """Sends pages to their places while a sequential stream goes by."""

    def __init__(
        self,
        image: SaveImage,
        target: File,
        stretches: Sequence[_Stretch],
        io: IOOptions,
        watch: Watch | None,
    ) -> None:
        super().__init__(image.path)
        self._watch = watch
        self._target = target
        self._stretches = stretches
        self._io = io
        self._scatter: Scatter | None = None

    def open_sink(self, scanner: Scanner, blocks: BlockList) -> PageSink:
        """Make the places."""
        for stretch in self._stretches:
            stretch.pages = BlockPages(
                blocks.blocks[stretch.block].name,
                stretch.count,
                stretch.page_size,
                stretch.offset,
                bytearray((stretch.count + 7) // 8),
            )
        self._scatter = Scatter(
            scanner,
            self._target,
            [_pages_of(stretch) for stretch in self._stretches],
            self._io,
            key=None,
            path=self._path,
            places=[(stretch.block, stretch.first) for stretch in self._stretches],
            watch=self._watch,
        )
        return self._scatter

    def finish(self) -> None:
        """Write out the rest."""
        if self._scatter is None:
            raise ConversionError("the stream holds device state and no RAM: nothing to export")
        self._scatter.close()

    def abort(self) -> None:
        """Stop the writers; harmless when repeated."""
        if self._scatter is not None:
            self._scatter.abort()


def _pages_of(stretch: _Stretch) -> BlockPages:
    if stretch.pages is None:
        raise AssertionError("a stream without RAM passed")
    return stretch.pages


def _split(placed: Sequence[Placed]) -> tuple[list[_Stretch], list[_Mirror]]:
    """Give each page one place, and tell where it is needed once more."""
    by_block: dict[int, list[_Stretch]] = {}
    mirrors: list[_Mirror] = []
    for item in placed:
        taken = by_block.setdefault(item.segment.block, [])
        for part, known in _against(taken, item):
            if known is None:
                taken.insert(bisect_right(taken, part.first, key=attrgetter("first")), part)
            else:
                mirrors.append(_Mirror(known, part.first, part.count, part.offset))
    return [stretch for _, taken in sorted(by_block.items()) for stretch in taken], mirrors


def _against(taken: list[_Stretch], item: Placed) -> list[tuple[_Stretch, _Stretch | None]]:
    """Cut a segment where stretches of its block begin and end, each part with its stretch."""
    segment = item.segment
    parts: list[tuple[_Stretch, _Stretch | None]] = []

    def add(first: int, end: int, known: _Stretch | None) -> None:
        if first < end:
            offset = item.offset + (first - segment.first) * segment.page_size
            part = _Stretch(segment.block, first, end - first, offset, segment.page_size)
            parts.append((part, known))

    at, end = segment.first, segment.first + segment.count
    number = max(bisect_right(taken, at, key=attrgetter("first")) - 1, 0)
    while at < end and number < len(taken) and taken[number].first < end:
        known = taken[number]
        number += 1
        if known.end > at:
            add(at, known.first, None)
            at = max(at, known.first)
            add(at, min(known.end, end), known)
            at = min(known.end, end)
    add(at, end, None)
    return parts


def _mirrored(mirrors: Sequence[_Mirror]) -> Iterator[BlockPages]:
    for mirror in mirrors:
        stretch = mirror.stretch
        yield part_of(_pages_of(stretch), mirror.first - stretch.first, mirror.count)


def _copy_mirrors(target: File, mirrors: Sequence[_Mirror], io: IOOptions) -> None:
    if mirrors:
        offsets = [mirror.offset for mirror in mirrors]
        parts = list(_mirrored(mirrors))
        move_pages(target, parts, io, lambda _: None, target=target, target_offsets=offsets)


def _note_absent(image: SaveImage, stretches: Sequence[_Stretch], findings: list[Finding]) -> None:
    """With x-ignore-shared, a block of which no page came was left out."""
    for number in sorted({stretch.block for stretch in stretches}):
        if not any(_pages_of(s).present for s in stretches if s.block == number):
            findings.append(perhaps_absent(image.head.blocks.blocks[number].idstr))
