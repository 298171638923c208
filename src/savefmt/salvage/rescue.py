"""A damaged image, opened like a sound one that lacks some pages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter
from typing import TYPE_CHECKING, Protocol

from savefmt.errors import (
    CorruptError,
    FormatError,
    ImageIOError,
    LostMemoryError,
    NotASaveImageError,
    UnsupportedError,
    located,
)
from savefmt.format.configuration import MAPPED_RAM
from savefmt.format.cursor import FileCursor
from savefmt.format.ddrescue import MAX_LENGTH, bad_parts
from savefmt.format.envelope import Envelope, is_envelope
from savefmt.format.ram import BlockList
from savefmt.format.salvagemark import put_mark
from savefmt.format.stream import STREAM_BEGINS, STREAM_HEADER, read_header
from savefmt.frozen import dataclass, replace
from savefmt.model import (
    Damage,
    IOOptions,
    MapExtent,
    Repair,
    Salvage,
    SalvagedBlock,
    SalvageMark,
    StrPath,
)
from savefmt.native.file import File, View
from savefmt.progress import Meter
from savefmt.reading.otherformats import HEAD_LENGTH
from savefmt.reading.pageindex import PageIndex
from savefmt.reading.source import OnSalvage, Source, open_file
from savefmt.reading.stored import StoredImage
from savefmt.reading.trueheader import find_true_header
from savefmt.reading.walk import StreamEnd, has_capability
from savefmt.salvage.chains import NO_DOUBTS, Doubts, Expected
from savefmt.salvage.ranges import Ranges
from savefmt.salvage.readable import Readable
from savefmt.salvage.sequential import SequentialSalvage
from savefmt.salvage.sparse import SparseSalvage
from savefmt.salvage.splice import Splice

if TYPE_CHECKING:  # most images are not compressed
    from savefmt.salvage.unpacking import Unpacking

_STEP = 1 << 20
_LAST_CODEC_FORMAT = 5

_STILL = (
    "nothing shows whether the guest ran while it was saved; if it did, newer copies of some "
    "pages may be among what is lost (`virsh save` stops the guest first)"
)
_RAN = (
    "the guest ran while it was saved, so pages that came before the damage may be older than "
    "those that are lost"
)
_CUT_OUT = (
    "no damage is visible, but QEMU sends every page: whole records are missing from the file"
)
_CONTENT = (
    "an uncompressed stream has no checksums: damage that lies inside of one page alone cannot "
    "be seen"
)
_PLACES = (
    "a mapped-ram image has no checksums, and nothing between its pages: damage among them cannot "
    "be seen"
)
_TAKEN = (
    "the image has what was unpacked of the damaged part before the damage was noticed, as "
    "--unproven asks for: its checksum is wrong or was not reached, so any page of it may "
    "differ from the guest's"
)
_UNPROVEN = (
    "the checksum of the last compressed part is lost with its end: damage to what was unpacked "
    "of it cannot be seen"
)


class NeverSent(Protocol):
    """Pages that no record names, and why; `guest.unsent.Unsent` is one."""

    @property
    def block(self) -> str:
        """The name of their block."""

    @property
    def runs(self) -> Sequence[tuple[int, int]]:
        """Their numbers."""

    @property
    def reason(self) -> str:
        """What may explain it, if anything does."""

    @property
    def proven(self) -> bool:
        """Whether that is proven."""


Explain = Callable[[PageIndex], Sequence[NeverSent]]


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
    codec : str or None
        What the stream was compressed with.
    report : Salvage
        What was recovered; complete after `account`.
    page_size : int
        Bytes a page, from then on, too.
    """

    def __init__(
        self,
        file: File,
        task: _Task,
        readable: Readable,
        work: SequentialSalvage | SparseSalvage,
        damages: list[Damage],
        splice: Splice,
    ) -> None:
        self.file = file
        self.source = task.source
        self._io = task.io
        self._readable = readable
        self._work = work
        self._splice = splice
        self._base = readable.file.view
        self.page_size = 1
        self._lost: dict[str, Ranges] = {}
        self.damages = damages
        self.codec: str | None = None
        self.report = Salvage((), (), 0.0)

    def account(self, image: StoredImage, explain: Explain, told: OnSalvage | None = None) -> None:
        """Find out which pages are lost, once the image was opened on `file`.

        A sequential image is read whole for that.

        Parameters
        ----------
        image : StoredImage
            The image.
        explain : callable
            Tells why pages of it never came.
        told : callable, optional
            Gets this rescue.
        """
        index: PageIndex | None = None
        unsent: Sequence[NeverSent] = ()
        if isinstance(self._work, SequentialSalvage):
            index = self._index_of(image, self._work)
            unsent = explain(index)
        blocks = image.head.blocks
        numbered = self._lost_pages(unsent, [block.idstr for block in blocks.blocks])
        self._lost = {
            block.idstr: gone for block, gone in zip(blocks.blocks, numbered, strict=True)
        }
        self.report = self._report(blocks, index, unsent)
        self.page_size = blocks.page_size
        if told is not None:
            told(self)

    def judge(self, image: StoredImage, explain: Explain) -> bool:
        """Leave out records that may not be what they seem; tell whether `file` is another now.

        Without visible damage, pages that never came are all that shows that some were cut out.
        """
        if not isinstance(self._work, SequentialSalvage) or not self._work.ram_whole:
            return False
        index = self._index_of(image, self._work)
        names = [block.idstr for block in image.head.blocks.blocks]
        excused, missing = ([Ranges() for _ in names] for _ in range(2))
        for one in explain(index):
            for run in one.runs:
                (excused if one.reason else missing)[names.index(one.block)].add(*run)
        if not any(map(len, missing)):
            return False
        in_order = image.ending is not None and image.ending.ram_end is not None
        expected = Expected([pages.count for pages in index.blocks], excused, missing, in_order)
        other = open_salvaged(self.source, self._io, expected)
        self.file, self._readable = other.file, other._readable
        self._work, self._splice, self._base = other._work, other._splice, other._base
        return True

    @staticmethod
    def _index_of(image: StoredImage, work: SequentialSalvage) -> PageIndex:
        if image.head.blocks.page_size != work.sink.elements.page_size:
            raise CorruptError(
                "the damage hides how long the guest's pages are, so nothing of them can be "
                "told for sure"
            )
        return image.memory.index(Meter(None))

    def marked(self, end: StreamEnd) -> File | None:
        """Show the image, which ends there, with a mark of what is lost; None where nothing is."""
        if self.report.sound:
            return None
        report = self.report
        counts = {block.idstr: block.lost for block in report.blocks if block.lost}
        mark = SalvageMark(counts, report.unlisted, report.devices_whole)
        self._splice.cut(end.eof + 1)
        self._splice.put(put_mark(mark, end.description).pack())
        self.file = _show(self.file.descriptor, self._base, self._splice, self._io, self.source)
        return self.file

    def lost_bytes(self, block: str, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """Yield what of a part of a block is lost, from its first byte to behind its last."""
        size, end = self.page_size, offset + length
        for first, last in self._lost[block].within(offset // size, -(-end // size)):
            yield max(first * size, offset), min(last * size, end)

    def refuse_lost(self, block: str, offset: int, length: int) -> None:
        """Raise LostMemoryError if any of a part of a block is lost."""
        for first, _ in self.lost_bytes(block, offset, length):
            raise LostMemoryError(f"{first:#x} in block {block!r} is on a lost page")

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
                if self.codec is not None:
                    stride = None
                if stride is not None and extent.offset is not None:
                    offset = self._splice.origin(extent.offset + (start - first) * stride)
                length = (stop - start) * size
                yield MapExtent(extent.block, start * size, length, kind, offset, stride)

    def lost(self, block: str) -> Ranges:
        """Return the numbers of the pages of a block whose content is not known."""
        return self._lost[block]

    def _lost_pages(self, unsent: Iterable[NeverSent], names: list[str]) -> list[Ranges]:
        work = self._work
        if isinstance(work, SparseSalvage):
            return work.lost
        lost = [Ranges((page, page + 1) for page in sorted(void)) for void in work.sink.void]
        for one in unsent:
            # A reason that is not proven counts only where nothing else explains it.
            if not one.proven and not (work.ram_whole and one.reason):
                for first, end in one.runs:
                    lost[names.index(one.block)].add(first, end)
        return lost

    def _report(
        self, blocks: BlockList, index: PageIndex | None, unsent: Iterable[NeverSent]
    ) -> Salvage:
        work = self._work
        counted = tuple(
            SalvagedBlock(block.idstr, block.page_count, self._lost[block.idstr].total)
            for block in blocks.blocks
        )
        unlisted = work.unlisted if isinstance(work, SparseSalvage) else 0
        repeated = self._repeated(index)
        lost = sum(block.lost for block in counted)
        total = sum(block.used_length for block in blocks.blocks) + unlisted
        # In a compressed stream offsets would count bytes that are in no file.
        inner = [*work.damages, *self._unreadable()] if self.codec is None else []
        damages = [*self.damages, *inner]
        notes = []
        if isinstance(work, SequentialSalvage):
            if work.ram_whole:
                notes += [str(one) for one in unsent if one.reason and not one.proven]
                notes += [_CUT_OUT] if lost else []
            if lost or not work.ram_whole:
                notes.append(_RAN if repeated else _STILL)
            if any(damage.kind == "damaged" for damage in damages):
                notes.append(_CONTENT)
        elif damages:
            notes.append(_PLACES)
        if self.codec is not None and any(damage.kind == "cut" for damage in self.damages):
            notes.append(_UNPROVEN)
        if self.source.unproven and any(damage.kind == "damaged" for damage in self.damages):
            notes.append(_TAKEN)
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


@dataclass(frozen=True, slots=True)
class _Task:
    """Where the image is, how it is read later on, and what of it is expected."""

    source: Source
    io: IOOptions
    expected: Expected | None


def open_salvaged(source: Source, io: IOOptions, expected: Expected | None = None) -> Rescue:
    """Open a damaged image.

    Parameters
    ----------
    source : Source
        Of it.
    io : IOOptions
        How it is read later on.
    expected : Expected, optional
        What the stream should hold, where records seem to be cut out of it.

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
    task = _Task(source, io, expected)
    with located(source.path), _opened(source, io, bad) as readable:
        codec = _outer_codec(readable)
        if codec is not None:
            return _unpacked(readable, codec, task)
        start = _find_start(readable)
        if isinstance(start, _Start):
            return _salvage(readable, task, start)
    # An invalid envelope is left out: the image then begins at its stream.
    source = replace(source, offset=source.offset + start.end)
    with located(source.path), _opened(source, io, bad) as readable:
        rescue = _salvage(readable, replace(task, source=source), _Start(0, None))
        rescue.damages.append(replace(start, offset=-start.end, end=0))
        return rescue


@contextmanager
def _opened(source: Source, io: IOOptions, bad: list[tuple[int, int]]) -> Iterator[Readable]:
    plain = replace(source, salvage=False, bad=None, unproven=False)
    with open_file(plain, replace(io, direct=False, engine="psync")) as file:
        parts = [(start - source.offset, end - source.offset) for start, end in bad]
        yield Readable(file, [(max(start, 0), end) for start, end in parts if end > 0])


def read_map(path: StrPath) -> list[tuple[int, int]]:
    """Return what a ddrescue map lists as not copied; see `bad_parts`."""
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_LENGTH + 1).decode("ascii", "replace")
    except OSError as error:
        raise ImageIOError.from_os(error, path=path) from error
    with located(path):
        if len(text) > MAX_LENGTH:
            raise UnsupportedError(f"a map file of more than {MAX_LENGTH >> 20} MiB")
        return bad_parts(text)


@dataclass(frozen=True, slots=True)
class _Start:
    """Where the stream begins, and what is before it."""

    offset: int
    envelope: Envelope | None


def _find_start(source: Readable) -> _Start | Damage:
    """Find where the stream begins; if its envelope is invalid, tell how long that is."""
    head = source.pread(HEAD_LENGTH, 0)
    message = "what stands in front of the stream makes no sense, and was left out"
    if is_envelope(head):
        right = find_true_header(source.pread, source.length)
        if right is not None and any(one.repair is Repair.LENGTH for one in right.findings):
            raise right.error  # the salvaged image begins with the file's own header
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
        if (match := STREAM_BEGINS.search(data)) is not None and at + match.start():
            return at + match.start()
    raise NotASaveImageError(
        "no QEMU stream begins anywhere in this file, so nothing can be recovered; check that it "
        "is the right one",
        offset=0,
    )


def _outer_codec(source: Readable) -> str | None:
    """Tell what a file as a whole is compressed with."""
    head = source.pread(HEAD_LENGTH, 0)
    return None if is_envelope(head) or head.startswith(STREAM_HEADER) else _codec_of(head)


def _codec_of(head: bytes) -> str | None:
    from savefmt.codec.registry import detect

    return detect(head)


def _unpacked(source: Readable, codec: str, task: _Task) -> Rescue:
    """Salvage what comes out of a file that is compressed as a whole."""
    from savefmt.salvage.unpacking import Unpacking

    unpacking = Unpacking(source, codec, 0, unproven=task.source.unproven)
    with unpacking.run(task.io) as plain:
        _refuse_unproven(unpacking, plain, codec)
        inner = Readable(plain, unpacking.bad)
        start = _find_start(inner)
        if not isinstance(start, _Start):
            raise CorruptError(f"inside of the {codec} data: {start.message}")
        rescue = _salvage(inner, task, start)
    return _packed(rescue, codec, unpacking.damages)


def _refuse_unproven(unpacking: Unpacking, plain: File, codec: str) -> None:
    """Say why there is not even a head, where the first checksum covers it and is wrong."""
    if unpacking.damages and (unpacking.bad.overlap(0, 1) or not plain.length):
        raise CorruptError(
            f"the {codec} data are damaged, and one checksum covers all from their beginning "
            f"to there, so nothing of it is proven: {unpacking.damages[0].message}; --unproven "
            "takes what was unpacked anyway"
        )


def _packed(rescue: Rescue, codec: str, damages: list[Damage]) -> Rescue:
    """Say what was wrong with the compressed bytes."""
    rescue.damages = [*damages, *rescue.damages]
    rescue.codec = codec
    return rescue


def _salvage(source: Readable, task: _Task, start: _Start) -> Rescue:
    envelope, splice = start.envelope, Splice()
    damages = []
    if envelope is not None:
        if not envelope.finished:
            damages.append(Damage(0, 16, "damaged", "the save never finished (Part magic)"))
        at = envelope.stream_offset
        codec = _stream_codec(source, envelope, at)
        if codec is not None:
            return _inner(source, codec, task, envelope, damages)
        splice.put(envelope.pack_header(finished=True))
        splice.keep(splice.length, at)
    return _streamed(source, task, envelope, splice, splice.length, damages)


def _stream_codec(source: Readable, envelope: Envelope, at: int) -> str | None:
    """Tell what the stream behind an envelope is compressed with."""
    head = source.pread(HEAD_LENGTH, at)
    if head.startswith(STREAM_HEADER[:4]):
        return None
    from savefmt.codec.registry import codec_for_format

    if 0 < envelope.stream_format <= _LAST_CODEC_FORMAT:
        return codec_for_format(envelope.stream_format).name
    return _codec_of(head)


def _inner(
    source: Readable,
    codec: str,
    task: _Task,
    envelope: Envelope,
    damages: list[Damage],
) -> Rescue:
    """Salvage a compressed stream behind its envelope, which then says that it is raw."""
    from savefmt.salvage.unpacking import Unpacking

    unpacking = Unpacking(source, codec, envelope.stream_offset, unproven=task.source.unproven)
    with unpacking.run(task.io) as plain:
        _refuse_unproven(unpacking, plain, codec)
        splice = Splice()
        plain_envelope = replace(envelope, finished=True, format=0)
        splice.put(plain_envelope.pack())
        inner = Readable(plain, unpacking.bad)
        rescue = _streamed(inner, task, envelope, splice, 0, damages)
    return _packed(rescue, codec, unpacking.damages)


def _streamed(
    source: Readable,
    task: _Task,
    envelope: Envelope | None,
    splice: Splice,
    at: int,
    damages: list[Damage],
) -> Rescue:
    work: SequentialSalvage | SparseSalvage
    if _is_mapped(source, at):
        order = envelope.byte_order if envelope is not None else None
        finished = envelope is not None and envelope.finished
        work = SparseSalvage(
            source, at, splice, order=order, finished=finished, origin=task.source.offset
        )
    else:
        work = SequentialSalvage(source, at, splice, _doubts(source, at, task.expected))
    work.run()
    file = _show(source.file.descriptor, source.file.view, splice, task.io, task.source)
    return Rescue(file, task, source, work, damages, splice)


def _doubts(source: Readable, at: int, expected: Expected | None) -> Doubts:
    """Look over a stream for records that may not be what they seem."""
    if expected is None:
        return NO_DOUBTS
    seen = Doubts(expected)
    SequentialSalvage(source, at, Splice(), seen).run()
    return Doubts(expected, seen)


def _is_mapped(source: Readable, at: int) -> bool:
    try:
        configuration = read_header(FileCursor(source.pread, at, source.length))
    except (FormatError, UnsupportedError):
        return False
    return has_capability(configuration, MAPPED_RAM)


def _show(
    descriptor: int, base: View | None, splice: Splice, io: IOOptions, source: Source
) -> File:
    """Open the same file, or what is shown of it, as something else."""
    view = splice.view()
    if base is not None:
        view = view.through(base)
    return File(descriptor, path=source.path, engine=io.engine, view=view)
