"""Which pages of a made-up guest hold data, and where they are in its file."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence

from savefmt.bench.values import PATTERNS
from savefmt.image import SaveImage
from savefmt.model import PageRun
from savefmt.native.pages import BlockPages

PAGE = 4096
ALIGN = 1 << 20
"""QEMU puts the pages of each block on a multiple of this."""

# Runs of pages in a guest that has been in use, short ones most: the middle one is 16.
_RUN_LENGTHS = (1, 2, 4, 8, 16, 32, 64, 256, 1024)


def pattern_blocks(pattern: str, length: int) -> list[BlockPages]:
    """Lay out a guest.

    Parameters
    ----------
    pattern : str
        ``dense``: one run; ``sparse``: half the pages, in runs of all lengths; else the
        path of an image whose present pages to imitate.
    length : int
        Bytes of data; an image has its own.

    Returns
    -------
    list of BlockPages
        Each on a MiB boundary, the first behind 1 MiB of room for a header.
    """
    if pattern not in PATTERNS:
        return _place(_image_blocks(pattern))
    count = length // PAGE
    if pattern == "dense":
        return _place([(b"pc.ram", count, PAGE, (PageRun(0, count),))])
    return _place([(b"pc.ram", 2 * count, PAGE, tuple(_sparse_runs(count)))])


def data_length(blocks: Sequence[BlockPages]) -> int:
    """Bytes of all present pages."""
    return sum(block.present * block.page_size for block in blocks)


def file_length(blocks: Sequence[BlockPages]) -> int:
    """Length of a file that has room for all blocks."""
    return max(block.offset + block.count * block.page_size for block in blocks)


def _sparse_runs(count: int) -> Iterator[PageRun]:
    """Yield `count` pages in runs, each before a gap of the same length."""
    dice = random.Random(1)
    at = 0
    while count:
        run = min(dice.choice(_RUN_LENGTHS), count)
        yield PageRun(at, run)
        at += 2 * run
        count -= run


_Block = tuple[bytes, int, int, Iterable[PageRun]]


def _image_blocks(path: str) -> Iterator[_Block]:
    with SaveImage(path) as image:
        for name, block in image.blocks.items():
            if not block.ignored and block.page_count:
                yield name.encode(), block.page_count, block.page_size, image.memory.runs(name)


def _place(blocks: Iterable[_Block]) -> list[BlockPages]:
    placed = []
    offset = ALIGN
    for name, count, page_size, runs in blocks:
        bitmap = bytearray((count + 63) // 64 * 8)
        for run in runs:
            set_run(bitmap, run)
        placed.append(BlockPages(name, count, page_size, offset, bitmap))
        offset += -(-count * page_size // ALIGN) * ALIGN
    return placed


def set_run(bitmap: bytearray, run: PageRun) -> None:
    """Set the bits of a run: whole bytes at once, where there are any."""
    end = run.first + run.count
    first_byte, last_byte = -(-run.first // 8), end // 8
    if first_byte >= last_byte:
        edges: Iterable[int] = range(run.first, end)
    else:
        bitmap[first_byte:last_byte] = b"\xff" * (last_byte - first_byte)
        edges = itertools.chain(range(run.first, first_byte * 8), range(last_byte * 8, end))
    for page in edges:
        bitmap[page >> 3] |= 1 << (page & 7)
