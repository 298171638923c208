"""The index of a sequential image: where each of its pages is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from savefmt.frozen import replace
from savefmt.model import RamBlock
from savefmt.native.index import BlockIndex
from savefmt.native.records import RecordCounts


class PageIndex:
    """Where each page's last record lies in a sequential stream.

    It takes memory by runs of pages, not by pages: 16 bytes for every 512 pages, and 16
    for each run within these.  In the worst case, data and zeros taking turns, that is
    8 bytes a page more.

    Attributes
    ----------
    blocks : sequence of BlockIndex
        In the order of the list.
    counts : RecordCounts
        Records of each kind, repeated ones included.
    page_size : int
        Bytes a page.
    """

    def __init__(self, blocks: Sequence[BlockIndex], counts: RecordCounts, page_size: int) -> None:
        self.blocks = blocks
        self.counts = counts
        self.page_size = page_size

    @classmethod
    def of(cls, blocks: Sequence[BlockIndex], counts: RecordCounts, page_size: int) -> PageIndex:
        """Make one of blocks that all records have been told to."""
        for block in blocks:
            block.pack()
        return cls(blocks, counts, page_size)

    def count(self, blocks: Sequence[RamBlock]) -> tuple[RamBlock, ...]:
        """Return the blocks with their pages counted."""
        counted = []
        for block, tally in zip(blocks, self._tallies, strict=True):
            present = tally["data"] + tally["delta"]
            counted.append(replace(block, present=present, zero=tally["zero"]))
        return tuple(counted)

    @property
    def missing(self) -> list[int]:
        """Pages of each block that never came."""
        return [tally["absent"] for tally in self._tallies]

    @cached_property
    def left_out(self) -> frozenset[int]:
        """Numbers of the blocks none of whose pages came."""
        return frozenset(
            number
            for number, (block, missing) in enumerate(zip(self.blocks, self.missing, strict=True))
            if missing == block.count
        )

    @property
    def memory(self) -> int:
        """Bytes of memory held."""
        return sum(block.memory for block in self.blocks)

    @cached_property
    def _tallies(self) -> list[dict[str, int]]:
        tallies = []
        for block in self.blocks:
            tally = {"data": 0, "delta": 0, "zero": 0, "absent": 0}
            for run in block.runs():
                tally[run.kind] += run.pages.count
            tallies.append(tally)
        return tallies
