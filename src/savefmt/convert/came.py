"""Which pages a sequential source contained, and what a conversion says about the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from mmap import mmap

from savefmt.convert.pipeimage import PipeImage
from savefmt.format.ram import BlockList
from savefmt.frozen import dataclass
from savefmt.guest.unsent import Unsent, count_unsent, explain_unsent, gaps_between
from savefmt.image import SaveImage
from savefmt.model import Layout
from savefmt.native.pages import page_runs
from savefmt.native.records import Scanner


@dataclass(frozen=True, slots=True)
class Came:
    """Pages that came: a bitmap for each block of the list."""

    blocks: BlockList
    bitmaps: Sequence[mmap]

    @classmethod
    def of(cls, blocks: BlockList | None, scanner: Scanner | None) -> Came | None:
        """Return what a scanner noted of these blocks, None where no RAM came at all."""
        return None if blocks is None or scanner is None else cls(blocks, scanner.named)

    def sentences(self, source: SaveImage | PipeImage, layout: Layout) -> Iterator[str]:
        """Say which pages did not come, and what the result has in their place.

        Parameters
        ----------
        source : SaveImage or PipeImage
            What was read to its end.
        layout : Layout
            Of the result.

        Yields
        ------
        str
            One for each block and reason, except for blocks that x-ignore-shared leaves out as
            a whole.
        """
        mapped = layout is Layout.MAPPED_RAM
        result = "they are zeros in the result" if mapped else "the result lacks them, too"
        for unsent in self._unsent(source):
            if unsent.reason:
                yield f"{unsent}; {result}"
            else:
                yield f"records are missing from the source: {unsent}; {result}"

    def _unsent(self, source: SaveImage | PipeImage) -> list[Unsent]:
        if not isinstance(source, SaveImage):
            reason = "the source was a pipe, so nothing tells why"
            return count_unsent(self.blocks.blocks, self._gaps(), reason)
        if source.rescue is not None:
            return []  # a rescue reports its losses itself
        left_out = frozenset(source.memory.left_out)
        found = explain_unsent(source, self._gaps())
        return [unsent for unsent in found if unsent.block not in left_out]

    def _gaps(self) -> Iterator[Iterator[tuple[int, int]]]:
        for block, bitmap in zip(self.blocks.blocks, self.bitmaps, strict=True):
            yield gaps_between(page_runs(bitmap, block.page_count), block.page_count)
