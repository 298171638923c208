"""Stretches of a block by what an image holds of them."""

from __future__ import annotations

from collections.abc import Iterator

from savefmt.format.ram import ListedBlock
from savefmt.model import MapExtent
from savefmt.native.index import BlockIndex
from savefmt.native.pages import BlockPages, page_runs


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
