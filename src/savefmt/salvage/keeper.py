"""Keeps the sound page records of a damaged stream, and leaves the others out."""

from __future__ import annotations

from collections.abc import Iterator

from savefmt.errors import TruncatedError
from savefmt.format.cursor import Cursor, FileCursor
from savefmt.format.ram import EOS_WORD, ZERO_FILL, BlockList, pack_word
from savefmt.format.stream import SectionHead
from savefmt.format.wire import ItemType, RamFlag, pack_counted
from savefmt.native.records import Record
from savefmt.reading.visitors import scanner_for
from savefmt.salvage.chains import Doubts
from savefmt.salvage.elements import Element, Elements
from savefmt.salvage.landing import Landing
from savefmt.salvage.readable import Readable
from savefmt.salvage.splice import Mark, Splice

_STEP = 1 << 20
_HEAD_LENGTH = 5
_DELTA_HEAD = 3
_ZERO_KIND, _DELTA_KIND = 1, 3  # of `Record`
_PAYLOAD, _FOOTER, _CLOSED = "payload", "footer", "closed"
"""What of a section comes next in the splice."""


class RecordKeeper:
    """The sink of a walk over a damaged stream.

    Parameters
    ----------
    source : Readable
        The file.
    head : SectionHead
        START of ``ram``.
    blocks : BlockList
        Its blocks.
    splice : Splice
        Gets what is kept.
    doubts : Doubts
        Which records may belong to another block than they seem to.

    Attributes
    ----------
    elements : Elements
        Splits payloads of this stream into elements.
    at : int
        Where the first record is that is not kept yet.
    records : int
        Page records that were kept.
    void : list of set of int
        Pages of each block whose last record is lost; they are zeros in the splice.
    """

    def __init__(
        self,
        source: Readable,
        head: SectionHead,
        blocks: BlockList,
        splice: Splice,
        doubts: Doubts,
    ) -> None:
        self._source = source
        self._doubts = doubts
        self._splice = splice
        self._ram = head
        self._scanner = scanner_for(blocks)
        self._block: int | None = None
        self._last: tuple[Mark | int, int, int] | None = None
        self._cut = False
        self._resumed = False
        self._deltas_void = False
        self.elements = Elements(blocks)
        self.at = blocks.end
        self._stage = _PAYLOAD
        self.records = 0
        self.void: list[set[int]] = [set() for _ in blocks.blocks]

    # --- the walk's side ---

    def take(self, cursor: Cursor) -> Iterator[int]:
        """Keep what is sound up to the end marker; raise where something is not."""
        assert isinstance(cursor, FileCursor)
        self.at = cursor.tell()
        if self._stage is not _PAYLOAD:
            self._open()
        self._resumed = False
        done = False
        while not done:
            before = self.at
            data = self._source.pread(_STEP, before)
            slow = self._cut or self._source.bad.overlap(before, before + len(data))
            slow = slow or bool(self._doubts)
            done = self._slowly(data) if slow else self._quickly(data)
            if self.at == before:
                raise TruncatedError("the stream ends among the RAM pages", offset=before)
            cursor.seek(self.at)
            yield self.at
        self._stage = _FOOTER

    def _open(self) -> None:
        """Begin another section: with its own head, unless the head is lost."""
        if self._resumed:
            self._splice.put((ItemType.PART << 32 | self._ram.section_id).to_bytes(5, "big"))
        else:
            self._splice.keep(self.at - _HEAD_LENGTH, self.at)
        self._stage = _PAYLOAD

    def resume(self, landing: Landing, footer: bytes) -> None:
        """Continue behind damage; from here on deltas refer to unknown pages.

        Parameters
        ----------
        landing : Landing
            Where.
        footer : bytes
            What ends a section.
        """
        if self._stage is _FOOTER:
            self.close(footer)
        self._block = landing.block
        self._last = None
        self._cut = self._resumed = self._deltas_void = True

    def drop_last(self) -> None:
        """Take back the last record: the damage may begin in it."""
        if self._last is None or self._stage is not _PAYLOAD:
            return
        place, block, page = self._last
        if isinstance(place, Mark):
            self._splice.restore(place)
        else:
            self._splice.take_back(self.at - place)
        self._void(block, page)
        self.records -= 1

    def _void(self, block: int, page: int) -> None:
        """Put zeros where a record is lost, so that no older content of the page is left."""
        address = page * self.elements.page_size
        name = pack_counted(self.elements.names[block])
        self._splice.put(pack_word(address, RamFlag.ZERO) + name + ZERO_FILL)
        self.void[block].add(page)
        self.records += 1
        self._last = None
        self._cut = False

    def closed(self, start: int, end: int, footer: int) -> None:
        """Keep what ends a section: its footer, and before it what `take` was spared.

        Parameters
        ----------
        start, end : int
            Where the section's head begins, and where its footer ends.
        footer : int
            How long that is.
        """
        if self._stage is _PAYLOAD:
            start = end - footer - len(EOS_WORD)
        elif self._stage is _FOOTER:
            start = end - footer
        elif self._resumed:
            start = end  # there is no head, and no page either
        self._splice.keep(start, end)
        self._resumed = False
        self._last = None
        self._stage = _CLOSED

    def close(self, footer: bytes) -> None:
        """End the section that is open, if one is."""
        if self._stage is _PAYLOAD:
            self._splice.put(EOS_WORD)
        if self._stage is not _CLOSED:
            self._splice.put(footer)
        self._stage = _CLOSED

    # --- a piece of payload ---

    def _quickly(self, data: bytes) -> bool:
        """Keep all records of a piece in which nothing is bad, whole batches at a time."""
        scanner, base = self._scanner, self.at
        scanner.begin(base)
        used, done = 0, False
        while used < len(data) and not done:
            before = scanner.counts
            batch = scanner.skim(data, used)
            used += batch.used
            done = batch.done
            end, counts = scanner.offset, scanner.counts
            if self._deltas_void and counts.deltas > before.deltas:
                self._slowly(data[self.at - base : end - base])
                scanner.begin(end)
                continue
            self._splice.keep(self.at, end)
            self.records += counts.pages + counts.zeros + counts.deltas
            self.records -= before.pages + before.zeros + before.deltas
            self._note_last(batch.last, end)
            self.at = end
        return done

    def _note_last(self, last: Record | None, end: int) -> None:
        if end == self.at:
            return
        start = self._start_of(last, end) if last is not None else None
        self._last = None
        if last is not None and start is not None:
            self._last = start, last.block, last.page
            self._block = last.block

    def _start_of(self, record: Record, end: int) -> int | None:
        """Return where a record's word stands if the record ends at `end`, by looking there."""
        name = pack_counted(self.elements.names[record.block])
        address = record.page * self.elements.page_size
        if record.kind == _ZERO_KIND:
            behind = name + ZERO_FILL
            if self._source.pread(len(EOS_WORD), record.offset)[-1] & RamFlag.CONTINUE:
                behind = ZERO_FILL
            return record.offset if end - record.offset == len(EOS_WORD) + len(behind) else None
        if record.offset + record.length != end:
            return None
        body = record.offset - (_DELTA_HEAD if record.kind == _DELTA_KIND else 0)
        flag = RamFlag.XBZRLE if record.kind == _DELTA_KIND else RamFlag.PAGE
        for head in (pack_word(address, flag) + name, pack_word(address, flag | RamFlag.CONTINUE)):
            if self._source.pread(len(head), body - len(head)) == head:
                return body - len(head)
        return None

    def _slowly(self, data: bytes) -> bool:
        """Keep the sound records of a piece one by one."""
        done = False
        try:
            for element in self.elements.parse(data, self.at, self._block):
                self._take_one(element)
                self.at = element.end
                done = element.is_end
        finally:
            self._tell_scanner()
        return done

    def _tell_scanner(self) -> None:
        """Let the scanner know which block the next record may continue."""
        if self._block is not None:
            self._scanner.begin(self.at)
            name = pack_counted(self.elements.names[self._block])
            self._scanner.skim(pack_word(0, RamFlag.ZERO) + name + ZERO_FILL)

    def _take_one(self, element: Element) -> None:
        if not element.is_page:
            self._last = None
            self._splice.keep(element.start, element.end)
            return
        self._block = block = element.block
        if block is None:
            self._cut = True
            return
        page = element.address // self.elements.page_size
        bad = self._source.bad.overlap(element.start, element.end)
        bad = bad or self._doubts.see(element, page)
        if bad or (element.is_delta and self._deltas_void):
            self._void(block, page)
            self._deltas_void = self._deltas_void or bad
            return
        self._last = self._splice.mark(), block, page
        if self._cut:
            self._splice.put(self.elements.head(element, block))
            self._splice.keep(element.body, element.end)
            self._cut = False
        else:
            self._splice.keep(element.start, element.end)
        self.void[block].discard(page)
        self.records += 1
