"""What a stream holds of features that later releases of QEMU have removed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from savefmt.errors import SavefmtError
from savefmt.format.cursor import Cursor
from savefmt.format.ram import BlockList
from savefmt.format.stream import SectionHead
from savefmt.format.wire import RamFlag
from savefmt.model import IOOptions
from savefmt.reading.walk import Onlooker, Walk

if TYPE_CHECKING:
    from savefmt.image import SaveImage

RECORDS_LOOKED_AT = 16384
"""Where pages are compressed at all, every page is but the first one of each block and
those of zeros; these many records are at most 64 MiB of memory with 4 KiB pages."""

_NAMED = RamFlag.ZERO | RamFlag.PAGE | RamFlag.XBZRLE | RamFlag.COMPRESS_PAGE


class _EnoughSeen(Exception):
    """The pass may end."""


def has_compressed_pages(image: SaveImage) -> bool:
    """Tell whether a sequential stream was saved with QEMU's `compress` (format.md 4.1).

    Parameters
    ----------
    image : SaveImage
        Its first page records are read, through any codec.

    Returns
    -------
    bool
        False, too, where the stream cannot be read that far: `savefmt.check` says why.
    """
    visitor = _FirstRecords()

    def tick(_offset: int) -> None:
        if visitor.compressed or visitor.left <= 0:
            raise _EnoughSeen

    try:
        with image.stream(IOOptions(threads=1), look=True) as cursor:
            Walk(cursor, visitor, tick).run()
    except (_EnoughSeen, SavefmtError):
        pass
    return visitor.compressed


class _FirstRecords(Onlooker):
    """Goes over page records in no more detail than that takes."""

    def __init__(self) -> None:
        self.compressed = False
        self.left = RECORDS_LOOKED_AT
        self._page_size = 0

    def ram_start(self, head: SectionHead, blocks: BlockList) -> _FirstRecords:
        """Remember how long pages are."""
        self._page_size = blocks.page_size
        return self

    def take(self, cursor: Cursor) -> Iterator[int]:
        """Pass over the records of one section."""
        mask = min(self._page_size, 1 << 10) - 1
        while not (flags := cursor.u64("RAM word") & mask) & RamFlag.EOS:
            if flags & _NAMED and not flags & RamFlag.CONTINUE:
                cursor.counted("block name")
            if flags & RamFlag.ZERO:
                cursor.skip(1, "fill of a page")
            elif flags & RamFlag.PAGE:
                cursor.skip(self._page_size, "page")
            elif flags & RamFlag.XBZRLE:
                cursor.skip(1, "kind of delta")
                cursor.skip(cursor.u16("length of delta"), "delta")
            self.compressed |= bool(flags & RamFlag.COMPRESS_PAGE)
            self.left -= 1
            yield cursor.tell()
