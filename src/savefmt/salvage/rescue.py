"""A damaged image, opened as if it were a sound one that lacks some pages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from operator import attrgetter

from savefmt.errors import (
    FormatError,
    ImageIOError,
    NotASaveImageError,
    UnsupportedError,
    located,
)
from savefmt.format.configuration import MAPPED_RAM
from savefmt.format.cursor import FileCursor
from savefmt.format.ddrescue import MAX_LENGTH, bad_parts
from savefmt.format.envelope import Envelope, is_envelope
from savefmt.format.ram import BlockList
from savefmt.format.stream import STREAM_HEADER, read_header
from savefmt.format.wire import ItemType
from savefmt.frozen import dataclass, replace
from savefmt.model import Damage, IOOptions, MapExtent, Salvage, SalvagedBlock, StrPath
from savefmt.native.file import File, View
from savefmt.progress import Meter
from savefmt.reading.otherformats import HEAD_LENGTH
from savefmt.reading.pageindex import PageIndex
from savefmt.reading.source import OnSalvage, Source, open_file
from savefmt.reading.stored import StoredImage
from savefmt.reading.walk import has_capability
from savefmt.salvage.ranges import Ranges
from savefmt.salvage.readable import Readable
from savefmt.salvage.sequential import SequentialSalvage
from savefmt.salvage.sparse import SparseSalvage
from savefmt.salvage.splice import Splice

_STEP = 1 << 20
_STREAM_BEGINS = re.compile(
    re.escape(STREAM_HEADER)
    + b"[%c%c%c]" % (ItemType.CONFIGURATION, ItemType.START, ItemType.COMMAND)
)

_STILL = (
    "nothing shows whether the guest ran while it was saved; if it did, newer copies of some "
    "pages may be among what is lost (`virsh save` stops the guest first)"
)
_RAN = (
    "the guest ran while it was saved, so pages that came before the damage may be older than "
    "those that are lost"
)
_CONTENT = (
    "an uncompressed stream has no checksums: damage that lies inside of one page alone cannot "
    "be seen"
)


class Rescue:
    """What was made of a damaged image.

    Attributes
    ----------
    file : File
        Shows the image put right; the caller's.
    source : Source
        Where the image turned out to be.
    damages : list of Damage
        What was found before the stream.
    report : Salvage
        What was recovered; complete after `account`.
    page_size : int
        Bytes a page, from then on, too.
    """

    def __init__(
        self,
        file: File,
        source: Source,
        readable: Readable,
        work: SequentialSalvage | SparseSalvage,
        damages: list[Damage],
        origin: Callable[[int], int | None],
    ) -> None:
        self.file = file
        self.source = source
        self._readable = readable
        self._work = work
        self._origin = origin
        self.page_size = 1
        self._lost: dict[str, Ranges] = {}
        self.damages = damages
        self.report = Salvage((), (), 0.0)

    def account(self, image: StoredImage, told: OnSalvage | None = None) -> None:
        """Find out which pages are lost, once the image was opened on `file`.

        A sequential image is read whole for that.
        """
        index = None
        if isinstance(self._work, SequentialSalvage):
            index = image.memory.index(Meter(None))
        blocks = image.head.blocks
        numbered = self._lost_pages(index)
        self._lost = {
            block.idstr: gone for block, gone in zip(blocks.blocks, numbered, strict=True)
        }
        self.report = self._report(blocks, index)
        self.page_size = blocks.page_size
        if told is not None:
            told(self)

    def lost_bytes(self, block: str, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """Yield what of a part of a block is lost, from its first byte to behind its last."""
        size, end = self.page_size, offset + length
        for first, last in self._lost[block].within(offset // size, -(-end // size)):
            yield max(first * size, offset), min(last * size, end)

    def mark_lost(self, extents: Iterable[MapExtent]) -> Iterator[MapExtent]:
        """Cut lost pages out of extents, and tell where in the real file the others lie."""
        size = self.page_size
        for extent in extents:
            first, end = extent.start // size, (extent.start + extent.length) // size
            lost = self._lost[extent.block]
            parts = [(*part, "lost") for part in lost.within(first, end)]
            parts += [(*part, extent.kind) for part in lost.outside(first, end)]
            for start, stop, kind in sorted(parts):
                stride = extent.stride if kind == extent.kind else None
                offset = None
                if stride is not None and extent.offset is not None:
                    offset = self._origin(extent.offset + (start - first) * stride)
                length = (stop - start) * size
                yield MapExtent(extent.block, start * size, length, kind, offset, stride)

    def lost(self, block: str) -> Ranges:
        """Return the numbers of the pages of a block whose content is not known."""
        return self._lost[block]

    def _lost_pages(self, index: PageIndex | None) -> list[Ranges]:
        work = self._work
        if isinstance(work, SparseSalvage):
            return work.lost
        assert index is not None
        lost = []
        for pages, void in zip(index.blocks, work.sink.void, strict=True):
            gone = Ranges((page, page + 1) for page in sorted(void))
            if not work.ram_whole:
                for run in pages.runs():
                    if run.kind == "absent":
                        gone.add(run.pages.first, run.pages.first + run.pages.count)
            lost.append(gone)
        return lost

    def _report(self, blocks: BlockList, index: PageIndex | None) -> Salvage:
        work = self._work
        counted = tuple(
            SalvagedBlock(block.idstr, block.page_count, self._lost[block.idstr].total)
            for block in blocks.blocks
        )
        unlisted = work.unlisted if isinstance(work, SparseSalvage) else 0
        repeated = self._repeated(index)
        lost = sum(block.lost for block in counted)
        total = sum(block.used_length for block in blocks.blocks) + unlisted
        damages = [*self.damages, *work.damages, *self._unreadable()]
        notes = []
        if isinstance(work, SequentialSalvage):
            if not work.ram_whole:
                notes.append(_RAN if repeated else _STILL)
            if any(damage.kind == "damaged" for damage in damages):
                notes.append(_CONTENT)
        return Salvage(
            tuple(sorted(damages, key=attrgetter("offset"))),
            counted,
            1 - (lost * blocks.page_size + unlisted) / total if total else 0.0,
            unlisted,
            repeated,
            work.devices_whole,
            work.missing_devices,
            tuple(notes),
        )

    def _repeated(self, index: PageIndex | None) -> int:
        if index is None or not isinstance(self._work, SequentialSalvage):
            return 0
        distinct = sum(block.count for block in index.blocks) - sum(index.missing)
        return max(self._work.sink.records - distinct, 0)

    def _unreadable(self) -> list[Damage]:
        failed = self._readable.failed
        return [
            Damage(start, end, "unreadable", "the system cannot read this part of the file")
            if failed.overlap(start, end)
            else Damage(start, end, "listed", "the map file lists this part as not copied")
            for start, end in self._readable.bad
        ]


def open_salvaged(source: Source, io: IOOptions) -> Rescue:
    """Open a damaged image.

    Parameters
    ----------
    source : Source
        Of it.
    io : IOOptions
        How it is read later on.

    Returns
    -------
    Rescue
        With the file to read from.

    Raises
    ------
    NotASaveImageError, CorruptError, TruncatedError, UnsupportedError
        If not even a list of RAM blocks can be read.
    ImageIOError
        What the operating system refused, other than to read bad sectors.
    """
    bad = read_map(source.bad) if source.bad is not None else []
    with located(source.path), _opened(source, io, bad) as readable:
        start = _find_start(readable)
        if isinstance(start, _Start):
            return _salvage(readable, io, source, start)
    # An envelope that makes no sense is left out: the image begins at its stream.
    source = replace(source, offset=source.offset + start.end)
    with located(source.path), _opened(source, io, bad) as readable:
        rescue = _salvage(readable, io, source, _Start(0, None))
        rescue.damages.append(replace(start, offset=-start.end, end=0))
        return rescue


@contextmanager
def _opened(source: Source, io: IOOptions, bad: list[tuple[int, int]]) -> Iterator[Readable]:
    plain = replace(source, salvage=False, bad=None)
    with open_file(plain, replace(io, direct=False, engine="psync")) as file:
        parts = [(start - source.offset, end - source.offset) for start, end in bad]
        yield Readable(file, [(max(start, 0), end) for start, end in parts if end > 0])


def read_map(path: StrPath) -> list[tuple[int, int]]:
    """Return what a ddrescue map lists as not copied; see `bad_parts`."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            text = file.read(MAX_LENGTH + 1)
    except OSError as error:
        raise ImageIOError.from_os(error, path=path) from error
    with located(path):
        if len(text) > MAX_LENGTH:
            raise UnsupportedError(f"a map file of more than {MAX_LENGTH >> 20} MiB")
        return bad_parts(text)


@dataclass(frozen=True, slots=True)
class _Start:
    """Where the stream begins, and what stands before it."""

    offset: int
    envelope: Envelope | None


def _find_start(source: Readable) -> _Start | Damage:
    """Find where the stream begins; where its envelope makes no sense, tell how far that goes."""
    head = source.pread(HEAD_LENGTH, 0)
    message = "what stands in front of the stream makes no sense, and was left out"
    if is_envelope(head):
        cursor = FileCursor(source.pread, 0, source.length)
        try:
            return _Start(0, Envelope.read(cursor))
        except (FormatError, UnsupportedError) as error:
            message = f"{error.message}; the envelope was left out"
    elif head.startswith(STREAM_HEADER):
        return _Start(0, None)
    return Damage(0, _search(source), "damaged", message)


def _search(source: Readable) -> int:
    """Find the magic of a stream, and something that can follow it."""
    overlap = len(STREAM_HEADER) + 1
    for at in range(0, source.length, _STEP):
        data = source.pread(_STEP + overlap, at)
        if (match := _STREAM_BEGINS.search(data)) is not None and at + match.start():
            return at + match.start()
    raise NotASaveImageError(
        "no QEMU stream begins anywhere in this file, so nothing can be recovered; check that it "
        "is the right one",
        offset=0,
    )


def _salvage(source: Readable, io: IOOptions, named: Source, start: _Start) -> Rescue:
    envelope, splice = start.envelope, Splice()
    damages = []
    if envelope is not None:
        splice.put(envelope.pack_header(finished=True))
        splice.keep(splice.length, envelope.stream_offset)
        if not envelope.finished:
            damages.append(Damage(0, 16, "damaged", "the save never finished (Part magic)"))
    at = splice.length
    work: SequentialSalvage | SparseSalvage
    if _is_mapped(source, at):
        order = envelope.byte_order if envelope is not None else None
        finished = envelope is not None and envelope.finished
        work = SparseSalvage(
            source, at, splice, order=order, finished=finished, origin=named.offset
        )
    else:
        work = SequentialSalvage(source, at, splice)
    work.run()
    file = _show(source.file, splice.view(), io)
    return Rescue(file, named, source, work, damages, splice.origin)


def _is_mapped(source: Readable, at: int) -> bool:
    try:
        configuration = read_header(FileCursor(source.pread, at, source.length))
    except (FormatError, UnsupportedError):
        return False
    return has_capability(configuration, MAPPED_RAM)


def _show(base: File, view: View, io: IOOptions) -> File:
    """Open the same file as something else."""
    if base.view is not None:
        view = view.through(base.view)
    return File(base.descriptor, path=base.path, engine=io.engine, view=view)
