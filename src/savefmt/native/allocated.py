"""Which pages of a block have room in the file, present or not, and which of those are stale."""

from __future__ import annotations

from collections.abc import Iterator

from savefmt.model import PageRun
from savefmt.native.file import File
from savefmt.native.pages import BlockPages, is_zero, page_runs

_INVERSE = bytes(255 - byte for byte in range(256))
_PIECE = 256
"""Pages read at a time."""


def stored_pages(file: File, block: BlockPages) -> bytes:
    """Return a bitmap of the present pages that are no holes in the file."""
    return _and(block.bitmap, _allocated(file, block))


def clear_pages(file: File, block: BlockPages) -> bytes:
    """Return a bitmap of the pages whose bit is clear, and which are no holes in the file."""
    return _and(block.bitmap.translate(_INVERSE), _allocated(file, block))


def stale_runs(file: File, block: BlockPages) -> Iterator[PageRun]:
    """Yield the runs of pages whose bit is clear and whose bytes in the file are not zero."""
    size = block.page_size
    for run in page_runs(clear_pages(file, block), block.count):
        end = run.first + run.count
        for first in range(run.first, end, _PIECE):
            count = min(_PIECE, end - first)
            data = memoryview(file.read(count * size, block.offset + first * size))
            yield from _runs_of_content(data, first, size)


def _runs_of_content(data: memoryview, first: int, size: int) -> Iterator[PageRun]:
    if is_zero(data):
        return
    begin = None
    count = len(data) // size
    for i in range(count + 1):
        empty = i == count or is_zero(data[i * size : (i + 1) * size])
        if not empty and begin is None:
            begin = i
        elif empty and begin is not None:
            yield PageRun(first + begin, i - begin)
            begin = None


def _allocated(file: File, block: BlockPages) -> bytes:
    size = block.page_size
    mask = bytearray(len(block.bitmap))
    for start, length in file.extents(block.offset, block.offset + block.count * size):
        first = (start - block.offset) // size
        set_bits(mask, first, -(-(start - block.offset + length) // size))
    return bytes(mask)


def set_bits(mask: bytearray, first: int, end: int) -> None:
    """Set bits `first` to `end` - 1 of a canonical bitmap; at least one."""
    begin, last = first // 8, (end - 1) // 8
    head, tail = 0xFF << first % 8 & 0xFF, 0xFF >> 7 - (end - 1) % 8
    if begin == last:
        mask[begin] |= head & tail
        return
    mask[begin] |= head
    mask[begin + 1 : last] = b"\xff" * (last - begin - 1)
    mask[last] |= tail


def _and(one: bytes | bytearray, other: bytes) -> bytes:
    both = int.from_bytes(one, "little") & int.from_bytes(other, "little")
    return both.to_bytes(len(one), "little")
