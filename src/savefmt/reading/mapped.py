"""The skeleton of a mapped-ram stream: its sections, page areas, bitmaps and tail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from savefmt.errors import CorruptError
from savefmt.format import ram
from savefmt.format.cursor import FileCursor
from savefmt.format.mappedram import decode_bitmap, guess_bitmap_order
from savefmt.format.ram import BlockList, ListedBlock
from savefmt.format.stream import Command, EndOfStream, ItemType, SectionHead, StreamWalker
from savefmt.format.vmstate import Description
from savefmt.frozen import dataclass
from savefmt.model import Finding, RamBlock, Severity
from savefmt.native.file import File
from savefmt.native.pages import BlockPages, is_zero
from savefmt.reading.tail import Tail
from savefmt.reading.traverse import StreamHead, take_payload

ByteOrder = Literal["little", "big"]


@dataclass(frozen=True, slots=True)
class Part:
    """An item of the stream between the block list and the end of RAM.

    `payload` is where a section's payload begins; in a RAM section it is one end marker.
    """

    offset: int
    end: int
    head: SectionHead | None
    payload: int = 0

    @property
    def is_ram(self) -> bool:
        """Whether this is a PART or the END of `ram`."""
        return self.head is not None and self.head.idstr == ram.IDSTR


@dataclass(frozen=True, slots=True)
class MappedStream:
    """A mapped-ram stream taken apart.

    Attributes
    ----------
    head : StreamHead
        Up to the block list.
    list_end : int
        Behind the last page area: the end marker of the START section stands here.
    parts : tuple of Part
        From behind the START section to the end of RAM.
    pages : tuple of BlockPages
        In the order of the list; ignored blocks have no pages.
    byte_order : str
        Of the bitmaps.
    tail : Tail
        The rest.
    footer_length : int
        5, or 0 in a stream without footers.
    """

    head: StreamHead
    list_end: int
    parts: tuple[Part, ...]
    pages: tuple[BlockPages, ...]
    byte_order: ByteOrder
    tail: Tail
    footer_length: int


def read_mapped(
    file: File,
    cursor: FileCursor,
    head: StreamHead,
    description: Description | None,
    order_hint: ByteOrder,
    findings: list[Finding] | None,
) -> MappedStream:
    """Read what stands around the page areas.

    Parameters
    ----------
    file : File
        The image.
    cursor : FileCursor
        Behind the block list.
    head : StreamHead
        What `read_head` gave.
    description : Description or None
        The vmdescription.
    order_hint : str
        Byte order of the bitmaps where they do not tell.
    findings : list of Finding or None
        Receives oddities.

    Returns
    -------
    MappedStream
        Complete.
    """
    walker = StreamWalker(cursor, description=description, findings=findings)
    # The walker has to know the section that the head already went past.
    walker.announce(head.ram)
    list_end = cursor.tell()
    _end_marker(cursor)
    walker.finish_section(head.ram)
    parts: list[Part] = []
    tail_start = None
    while tail_start is None:
        item = walker.next_item()
        if isinstance(item, EndOfStream):
            tail_start = item.offset
        elif isinstance(item, Command):
            parts.append(Part(item.offset, cursor.tell(), None))
        else:
            payload = cursor.tell()
            if item.idstr == ram.IDSTR:
                _end_marker(cursor)
            else:
                take_payload(walker, item, findings)
            walker.finish_section(item)
            parts.append(Part(item.offset, cursor.tell(), item, payload))
            if item.idstr == ram.IDSTR and item.kind is ItemType.END:
                tail_start = cursor.tell()
    order, pages = _read_bitmaps(file, head.blocks, order_hint, findings)
    return MappedStream(
        head,
        list_end,
        tuple(parts),
        pages,
        order,
        Tail(
            tail_start,
            cursor.end,
            cursor.pread,
            bool(walker.has_footers),
            walker.announced,
            description=description,
        ),
        5 if walker.has_footers else 0,
    )


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


def _end_marker(cursor: FileCursor) -> None:
    at = cursor.tell()
    word = cursor.u64("the end marker of a RAM section")
    if word.to_bytes(8, "big") != ram.EOS_WORD:
        raise CorruptError(
            f"RAM word {word:#x} in a mapped-ram stream, where only the end marker may stand",
            offset=at,
        )


def _read_bitmaps(
    file: File, blocks: BlockList, hint: ByteOrder, findings: list[Finding] | None
) -> tuple[ByteOrder, tuple[BlockPages, ...]]:
    raw = [
        bytearray()
        if block.header is None or block.ignored
        else file.read_array(block.bitmap_length, block.header.bitmap_offset)
        for block in blocks.blocks
    ]
    order = _bitmap_order(file, blocks.blocks, raw, hint)
    return order, tuple(
        _block_pages(block, bitmap, order, findings)
        for block, bitmap in zip(blocks.blocks, raw, strict=True)
    )


def _bitmap_order(
    file: File, blocks: Sequence[ListedBlock], raw: Sequence[bytearray], hint: ByteOrder
) -> ByteOrder:
    """Let each block in turn say who wrote it, the largest first (format.md 5.3).

    The cheapest witness speaks first: bits behind the last page, then holes in the file,
    then the content of pages, which alone is left where a copy filled the holes.
    """

    def is_stored(offset: int, length: int) -> bool:
        return any(file.extents(offset, offset + length))

    def has_content(offset: int, length: int) -> bool:
        return not is_zero(file.read(length, offset))

    pairs = sorted(zip(blocks, raw, strict=True), key=lambda pair: -pair[0].used_length)
    for witness in (None, is_stored, has_content):
        for block, bitmap in pairs:
            guess = _block_order(block, bitmap, witness)
            if guess is not None:
                return guess
    return hint


def _block_order(
    block: ListedBlock, bitmap: bytearray, witness: Callable[[int, int], bool] | None
) -> ByteOrder | None:
    if not bitmap or block.header is None:
        return None
    first, size = block.header.pages_offset, block.page_size

    def has_data(page: int) -> bool:
        return witness is not None and witness(first + page * size, size)

    return guess_bitmap_order(bitmap, block.page_count, has_data if witness else None)


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
            )
        )
    return BlockPages(
        block.name, block.page_count, block.page_size, block.header.pages_offset, bitmap
    )
