"""The skeleton of a mapped-ram stream: its sections, page areas, bitmaps and end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from savefmt.errors import CorruptError
from savefmt.format import ram
from savefmt.format.cursor import Cursor, FileCursor
from savefmt.format.mappedram import decode_bitmap, tell_bitmap_order
from savefmt.format.ram import BlockList, ListedBlock
from savefmt.format.stream import Command, SectionHead
from savefmt.format.wire import ByteOrder
from savefmt.frozen import dataclass
from savefmt.model import Finding, RamBlock, Repair, Severity
from savefmt.native.file import File
from savefmt.native.pages import BlockPages, is_zero
from savefmt.reading.walk import Onlooker, StreamEnd, Walk


@dataclass(frozen=True, slots=True)
class MappedStream:
    """The parts of a mapped-ram stream.

    Attributes
    ----------
    blocks : BlockList
        What its RAM consists of.
    ram : SectionHead
        The START of `ram`.
    list_end : int
        Behind the last page area: the end marker of the START section stands here.
    commands : tuple of Command
        Those behind the block list.
    last_part : int or None
        Where the end marker of the last RAM section stands; None where START is the only one.
    pages : tuple of BlockPages
        In the order of the list; ignored blocks have no pages.
    byte_order : str
        Of the bitmaps.
    end : StreamEnd
        The rest.
    """

    blocks: BlockList
    ram: SectionHead
    list_end: int
    commands: tuple[Command, ...]
    last_part: int | None
    pages: tuple[BlockPages, ...]
    byte_order: ByteOrder
    end: StreamEnd


def read_mapped(
    file: File,
    cursor: FileCursor,
    envelope_order: ByteOrder | None,
    findings: list[Finding] | None,
) -> MappedStream:
    """Read everything around the page areas.

    Parameters
    ----------
    file : File
        The image.
    cursor : FileCursor
        At the magic.
    envelope_order : str or None
        Byte order of the envelope: the same host wrote the bitmaps.  Without an envelope they
        have to tell theirs.
    findings : list of Finding or None
        Receives oddities.

    Returns
    -------
    MappedStream
        Complete.
    """
    skeleton = _Skeleton()
    end = Walk(cursor, skeleton, findings=findings, length=cursor.end).run()
    if skeleton.ram is None or skeleton.blocks is None:
        raise CorruptError("the mapped-ram stream has no RAM", offset=end.eof)
    order, pages = _read_bitmaps(file, skeleton.blocks, envelope_order, findings)
    return MappedStream(
        skeleton.blocks,
        skeleton.ram,
        skeleton.blocks.end,
        tuple(skeleton.commands),
        skeleton.last_part,
        pages,
        order,
        end,
    )


class EndMarkers:
    """Takes the RAM sections of a mapped-ram stream: nothing but an end marker is in them."""

    def take(self, cursor: Cursor) -> Iterator[int]:
        """Consume one."""
        at = cursor.tell()
        word = cursor.read(len(ram.EOS_WORD), "the end marker of a RAM section")
        if word != ram.EOS_WORD:
            raise CorruptError(
                f"the mapped-ram stream has RAM word {int.from_bytes(word, 'big'):#x} where "
                "only the end marker may be",
                offset=at,
            )
        return iter((cursor.tell(),))


class _Skeleton(Onlooker):
    """Notes where items stand."""

    def __init__(self) -> None:
        self.ram: SectionHead | None = None
        self.blocks: BlockList | None = None
        self.commands: list[Command] = []
        self.last_part: int | None = None

    def command(self, command: Command) -> None:
        """Note one."""
        if self.ram is not None:
            self.commands.append(command)

    def ram_start(self, head: SectionHead, blocks: BlockList) -> EndMarkers:
        """Note the list."""
        self.ram = head
        self.blocks = blocks
        return EndMarkers()

    def section_end(self, head: SectionHead, footer: bytes, end: int) -> None:
        """Note where the last part of RAM ended."""
        if head.idstr == ram.IDSTR and not head.announces:
            self.last_part = end - len(footer) - len(ram.EOS_WORD)


def ram_blocks(listed: BlockList, pages: Sequence[BlockPages] | None) -> dict[str, RamBlock]:
    """Return the blocks of a stream by idstr, pages counted where they can be."""
    own = pages if pages is not None else [None] * len(listed.blocks)
    return {
        block.idstr: RamBlock(
            block.idstr,
            block.used_length,
            block.page_size,
            None if these is None or block.ignored else these.present,
            None if these is None or block.ignored else these.count - these.present,
            block.ignored,
            block.guest_address,
        )
        for block, these in zip(listed.blocks, own, strict=True)
    }


def _read_bitmaps(
    file: File,
    blocks: BlockList,
    envelope_order: ByteOrder | None,
    findings: list[Finding] | None,
) -> tuple[ByteOrder, tuple[BlockPages, ...]]:
    raw = [
        bytearray()
        if block.header is None or block.ignored
        else file.read_array(block.bitmap_length, block.header.bitmap_offset)
        for block in blocks.blocks
    ]
    order = bitmap_order(file.extents, file.read, blocks.blocks, raw, envelope_order)
    return order, tuple(
        _block_pages(block, bitmap, order, findings)
        for block, bitmap in zip(blocks.blocks, raw, strict=True)
    )


def bitmap_order(
    extents: Callable[[int, int], Iterable[tuple[int, int]]],
    pread: Callable[[int, int], bytes],
    blocks: Sequence[ListedBlock],
    raw: Sequence[bytearray],
    envelope: ByteOrder | None,
) -> ByteOrder:
    """Let the bitmaps and their pages say who wrote them, the largest first.

    Holes in the file are asked before the content of pages: that costs more, and is left
    alone where a copy filled the holes.

    Parameters
    ----------
    extents, pread : callable
        As methods of `File`: the data between two offsets, without holes, and the bytes at an
        offset.
    blocks : sequence of ListedBlock
        Of the stream.
    raw : sequence of bytearray
        The bitmap of each as it is in the file; empty if it has none.
    envelope : str or None
        Byte order of the envelope.
    """
    pairs = sorted(zip(blocks, raw, strict=True), key=lambda pair: -pair[0].used_length)
    held = [(block, block.header, bitmap) for block, bitmap in pairs if block.header and bitmap]

    def place(number: int, page: int) -> tuple[int, int]:
        block, header, _ = held[number]
        return header.pages_offset + page * block.page_size, block.page_size

    def is_stored(number: int, page: int) -> bool:
        offset, length = place(number, page)
        return any(extents(offset, offset + length))

    def has_content(number: int, page: int) -> bool:
        offset, length = place(number, page)
        return not is_zero(pread(length, offset))

    bitmaps = [(bitmap, block.page_count) for block, _, bitmap in held]
    try:
        return tell_bitmap_order(bitmaps, (is_stored, has_content), envelope) or "little"
    except CorruptError as error:
        error.offset = held[0][1].bitmap_offset
        raise


def _block_pages(
    block: ListedBlock, bitmap: bytearray, order: ByteOrder, findings: list[Finding] | None
) -> BlockPages:
    if block.header is None or block.ignored:
        return BlockPages(block.name, 0, block.page_size, 0, bitmap)
    strays = decode_bitmap(bitmap, block.page_count, order)
    if findings is not None and strays:
        findings.append(
            Finding(
                "mappedram.stray-bits",
                Severity.WARNING,
                f"bits behind the last page of {block.idstr!r} are set",
                block.header.bitmap_offset,
                "QEMU ignores them",
                Repair.STRAY_BITS,
            )
        )
    return BlockPages(
        block.name, block.page_count, block.page_size, block.header.pages_offset, bitmap
    )
