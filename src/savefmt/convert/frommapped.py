"""From a mapped-ram file: into a sequential stream, or to other places."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from savefmt.convert.fit import Cuts, kept
from savefmt.convert.outcome import Outcome
from savefmt.convert.planning import TargetForm
from savefmt.convert.sinks import Sink
from savefmt.format.configuration import MAPPED_RAM, Configuration
from savefmt.format.mappedram import Placement, encode_bitmap, place_all
from savefmt.format.ram import ListedBlock, pack_block_entry, pack_word
from savefmt.format.stream import STREAM_HEADER
from savefmt.format.thin import ThinMark
from savefmt.format.wire import RamFlag
from savefmt.frozen import replace
from savefmt.image import SaveImage
from savefmt.model import IOOptions
from savefmt.native.jobs import Emitter, move_pages
from savefmt.native.pages import SumKey, Table
from savefmt.progress import Meter
from savefmt.writing.imagefile import ImageOutput

_COPY_LENGTH = 1 << 20

Pieces = Iterator[bytes | None]
"""A stream in order; None means all page records."""


class SequentialForm:
    """The sequential form of a mapped-ram stream, piece by piece (format.md 6.2).

    Parameters
    ----------
    image : SaveImage
        A mapped-ram one.
    cuts : tuple of (int, int)
        What to leave out of the stream, by place in the source.
    names : mapping of bytes to bytes, optional
        Other names for some of its blocks.
    mark : ThinMark, optional
        What the description is to say in addition.
    patches : sequence of (int, bytes), optional
        Bytes that replace bytes of the same number behind the RAM, by place in the source,
        ascending.
    """

    def __init__(
        self,
        image: SaveImage,
        cuts: Cuts = (),
        *,
        names: Mapping[bytes, bytes] | None = None,
        mark: ThinMark | None = None,
        patches: Sequence[tuple[int, bytes]] = (),
    ) -> None:
        self._patches = patches
        self._image = image
        self._cuts = cuts
        self._names = names or {}
        self._mark = mark
        self._mapped = image.mapped

    def pieces(self) -> Pieces:
        """Yield the stream in order, None where all page records belong."""
        head = self._mapped
        configuration = self._image.configuration
        if configuration is None:
            raise AssertionError("mapped-ram without configuration")
        changed = configuration.with_capability(MAPPED_RAM, False)
        yield STREAM_HEADER + changed.pack()
        yield from self._copy(_configuration_end(configuration), head.ram.offset)
        yield head.ram.pack() + pack_word(head.blocks.total, RamFlag.MEM_SIZE)
        yield b"".join(
            pack_block_entry(
                self._names.get(block.name, block.name),
                block.used_length,
                guest_address=block.guest_address,
            )
            for block in head.blocks.blocks
        )
        at = head.list_end
        if head.last_part is not None:
            yield from self._copy(at, head.last_part)
            at = head.last_part
        yield None
        end = head.end
        for place, patch in self._patches:
            yield from self._copy(at, place)
            yield patch
            at = place + len(patch)
        yield from self._copy(at, end.eof + 1)
        description = end.description
        if description is not None:
            description = description.with_capabilities(changed.capabilities)
        if self._mark is not None:
            description = self._mark.put_into(description)
        if description is not None:
            yield description.pack()

    def _copy(self, start: int, end: int) -> Iterator[bytes]:
        return _copy(self._image, start, end, self._cuts)


def _copy(image: SaveImage, start: int, end: int, cuts: Cuts = ()) -> Iterator[bytes]:
    while start < end:
        length = min(_COPY_LENGTH, end - start)
        for piece in kept(image.file.read(length, start), start, cuts):
            yield bytes(piece)
        start += length


def _configuration_end(configuration: Configuration) -> int:
    return configuration.offset + configuration.length


def _outcome(image: SaveImage, tables: list[Table] | None) -> Outcome:
    blocks = image.head.blocks.blocks
    sums = None
    if tables is not None:
        sums = {
            block.idstr: table
            for block, table in zip(blocks, tables, strict=True)
            if not block.ignored
        }
    present = sum(pages.present for pages in image.mapped.pages)
    devices = None
    if sums is not None:
        from savefmt.reading.digests import digest_mapped

        devices = digest_mapped(image)[0].together
    return Outcome(sums, devices, present)


def emit_to_file(
    image: SaveImage,
    output: ImageOutput,
    offset: int,
    io: IOOptions,
    key: SumKey | None,
    meter: Meter,
    cuts: Cuts = (),
) -> Outcome:
    """Write the sequential form to a file, pages in parallel.

    Parameters
    ----------
    image : SaveImage
        A mapped-ram one.
    output : OutputFile or OutputVolume
        Fresh.
    offset : int
        Where the stream begins in it.
    io, key, meter
        As everywhere.
    cuts : tuple of (int, int)
        What to leave out of the stream, by place in the source.

    Returns
    -------
    Outcome
        For verification.
    """
    emitter = Emitter(image.file, image.mapped.pages, key)
    meter.total = emitter.length
    for piece in SequentialForm(image, cuts).pieces():
        if piece is None:
            emitter.write(output.file, offset, io, meter.update)
            offset += emitter.length
        else:
            output.file.write(piece, offset)
            offset += len(piece)
    return replace(_outcome(image, emitter.tables), end=offset)


def emit_to_sink(
    image: SaveImage,
    sink: Sink,
    io: IOOptions,
    key: SumKey | None,
    meter: Meter,
    cuts: Cuts = (),
) -> Outcome:
    """Send the sequential form to a sink, in order.

    Parameters
    ----------
    image : SaveImage
        A mapped-ram one.
    sink : Sink
        Takes the stream.
    io, key, meter
        As everywhere.
    cuts : tuple of (int, int)
        What to leave out of the stream, by place in the source.

    Returns
    -------
    Outcome
        For verification.
    """
    emitter = Emitter(image.file, image.mapped.pages, key)
    meter.total = emitter.length
    done = 0
    for piece in SequentialForm(image, cuts).pieces():
        if piece is not None:
            sink.write(piece)
            continue
        for chunk in emitter.chunks(io):
            sink.write(chunk)
            done += len(chunk)
            meter.update(done)
    return _outcome(image, emitter.tables)


def read_pages(image: SaveImage, io: IOOptions, key: SumKey | None, meter: Meter) -> Outcome:
    """Read all pages and write nothing; returns what `emit_to_file` would."""
    pages = image.mapped.pages
    meter.total = sum(block.present * block.page_size for block in pages)
    tables = move_pages(image.file, pages, io, meter.update, key=key)
    return _outcome(image, tables)


def relocate(
    image: SaveImage,
    output: ImageOutput,
    offset: int,
    io: IOOptions,
    key: SumKey | None,
    meter: Meter,
    target: TargetForm,
) -> Outcome:
    """Write the same mapped-ram stream at another offset, stale pages left out.

    Parameters
    ----------
    image : SaveImage
        A mapped-ram one.
    output : OutputFile or OutputVolume
        Fresh.
    offset : int
        Where the stream begins in it.
    io, key, meter
        As everywhere.
    target : TargetForm
        What to leave out of the stream, how blocks are named, and where pages go.

    Returns
    -------
    Outcome
        For verification.
    """
    from savefmt.writing.clones import place_pages

    mapped = image.mapped
    file = output.file
    blocks = mapped.blocks
    at = offset
    for piece in _copy(image, image.stream_offset, blocks.offset):
        file.write(piece, at)
        at += len(piece)
    listed = target.renamed(blocks.blocks)
    places, areas_end = _place_blocks(listed, at, image.page_size, target.align)
    output.extend(at, areas_end)
    for block, place in zip(listed, places, strict=True):
        header = block.header if place is None else place.header
        entry = pack_block_entry(
            block.name, block.used_length, guest_address=block.guest_address, header=header
        )
        file.write(entry, at)
        at = at + len(entry) if place is None else place.next_offset
    meter.total = sum(pages.present * pages.page_size for pages in mapped.pages)
    offsets = [place.pages_offset if place else 0 for place in places]
    moved = place_pages(image.file, mapped.pages, file, offsets, io, meter.update, key=key)
    for pages, place in zip(mapped.pages, places, strict=True):
        if place is not None:
            file.write(encode_bitmap(pages.bitmap, mapped.byte_order), place.bitmap_offset)
    for piece in _copy(image, mapped.list_end, mapped.end.end, target.cuts):
        file.write(piece, at)
        at += len(piece)
    return replace(_outcome(image, moved.sums), cloned=moved.cloned, end=at)


def relocated_length(image: SaveImage, offset: int, target: TargetForm) -> int:
    """Tell where the image ends that `relocate` writes."""
    mapped = image.mapped
    listed = target.renamed(mapped.blocks.blocks)
    at = offset + mapped.blocks.offset - image.stream_offset
    _, areas_end = _place_blocks(listed, at, image.page_size, target.align)
    return areas_end + sum(map(len, _copy(image, mapped.list_end, mapped.end.end, target.cuts)))


def sequential_length(image: SaveImage, cuts: Cuts) -> int:
    """Tell how long the stream is that `emit_to_file` writes."""
    records = Emitter(image.file, image.mapped.pages, None).length
    return records + sum(len(piece or b"") for piece in SequentialForm(image, cuts).pieces())


def _place_blocks(
    blocks: tuple[ListedBlock, ...], at: int, page_size: int, align: int
) -> tuple[list[Placement | None], int]:
    """Place blocks as QEMU does, and tell where the list with its page areas ends.

    An ignored block has no page area and no place.
    """
    places: list[Placement | None] = []
    for block in blocks:
        if block.ignored:
            places.append(None)
            at += len(
                pack_block_entry(
                    block.name,
                    block.used_length,
                    guest_address=block.guest_address,
                    header=block.header,
                )
            )
        else:
            (place,) = place_all((block,), at, page_size, align=align)
            places.append(place)
            at = place.next_offset
    return places, at
