"""A damaged mapped-ram stream, with the bits of lost pages cleared."""

from __future__ import annotations

from collections.abc import Iterator

from savefmt.errors import CorruptError, FormatError, UnsupportedError
from savefmt.format.configuration import IGNORE_SHARED
from savefmt.format.cursor import FileCursor
from savefmt.format.mappedram import decode_bitmap, encode_bitmap
from savefmt.format.ram import EOS_WORD, BlockList, ListedBlock, pack_word
from savefmt.format.stream import SectionHead
from savefmt.format.wire import BYTE_ORDERS, ByteOrder, ItemType, RamFlag
from savefmt.model import Damage
from savefmt.native.pages import is_zero, page_runs
from savefmt.reading.mapped import EndMarkers, bitmap_order
from savefmt.reading.walk import Onlooker, PageSink, StreamEnd, Walk, has_capability
from savefmt.salvage.blocklist import has_moved, read_sound_entries
from savefmt.salvage.ranges import Ranges
from savefmt.salvage.readable import Readable
from savefmt.salvage.splice import Splice
from savefmt.salvage.tail import find_tail

_STEP = 1 << 20
_WORD = 8


class _Skeleton(Onlooker):
    """Passes over everything."""

    def ram_start(self, head: SectionHead, blocks: BlockList) -> PageSink:
        """Nothing but end markers follows."""
        return EndMarkers()


class SparseSalvage:
    """Puts a mapped-ram stream right: every page that is not there is clear.

    Parameters
    ----------
    source : Readable
        The file.
    start : int
        Where the stream begins.
    splice : Splice
        Holds what is before the stream, and gets it at the same offsets.
    order : str or None
        Byte order of the envelope.
    finished : bool
        Whether the envelope tells that the save finished, bitmaps and all.
    origin : int
        Where the image begins in a larger file.

    Attributes
    ----------
    damages : list of Damage
        What was put right.
    lost : list of Ranges
        Pages of each block whose content is not known.
    unlisted : int
        Bytes of memory whose blocks are not known.
    missing_devices : tuple of str
        Device sections that are known to be lost.
    devices_whole : bool
        Whether none is.
    """

    def __init__(
        self,
        source: Readable,
        start: int,
        splice: Splice,
        *,
        order: ByteOrder | None,
        finished: bool,
        origin: int,
    ) -> None:
        self._source = source
        self._start = start
        self._splice = splice
        self._order = order
        self._finished = finished
        self._origin = origin
        self.damages: list[Damage] = []
        self.lost: list[Ranges] = []
        self.unlisted = 0
        self.missing_devices: tuple[str, ...] = ()
        self.devices_whole = False

    def run(self) -> None:
        """Read all bitmaps and all pages.

        Raises
        ------
        FormatError, UnsupportedError
            If there is not even one entry of a block list.
        """
        walk, end, error = self._walk()
        head = walk.ram
        if head is None:
            raise error or CorruptError("the stream has no RAM", offset=self._start)
        payload = head.offset + len(head.pack())
        blocks = read_sound_entries(
            self._source,
            payload,
            ignore_shared=has_capability(walk.configuration, IGNORE_SHARED),
            origin=self._origin,
        )
        if blocks is None:
            raise error or CorruptError("the list of RAM blocks is lost", offset=payload)
        listed = sum(block.used_length for block in blocks.blocks)
        self.unlisted = blocks.total - listed
        if self.unlisted:
            self._note(
                min(blocks.end, self._source.length),
                self._source.length,
                "cut" if blocks.end >= self._source.length else "damaged",
                "the list of RAM blocks goes on here, and cannot be read",
            )
        elif error is not None:
            kind = "cut" if blocks.end >= self._source.length else "damaged"
            at = error.offset if error.offset is not None else blocks.end
            self._note(at, self._source.length, kind, error.message)
        footer = head.pack_footer()
        finish = (ItemType.END << 32 | head.section_id).to_bytes(5, "big")
        behind = EOS_WORD + footer
        moved = error is not None and has_moved(self._source, blocks, behind, finish + behind)
        self._copy(payload)
        self._splice.put(pack_word(listed, RamFlag.MEM_SIZE))
        self._put_bitmaps(blocks, end, moved=moved)
        self._copy(blocks.end)
        self._splice.skip_to(blocks.end)
        self._put_tail(head, blocks, end, walk)

    def _walk(self) -> tuple[Walk, StreamEnd | None, FormatError | UnsupportedError | None]:
        source = self._source
        cursor = FileCursor(source.pread, self._start, source.length, origin=self._origin)
        walk = Walk(cursor, _Skeleton(), findings=[])
        try:
            return walk, walk.run(), None
        except (FormatError, UnsupportedError) as error:
            return walk, None, error

    def _note(self, offset: int, end: int, kind: str, message: str) -> None:
        self.damages.append(Damage(offset, max(end, offset), kind, message))

    def _copy(self, end: int) -> None:
        """Take over what the file has, up to an offset; what is bad or not there is zeros."""
        splice, source = self._splice, self._source
        for start, stop in source.bad.outside(splice.length, min(end, source.length)):
            splice.skip_to(start)
            splice.keep(start, stop)
        splice.skip_to(end)

    # --- bitmaps ---

    def _put_bitmaps(self, blocks: BlockList, end: StreamEnd | None, *, moved: bool) -> None:
        raw = [self._raw_bitmap(block) for block in blocks.blocks]
        known = [bitmap if bitmap is not None else bytearray() for bitmap in raw]
        order = self._tell_order(blocks, known)
        written = end.ram_end is not None if end is not None else self._finished
        empty = not any(any(bitmap) for bitmap in known)
        for block, bitmap in zip(blocks.blocks, raw, strict=True):
            if block.header is None or block.ignored:
                self.lost.append(Ranges())
                continue
            bitmap_end = block.header.bitmap_offset + block.bitmap_length
            shifted = moved and block is blocks.blocks[-1]
            if shifted:
                self._note(
                    bitmap_end,
                    block.next_offset or bitmap_end,
                    "damaged",
                    f"what follows the pages of {block.idstr!r} is not where it should be: "
                    "there are too few or too many bytes among these pages, so all of them "
                    "are given up",
                )
            if shifted or bitmap_end > self._source.length:  # and so is all that is behind
                self.lost.append(Ranges([(0, block.page_count)]))
                self._copy(block.header.bitmap_offset)
                self._splice.skip_to(bitmap_end)
                continue
            if bitmap is None or (empty and not written):
                bitmap, lost = self._guess(block, sure=end is not None)
            else:
                strays = decode_bitmap(bitmap, block.page_count, order)
                if strays:  # which no QEMU writes: it was damaged
                    bitmap, lost = self._guess(block, sure=end is not None)
                else:
                    lost = self._missing(block, bitmap)
            self.lost.append(lost)
            self._copy(block.header.bitmap_offset)
            self._splice.put(bytes(encode_bitmap(bitmap, order)))

    def _tell_order(self, blocks: BlockList, raw: list[bytearray]) -> ByteOrder:
        """Tell the byte order of the bitmaps, by those that make sense in either."""
        sound = [
            bitmap
            if any(not decode_bitmap(bytearray(bitmap), block.page_count, o) for o in BYTE_ORDERS)
            else bytearray()
            for block, bitmap in zip(blocks.blocks, raw, strict=True)
        ]
        read = self._extents, self._zeros_behind
        try:
            return bitmap_order(*read, blocks.blocks, sound, self._order)
        except CorruptError:
            return self._order or "little"

    def _raw_bitmap(self, block: ListedBlock) -> bytearray | None:
        """Return a bitmap as it is in the file, None if it cannot be read."""
        if block.header is None or block.ignored:
            return bytearray()
        start, end = block.header.bitmap_offset, block.header.bitmap_offset + block.bitmap_length
        data = bytearray(self._source.pread(end - start, start))
        return None if len(data) < end - start or self._source.bad.overlap(start, end) else data

    def _extents(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        return self._source.file.extents(start, min(end, self._source.length))

    def _zeros_behind(self, length: int, offset: int) -> bytes:
        return self._source.pread(length, offset).ljust(length, b"\0")

    def _missing(self, block: ListedBlock, bitmap: bytearray) -> Ranges:
        """Clear the pages that are set and cannot be read, and return them."""
        assert block.header is not None
        size, base = block.page_size, block.header.pages_offset
        lost = Ranges()
        for run in list(page_runs(bitmap, block.page_count)):
            start = base + run.first * size
            end = start + run.count * size
            for _ in self._pieces(start, end):
                pass  # damage shows when it is read
            gone = [*self._source.bad.within(start, end)]
            if end > self._source.length:
                gone.append((max(start, self._source.length), end))
            for first, last in gone:
                lost.add((first - base) // size, -(-(last - base) // size))
        for first, last in lost:
            _clear(bitmap, first, last)
        return lost

    def _guess(self, block: ListedBlock, *, sure: bool) -> tuple[bytearray, Ranges]:
        """Make a bitmap of the pages that are not zero."""
        assert block.header is not None
        size, base = block.page_size, block.header.pages_offset
        bitmap, lost = bytearray(block.bitmap_length), Ranges()
        there = max(min(self._source.length - base, block.used_length), 0) // size
        lost.add(there, block.page_count)
        for at, data in self._pieces(base, base + there * size):
            whole = is_zero(data)
            for offset in range(0, len(data), size):
                page = (at + offset - base) // size
                place = at + offset
                if self._source.bad.overlap(place, place + size):
                    lost.add(page, page + 1)
                elif not whole and not is_zero(data[offset : offset + size]):
                    bitmap[page // 8] |= 1 << page % 8
                elif not sure:
                    lost.add(page, page + 1)
        self._note(
            block.header.bitmap_offset,
            block.header.bitmap_offset + block.bitmap_length,
            "guessed",
            f"no bitmap tells which pages of {block.idstr!r} are valid: those that are not zero "
            "were taken, and some of them may be old",
        )
        return bitmap, lost

    def _pieces(self, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        for at in range(start, min(end, self._source.length), _STEP):
            yield at, self._source.pread(min(_STEP, end - at), at)

    # --- behind RAM ---

    def _put_tail(
        self, head: SectionHead, blocks: BlockList, end: StreamEnd | None, walk: Walk
    ) -> None:
        source, splice = self._source, self._splice
        if end is not None and not source.bad.overlap(blocks.end, end.end):
            splice.keep(blocks.end, end.end)
            self.devices_whole = end.missing is None
            return
        footer = head.pack_footer()
        finish = (ItemType.END << 32 | head.section_id).to_bytes(5, "big")
        splice.put(EOS_WORD + footer + finish + EOS_WORD + footer)
        tail = find_tail(source, blocks.end, footers=True, early=frozenset())
        for device in tail.devices:
            splice.keep(device.start, device.end)
        splice.put(b"\0")
        if tail.description is not None:
            splice.keep(*tail.description)
        self.missing_devices = tail.missing
        self.devices_whole = tail.whole


def _clear(bitmap: bytearray, first: int, last: int) -> None:
    """Clear the bits from `first` to before `last`."""
    while first < last and first % 8:
        bitmap[first // 8] &= ~(1 << first % 8)
        first += 1
    whole = (last - first) // 8
    bitmap[first // 8 : first // 8 + whole] = bytes(whole)
    for bit in range(first + whole * 8, last):
        bitmap[bit // 8] &= ~(1 << bit % 8)
