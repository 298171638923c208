"""The block list of a damaged mapped-ram stream, as far as it can be read.

Each entry follows the pages of the entry before it. So a file that was cut short has lost the
entries of all blocks behind the cut, including their names.
"""

from __future__ import annotations

from collections.abc import Iterator

from savefmt.errors import FormatError, UnsupportedError
from savefmt.format.cursor import FileCursor
from savefmt.format.mappedram import HEADER_LENGTH, MappedRamHeader, bitmap_length
from savefmt.format.ram import MAX_BLOCKS, MAX_TOTAL_LENGTH, BlockList, ListedBlock
from savefmt.format.wire import MIN_PAGE_SIZE, RamFlag, decode_name
from savefmt.salvage.readable import Readable

_FLAGS = MIN_PAGE_SIZE - 1
_FARTHEST = 1 << 61
"""No file is as long as this."""

_STEP = 1 << 20
_VERSION = (1).to_bytes(4, "big")  # of a header
_LEAST_HEAD, _MOST_HEAD = 1 + 1 + 8, 1 + 255 + 8 + 8
"""Bytes of an entry in front of its header."""

_MOST_ROUNDS = 200
_MOST_MOVED = 64 << 20
"""How far before its place the end of RAM is looked for."""

_LEAST_ROOM = 1 << 20
"""A bitmap that is longer than this and than the file is not believed."""


def read_sound_entries(
    source: Readable, at: int, *, ignore_shared: bool, origin: int
) -> BlockList | None:
    """Read entries up to the first invalid one.

    Parameters
    ----------
    source : Readable
        The file.
    at : int
        Where the payload of the START of ``ram`` begins.
    ignore_shared : bool
        The stream has the capability x-ignore-shared.
    origin : int
        Where the image begins in a larger file, from which QEMU may have counted.

    Returns
    -------
    BlockList or None
        Its total is that of all blocks, listed or not; None where nothing can be read.
    """
    word = int.from_bytes(source.pread(8, at), "big")
    if word & _FLAGS != RamFlag.MEM_SIZE or source.bad.overlap(at, at + 8):
        return None
    total = word & ~_FLAGS
    if not 0 < total <= MAX_TOTAL_LENGTH:
        return None
    blocks: list[ListedBlock] = []
    names: set[bytes] = set()
    offset = end = at + 8
    left = total
    while left and len(blocks) < MAX_BLOCKS:
        try:
            block = _entry(source, end, ignore_shared, origin)
        except (FormatError, UnsupportedError):
            break
        if block.name in names or not 0 < block.used_length <= left or not _is_sound(block, blocks):
            break
        if block.bitmap_length > max(source.length, _LEAST_ROOM):
            break
        blocks.append(block)
        names.add(block.name)
        left -= block.used_length
        end = block.next_offset or end
    if not blocks:
        return None
    return BlockList(tuple(blocks), total, blocks[0].page_size, offset, end)


def has_moved(source: Readable, blocks: BlockList, begins: bytes, ends: bytes) -> bool:
    """Tell whether what follows the last entry's pages is at a wrong place.

    Then bytes are missing among these pages, or too many: a copy that passed over bad sectors
    has put everything behind them elsewhere.

    Parameters
    ----------
    source : Readable
        The file.
    blocks : BlockList
        The part that could be read.
    begins, ends : bytes
        The bytes behind the last block's pages, and the bytes that end RAM.
    """
    if sum(block.used_length for block in blocks.blocks) < blocks.total:
        return any(_moved_headers(source, blocks))
    if source.pread(len(begins), blocks.end) == begins:
        return False
    places = _places_of(source, ends, blocks.end - _MOST_MOVED)
    step = len(ends)  # of the rounds in between, which hold nothing else
    return any(
        not 0 <= at - blocks.end - len(begins) <= _MOST_ROUNDS * step
        or (at - blocks.end - len(begins)) % step
        for at in places
    )


def _moved_headers(source: Readable, blocks: BlockList) -> Iterator[bool]:
    """Yield for each header of the next entry whether it stands elsewhere than it says."""
    start = blocks.blocks[-1].header_offset
    assert start is not None
    mark = _VERSION + blocks.page_size.to_bytes(8, "big")
    for at in _places_of(source, mark, start + HEADER_LENGTH):
        # A header shows its own place: its bitmap follows it.
        own = int.from_bytes(source.pread(8, at + len(mark)), "big") - HEADER_LENGTH
        if blocks.end + _LEAST_HEAD <= own <= blocks.end + _MOST_HEAD:
            yield own != at


def _places_of(source: Readable, mark: bytes, start: int) -> Iterator[int]:
    for base in range(max(start, 0), source.length, _STEP):
        data = source.pread(_STEP + len(mark) - 1, base)
        found = data.find(mark)
        while found >= 0:
            yield base + found
            found = data.find(mark, found + 1)


def _entry(source: Readable, at: int, ignore_shared: bool, origin: int) -> ListedBlock:
    cursor = FileCursor(source.pread, at, source.length)
    name = cursor.counted("the RAM block list")
    length = cursor.u64("the RAM block list")
    address = cursor.u64("the RAM block list") if ignore_shared else None
    header_at = cursor.tell()
    header = MappedRamHeader.parse(cursor.read(HEADER_LENGTH), at=header_at)
    if header.bitmap_offset == cursor.tell() + origin:
        header = header.moved(-origin)
    if source.bad.overlap(at, cursor.tell()) or not name:
        raise UnsupportedError("the entry cannot be read", offset=at)
    return ListedBlock(
        decode_name(name),
        name,
        length,
        header.page_size,
        None,
        address,
        header,
        at,
        header_at,
    )


def _is_sound(block: ListedBlock, before: list[ListedBlock]) -> bool:
    """Tell whether an entry fits the others, with its parts in the order that QEMU writes."""
    header, at = block.header, block.header_offset
    assert header is not None
    assert at is not None
    if before and before[0].page_size != block.page_size:
        return False
    if block.used_length % block.page_size or header.ignored:
        return header.ignored and not block.used_length % block.page_size
    if header.pages_offset > _FARTHEST:
        return False
    bitmap_end = header.bitmap_offset + bitmap_length(block.page_count)
    return at + HEADER_LENGTH <= header.bitmap_offset and bitmap_end <= header.pages_offset
