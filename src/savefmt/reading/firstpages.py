"""The page size of a stream that does not state it, found in the first pages ahead of the walk."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from savefmt.errors import FormatError, UnsupportedError
from savefmt.format import ram
from savefmt.format.pagesize import LOOK_LENGTH, PageSizeGuess
from savefmt.format.ram import common_page_size
from savefmt.format.stream import Command, EndOfStream, ItemReader, SectionHead
from savefmt.reading.framing import Framing
from savefmt.reading.repeats import LONGEST, Repeats


def infer_page_size(
    reader: ItemReader, head: SectionHead, blocks: Sequence[tuple[bytes, int]]
) -> int:
    """Look at the first page records, which stand some sections ahead.

    Parameters
    ----------
    reader : ItemReader
        Behind the block list.
    head : SectionHead
        Of the section that has the list.
    blocks : sequence of (bytes, int)
        Name and length of each block.

    Returns
    -------
    int
        The size that fits the records best, or the one that most machines have.
    """
    with reader.cursor.ahead() as cursor:
        look = _Look(reader.fork(cursor), blocks)
        with suppress(FormatError, UnsupportedError):
            look.go(head)
    return look.guess.size or common_page_size(blocks)


class _Look:
    """Goes from section to section until the records tell one size, or no more of them do."""

    def __init__(self, reader: ItemReader, blocks: Sequence[tuple[bytes, int]]) -> None:
        self.guess = PageSizeGuess(blocks)
        self._reader = reader
        self._framing = Framing(reader)
        self._framing.expect_pages((name for name, _ in blocks), None)
        self._repeats = Repeats()

    def go(self, head: SectionHead) -> None:
        """Look, from behind the block list on."""
        item: Command | SectionHead | EndOfStream = head
        while not isinstance(item, EndOfStream):
            if isinstance(item, SectionHead):
                if not self._pass(item):
                    return
                self._repeats.skip(self._reader.cursor)
            item = self._reader.next_item()

    def _pass(self, head: SectionHead) -> bool:
        """Consume a section; False where nothing more is to be seen."""
        cursor = self._reader.cursor
        start, ahead = cursor.tell(), cursor.peek(LONGEST)
        if head.idstr != ram.IDSTR:
            if not self._framing.pass_roughly(self._reader, head):
                return False
        elif ahead.startswith(ram.EOS_WORD):
            cursor.skip(len(ram.EOS_WORD))
        else:
            return self._pass_pages(head)
        footer = self._reader.finish_section(head)
        self._repeats.remember(head, ahead[: cursor.tell() - len(footer) - start], footer)
        return True

    def _pass_pages(self, head: SectionHead) -> bool:
        cursor = self._reader.cursor
        length = self.guess.feed(
            cursor.peek(LOOK_LENGTH), lambda data: self._reader.may_end(head, data)
        )
        if length is None:
            return False
        cursor.skip(length)
        self._reader.finish_section(head)
        return True
