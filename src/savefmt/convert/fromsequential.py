"""From a sequential stream: into a mapped-ram file, or onwards as it is."""

from __future__ import annotations

import os

from savefmt.convert.came import Came
from savefmt.convert.fit import Cuts, kept
from savefmt.convert.outcome import Outcome
from savefmt.convert.pipeimage import PipeImage
from savefmt.convert.planning import TargetForm
from savefmt.convert.sinks import NullSink, Sink
from savefmt.errors import ConversionError, located
from savefmt.format import ram
from savefmt.format.configuration import IGNORE_SHARED, MAPPED_RAM, Configuration
from savefmt.format.mappedram import Placement, encode_bitmap, place_all
from savefmt.format.ram import BlockList, pack_block_entry, pack_word
from savefmt.format.stream import STREAM_HEADER, Command, SectionHead
from savefmt.format.tee import Tee
from savefmt.format.wire import ByteOrder, ItemType, RamFlag
from savefmt.image import SaveImage
from savefmt.model import IOOptions
from savefmt.native.pages import BlockPages, SumKey
from savefmt.native.records import Scanner, Scatter
from savefmt.progress import Meter
from savefmt.reading.digests import DeviceDigests
from savefmt.reading.visitors import SkimVisitor, TallyVisitor, pass_over, scanner_for
from savefmt.reading.walk import Onlooker, StreamEnd, Take, Visitor, Walk
from savefmt.writing.imagefile import ImageOutput

_RETURN_PATH_COMMANDS = {1, 2}
"""OPEN_RETURN_PATH and PING: a file has nobody to answer to (format.md 6.1)."""

_UNPACKED_WRITERS = 4
"""Threads that write what is decompressed: more have nothing to do but hold windows, and the
memory is wanted for decompressing."""

Source = SaveImage | PipeImage


_GATHERED_LENGTH = 64 << 10


class MappedWriter(Onlooker):
    """Writes a mapped-ram stream while a sequential one goes by (format.md 6.1).

    Parameters
    ----------
    output : OutputFile or OutputVolume
        Fresh.
    offset : int
        Where the stream begins in it.
    io : IOOptions
        Window and threads.
    byte_order : str
        Of the bitmaps: that of the host that will restore.
    key : SumKey or None
        Sum the pages on the way.
    source : str
        For error messages.
    target : TargetForm
        Which commands to leave out, how blocks are named, and where pages go.
    """

    def __init__(
        self,
        output: ImageOutput,
        offset: int,
        io: IOOptions,
        byte_order: ByteOrder,
        key: SumKey | None,
        source: str,
        target: TargetForm,
    ) -> None:
        self._target = target
        self._dropped = {start for start, _ in target.cuts}
        self._file = output.file
        self._output = output
        self._at = offset
        self._gathered = bytearray()
        self._io = io
        self._byte_order = byte_order
        self._key = key
        self._source = source
        self._capabilities: tuple[str, ...] = ()
        self._placements: tuple[Placement, ...] = ()
        self._blocks: BlockList | None = None
        self._scanner: Scanner | None = None
        self._digests = DeviceDigests() if key is not None else None
        self._devices = self._digests or Onlooker()
        self.pages: list[BlockPages] = []
        self.scatter: Scatter | None = None

    def _write(self, data: bytes | memoryview) -> None:
        """Write everything except pages; sections may be many and small, so gather them."""
        self._gathered += data
        if len(self._gathered) >= _GATHERED_LENGTH:
            self._flush()

    def _flush(self) -> None:
        self._file.write(self._gathered, self._at)
        self._at += len(self._gathered)
        self._gathered.clear()

    def _go_to(self, offset: int) -> None:
        self._flush()
        self._at = offset

    def begin(self, configuration: Configuration | None) -> None:
        """Write the header, with the capability."""
        if configuration is None:
            raise ConversionError(
                "the stream has no configuration section (a machine type before 2.4), which "
                "must announce mapped-ram; the image has to stay sequential"
            )
        if IGNORE_SHARED in configuration.capabilities:
            raise ConversionError(
                "the guest was saved with x-ignore-shared, and this release does not write that "
                "together with mapped-ram, which QEMU loads from 11.0 on; the image has to stay "
                "sequential, or --shared BLOCK=FILE fills the memory in"
            )
        changed = configuration.with_capability(MAPPED_RAM, True)
        self._capabilities = changed.capabilities
        self._write(STREAM_HEADER + changed.pack())

    def command(self, command: Command) -> None:
        """Copy a command, except one that is useless in a mapped-ram stream."""
        if command.number in _RETURN_PATH_COMMANDS or command.advice is not None:
            return
        if command.offset in self._dropped:
            return
        self._devices.command(command)
        self._write(command.pack())

    def section(self, head: SectionHead) -> Take:
        """Copy a section."""
        digest = self._devices.section(head)
        self._write(head.pack())
        if digest is None:
            return self._write

        def both(piece: bytes | memoryview) -> None:
            digest(piece)
            self._write(piece)

        return both

    def ram_start(self, head: SectionHead, blocks: BlockList) -> Scatter:
        """Lay the page areas out and write the block list."""
        self._write(head.pack() + pack_word(blocks.total, RamFlag.MEM_SIZE))
        self._blocks = blocks
        listed = self._target.renamed(blocks.blocks)
        self._flush()
        self._placements = place_all(listed, self._at, blocks.page_size, align=self._target.align)
        # Deltas read pages back, which must not be behind the end of the file.
        end = self._placements[-1].next_offset if self._placements else self._at
        self._output.extend(self._at, end)
        for block, place in zip(listed, self._placements, strict=True):
            self._go_to(place.entry_offset)
            self._write(pack_block_entry(block.name, block.used_length, header=place.header))
            self.pages.append(
                BlockPages(
                    block.name,
                    block.page_count,
                    block.page_size,
                    place.pages_offset,
                    bytearray(block.bitmap_length),
                )
            )
            self._go_to(place.next_offset)
        self._scanner = scanner_for(blocks, note_named=True)
        self.scatter = Scatter(
            self._scanner,
            self._file,
            self.pages,
            self._io,
            key=self._key,
            path=self._source,
        )
        return self.scatter

    def section_end(self, head: SectionHead, footer: bytes, end: int) -> None:
        """End a section; of RAM there is nothing but the end marker."""
        self._devices.section_end(head, footer, end)
        if head.idstr == ram.IDSTR:
            self._write((b"" if head.announces else head.pack()) + ram.EOS_WORD)
        self._write(footer)

    def finish(self, end: StreamEnd) -> Outcome:
        """Write description and bitmaps when all pages are in."""
        if self.scatter is None or self._blocks is None:
            raise ConversionError("the stream holds no RAM, so it has no mapped-ram form")
        self._write(bytes([ItemType.EOF]))
        if end.description is not None:
            self._write(end.description.with_capabilities(self._capabilities).pack())
        self._flush()
        self.scatter.close()
        for pages, place in zip(self.pages, self._placements, strict=True):
            bitmap = encode_bitmap(pages.bitmap, self._byte_order)
            self._file.write(bitmap, place.bitmap_offset)
        tables = self.scatter.tables
        names = [block.idstr for block in self._blocks.blocks]
        return Outcome(
            dict(zip(names, tables, strict=True)) if tables is not None else None,
            self._digests.together if self._digests is not None else None,
            sum(pages.present for pages in self.pages),
            end=self._at,
            came=Came.of(self._blocks, self._scanner),
        )

    def abort(self) -> None:
        """Stop the writers; harmless when repeated."""
        if self.scatter is not None:
            self.scatter.abort()


def scatter_stream(
    source: Source,
    output: ImageOutput,
    offset: int,
    byte_order: ByteOrder,
    io: IOOptions,
    key: SumKey | None,
    meter: Meter,
    target: TargetForm,
) -> Outcome:
    """Write the mapped-ram form of a sequential image, in one pass.

    Parameters
    ----------
    source : SaveImage or PipeImage
        Sequential.
    output : OutputFile or OutputVolume
        Fresh.
    offset : int
        Where the stream begins in it.
    byte_order : str
        Of the bitmaps.
    io, key, meter
        As everywhere.
    target : TargetForm
        What to leave out of the stream, how blocks are named, and where pages go.

    Returns
    -------
    Outcome
        For verification.
    """
    writing = io if source.codec == "raw" else io.with_threads(_UNPACKED_WRITERS)
    name = os.fspath(source.filename)
    if isinstance(source, SaveImage):
        source.require_ram()
    writer = MappedWriter(output, offset, writing, byte_order, key, name, target)
    try:
        end = _pass(source, writer, io, meter)
        meter.phase = "finishing"
        return writer.finish(end)
    finally:
        writer.abort()


def copy_stream(
    source: Source, sink: Sink, io: IOOptions, key: SumKey | None, meter: Meter, cuts: Cuts = ()
) -> Outcome:
    """Send a sequential stream on as it is, checking it on the way.

    Parameters
    ----------
    source : SaveImage or PipeImage
        Sequential.
    sink : Sink
        Takes the decompressed stream, and nothing that follows it.
    io, key, meter
        As everywhere.
    cuts : tuple of (int, int)
        What to leave out of the stream.

    Returns
    -------
    Outcome
        For verification.
    """
    at = source.stream_offset

    def copy(piece: bytes | memoryview) -> None:
        nonlocal at
        for part in kept(piece, at, cuts):
            sink.write(part)
        at += len(piece)

    outcome, _ = _read(source, io, key, meter, None if isinstance(sink, NullSink) else copy)
    return outcome


def copy_stored(
    source: SaveImage, sink: Sink, io: IOOptions, key: SumKey | None, meter: Meter
) -> Outcome | None:
    """Pass a compressed stream on without compressing it again, once it is known to be sound.

    Parameters
    ----------
    source : SaveImage
        Sequential.
    sink : Sink
        Takes the compressed stream.
    io, key, meter
        As everywhere.

    Returns
    -------
    Outcome or None
        None, and nothing was sent, where more was compressed than the stream.
    """
    outcome, end = _read(source, io, key, meter)
    if end.followed or end.stored_end is None:
        return None
    for piece in source.file.chunks(source.stored_offset, end.stored_end, io):
        sink.write(piece)
    return outcome


def _read(
    source: Source, io: IOOptions, key: SumKey | None, meter: Meter, copy: Take | None = None
) -> tuple[Outcome, StreamEnd]:
    digests = DeviceDigests() if key is not None else None
    name = source.filename
    visitor = (
        TallyVisitor(key, name, digests, note_named=True)
        if key
        else SkimVisitor(name, digests, note_named=True)
    )
    end = _pass(source, visitor, io, meter, copy)
    counts = visitor.scanner.counts if visitor.scanner is not None else None
    sums = visitor.sums if isinstance(visitor, TallyVisitor) else None
    pages = counts.pages + counts.deltas if counts is not None else 0
    devices = digests.together if digests is not None else None
    came = Came.of(visitor.blocks, visitor.scanner)
    return Outcome(sums, devices, pages, came=came), end


def _pass(
    source: Source, visitor: Visitor, io: IOOptions, meter: Meter, copy: Take | None = None
) -> StreamEnd:
    if isinstance(source, SaveImage):
        return pass_over(source, visitor, io, meter, copy=copy)
    with located(source.filename), source.stream(io) as cursor:
        return Walk(
            Tee(cursor, copy) if copy is not None else cursor,
            visitor,
            lambda _: meter.update(source.received),
        ).run()
