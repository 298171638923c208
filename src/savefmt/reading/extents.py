"""Stretches of a block by what an image holds of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from savefmt.format.ram import ListedBlock
from savefmt.model import Layout, MapExtent
from savefmt.native.index import BlockIndex
from savefmt.native.pages import BlockPages, page_runs
from savefmt.reading.pageindex import PageIndex
from savefmt.reading.stored import StoredImage


def extents_of(image: StoredImage, index_of: Callable[[], PageIndex]) -> Iterator[MapExtent]:
    """Yield the extents of all blocks; those of a sequential image are told by its index."""
    if image.layout is Layout.MAPPED_RAM:
        for block, pages in zip(image.head.blocks.blocks, image.mapped.pages, strict=True):
            yield from mapped_extents(block, pages)
        return
    index = index_of()
    for block, places in zip(image.head.blocks.blocks, index.blocks, strict=True):
        yield from index_extents(block, places, with_offsets=not image.packing.packed)


def mapped_extents(block: ListedBlock, pages: BlockPages) -> Iterator[MapExtent]:
    """Yield the extents of a block of a mapped-ram image."""
    size = block.page_size

    def extent(first: int, count: int, kind: str) -> MapExtent:
        offset = pages.offset + first * size if kind == "data" else None
        stride = size if kind == "data" else None
        return MapExtent(block.idstr, first * size, count * size, kind, offset, stride)

    if block.ignored:
        yield extent(0, block.page_count, "absent")
        return
    at = 0
    for run in page_runs(pages.bitmap, pages.count):
        if run.first > at:
            yield extent(at, run.first - at, "zero")
        yield extent(run.first, run.count, "data")
        at = run.first + run.count
    if at < pages.count:
        yield extent(at, pages.count - at, "zero")


def index_extents(
    block: ListedBlock, index: BlockIndex, *, with_offsets: bool
) -> Iterator[MapExtent]:
    """Yield the extents of a block of a sequential image."""
    size = block.page_size
    for run in index.runs():
        known = with_offsets and run.kind == "data"
        yield MapExtent(
            block.idstr,
            run.pages.first * size,
            run.pages.count * size,
            "data" if run.kind == "delta" else run.kind,
            run.offset if known else None,
            (run.stride or size) if known else None,
        )
