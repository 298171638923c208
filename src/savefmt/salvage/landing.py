"""Where the records of a stream continue behind a damaged part.

A wrong guess would put one page's content into another's place. So a place counts only if a
chain of records is there: three or more in ascending order that cover more than two pages, or
one with a whole page that ends in the end marker and the footer of RAM. A guest may hold
records itself, in the pages of a file that it reads. But no page can hold a whole page's
record, and a chain of shorter records in a page ends with that page, because the head of the
next record interrupts it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from savefmt.errors import FormatError, UnsupportedError
from savefmt.format.ram import pack_word
from savefmt.format.stream import SectionHead
from savefmt.format.wire import ItemType, RamFlag, pack_counted
from savefmt.frozen import dataclass
from savefmt.native.pages import is_zero
from savefmt.native.records import Scanner
from savefmt.salvage.elements import Element, Elements
from savefmt.salvage.readable import Readable

_STEP = 1 << 20
_LEAST_RECORDS = 3
_LEAST_PAGES = 2
_MOST_TRIES = 1 << 16
"""Places that are tried at most: beyond, a file is made to be slow."""

_WORD = 8
_HEAD_REACH = 512
_STAND_IN = b"?"


@dataclass(frozen=True, slots=True)
class Landing:
    """A place where the payload of a ``ram`` section goes on.

    Attributes
    ----------
    offset : int
        In the file.
    block : int or None
        Of the first record; None where nothing tells that, or none comes.
    """

    offset: int
    block: int | None


class Lander:
    """Looks for places to go on.

    Parameters
    ----------
    source : Readable
        The file.
    ram : SectionHead
        START of the stream's ``ram``.
    elements : Elements
        Of its blocks.
    has_footers : bool
        Whether sections end in one.

    Attributes
    ----------
    tries : int
        Places that were tried.
    """

    def __init__(
        self, source: Readable, ram: SectionHead, elements: Elements, has_footers: bool
    ) -> None:
        self._source = source
        self._elements = elements
        self._footer = ram.pack_footer() if has_footers else b""
        self._part = (ItemType.PART << 32 | ram.section_id).to_bytes(5, "big")
        self._end = (ItemType.END << 32 | ram.section_id).to_bytes(5, "big")
        self.tries = 0
        self._pattern = _candidates(elements.longest, elements.page_size)

    def find(self, offset: int) -> Landing | None:
        """Return the first place at or behind an offset; None if there is no such place."""
        length = self._source.length
        overlap = _WORD
        while offset < length and self.tries < _MOST_TRIES:
            data = self._source.pread(_STEP + overlap, offset)
            if not is_zero(data):
                for match in self._pattern.finditer(data):
                    at = match.start()
                    if at >= _STEP or self.tries >= _MOST_TRIES:
                        break
                    if not self._elements.may_go_on(data, at):
                        continue
                    self.tries += 1
                    if (proved := self._prove(offset + at)) is not None:
                        return self._landed(proved)
            offset += _STEP
        return None

    def _prove(self, offset: int) -> int | None:
        """Return where the first record stands that a chain of them from here on proves."""
        size = self._elements.page_size
        first: int | None = None
        count = 0
        before: tuple[int | None, int] = (None, -1)
        try:
            for element in self._chain(offset):
                if self._source.bad.overlap(element.start, element.body):
                    return None
                if element.is_end:
                    return first if self._ends_here(element.end) else None
                if element.is_page:
                    if element.block == before[0] and element.address <= before[1]:
                        return None
                    before = element.block, element.address
                    count += 1
                # Shorter ones may be what one page holds, up to its very end.
                if first is None and (element.is_content or element.start - offset >= size):
                    first = element.start
                reached = element.end - offset
                if first is not None and count >= _LEAST_RECORDS and reached > _LEAST_PAGES * size:
                    return first
        except FormatError:
            return None
        return None

    def _chain(self, offset: int) -> Iterator[Element]:
        """Yield what follows, section after section."""
        size = self._elements.page_size
        block: int | None = None
        while True:
            data = self._source.pread(4 * size + _HEAD_REACH, offset)
            start = offset
            for element in self._elements.parse(data, offset, block):
                block, offset = element.block, element.end
                if element.is_end and self._goes_on(offset):
                    offset += len(self._footer) + len(self._part)
                    break
                yield element
                if element.is_end:
                    return
            if offset == start:
                return

    def _goes_on(self, end: int) -> bool:
        """Tell whether another section of RAM follows an end marker."""
        behind = self._source.pread(len(self._footer) + 5, end)
        return behind in (self._footer + self._part, self._footer + self._end)

    def _ends_here(self, end: int) -> bool:
        """Tell whether something else follows an end marker, and the footer of RAM."""
        behind = self._source.pread(len(self._footer) + 5, end)
        if self._source.bad.overlap(end, end + len(behind)):
            return False
        return behind.startswith(self._footer) if self._footer else behind == self._end

    def _landed(self, offset: int) -> Landing:
        first = next(self._elements.parse(self._source.pread(_STEP, offset), offset, None))
        if not first.is_page or first.block is not None:
            return Landing(offset, first.block)
        return self._identify(offset)

    def _identify(self, offset: int) -> Landing:
        """Find the block of records that continue one: where only one is long enough.

        All records up to the next name are of one block.  If several are long enough for all
        of them, nothing tells which it is, and they are passed over.
        """
        lengths = sorted(self._elements.lengths)
        second = lengths[-2] if len(lengths) > 1 else 0
        size = self._elements.page_size
        farthest = 0
        end = offset
        for reached, page in self._run(offset):
            end = reached
            farthest = max(farthest, (page + 1) * size)
            if farthest > second:
                break
        fitting = [i for i, length in enumerate(self._elements.lengths) if length >= farthest]
        if len(fitting) == 1:
            return Landing(offset, fitting[0])
        return Landing(end, None)

    def _run(self, offset: int) -> Iterator[tuple[int, int]]:
        """Yield how far records reach that continue a block, and the last page of each batch."""
        elements = self._elements
        scanner = Scanner(elements.page_size, [(_STAND_IN, elements.longest)])
        scanner.skim(pack_word(0, RamFlag.ZERO) + pack_counted(_STAND_IN) + b"\0")
        at = offset
        while data := self._source.pread(_STEP, at):
            scanner.begin(at)
            try:
                done = False
                for used, page, done in _pages(scanner, data):
                    yield at + used - (_WORD if done else 0), page
            except (FormatError, UnsupportedError):
                return  # a name, or the next damage
            if scanner.offset == at:
                return
            at = scanner.offset
            if done:
                behind = self._source.pread(len(self._footer) + 5, at)
                if behind not in (self._footer + self._part, self._footer + self._end):
                    return
                at += len(behind)


def _pages(scanner: Scanner, data: bytes) -> Iterator[tuple[int, int, bool]]:
    used, done = 0, False
    while used < len(data) and not done:
        batch = scanner.skim(data, used)
        used += batch.used
        done = batch.done
        yield used, batch.last.page if batch.last is not None else 0, done


def _candidates(longest: int, page_size: int) -> re.Pattern[bytes]:
    """Return what finds words that may begin a record: zeros in front, flags behind."""
    zeros = min(8 - -(-max(longest - page_size, 1).bit_length() // 8), 6)
    flags = rb"\x02\x08\x22\x28\x40\x60"
    middle = 6 - zeros
    nibble = b"" if page_size < 4096 else b"".join(b"\\x%02x" % (n << 4) for n in range(16))
    low = rb"[\s\S]" if not nibble else b"[" + nibble + b"]"
    word = b"\\x00" * zeros + rb"[\s\S]{%d}" % middle + low + b"[" + flags + b"]"
    return re.compile(b"(?=" + word + b")")
