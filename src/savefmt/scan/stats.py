"""Statistics of a guest's pages: zero, equal or unique, orderly or random."""

from __future__ import annotations

from collections.abc import Sequence

from savefmt.image import SaveImage
from savefmt.model import IOOptions, OnProgress
from savefmt.native.content import ENTROPY_UNITS, count_distinct, entropies
from savefmt.native.pages import SumKey, Table
from savefmt.progress import Meter
from savefmt.scan.results import BlockStats, MemoryStats
from savefmt.scan.windows import Memory, Reach, Window

BINS = 8
"""Of the histogram: one for each bit of entropy, pages of 8 bits among those of 7."""


def stats(
    image: SaveImage,
    *,
    blocks: Sequence[str] | None = None,
    io: IOOptions = IOOptions(),
    progress: OnProgress | None = None,
) -> MemoryStats:
    """Count pages of all kinds, in two passes.

    Pages count as equal if their sums under a random key are equal. Two different pages have
    equal sums with a probability below 2**-60.

    Parameters
    ----------
    image : SaveImage
        Of any form.
    blocks : sequence of str, optional
        Only these.
    io : IOOptions
        Threads.
    progress : callable, optional
        Called with the work done so far; it cancels by returning False.

    Returns
    -------
    MemoryStats
        By block, and in all.
    """
    memory = Memory(image, blocks, io=io, progress=progress)
    sums = image.memory.sums(SumKey.random(), Meter(progress, image.length, "summing pages"))
    histograms = _histograms(memory)
    found = [
        _block_stats(name, sums[name], histograms[name], _lost(image, name))
        for name in memory.lengths
    ]
    distinct, unique = count_distinct([sums[name] for name in memory.lengths])
    return MemoryStats(memory.page_size, tuple(found), distinct, unique, memory.left_out)


def _lost(image: SaveImage, block: str) -> int:
    return image.rescue.lost(block).total if image.rescue is not None else 0


def _block_stats(name: str, table: Table, units: list[int], lost: int) -> BlockStats:
    """Gather what is known of a block; `units` counts its pages by entropy, zeros left out."""
    nonzero = table.count_nonzero()
    distinct, unique = count_distinct([table])
    total = sum(unit * count for unit, count in enumerate(units))
    histogram = [0] * BINS
    for unit, count in enumerate(units):
        histogram[min(unit // ENTROPY_UNITS, BINS - 1)] += count
    # Stored pages of zeros have no entropy; they are no data.
    histogram[0] -= sum(units) - nonzero
    mean = total / nonzero / ENTROPY_UNITS if nonzero else 0.0
    return BlockStats(
        name,
        table.count,
        table.count - nonzero - lost,
        distinct,
        unique,
        mean,
        tuple(histogram),
        lost,
    )


def _histograms(memory: Memory) -> dict[str, list[int]]:
    counts = {name: [0] * 256 for name in memory.lengths}

    def work(window: Window) -> tuple[str, bytes]:
        return window.stretch.block, entropies(window.content, memory.page_size)

    for name, found in memory.each(work, Reach()):
        row = counts[name]
        for unit in set(found):
            row[unit] += found.count(unit)
    return counts
