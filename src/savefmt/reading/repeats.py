"""Sections that repeat an earlier one byte for byte are skipped without being decoded.

A live save sends a PART of every iterable device in each round, and most are empty: a stream
may hold hundreds of thousands that equal the one before.
"""

from __future__ import annotations

from savefmt.format.cursor import Cursor
from savefmt.format.stream import FOOTER_LENGTH, SectionHead
from savefmt.format.wire import ItemType

LONGEST = 64
"""Bytes of the longest section that is remembered, footer included."""

_HEAD_LENGTH = 5  # of a PART: its kind and its number
_SHORTEST = _HEAD_LENGTH + FOOTER_LENGTH
_WINDOW = 64 << 10


class Repeats:
    """Remembers the last short PART section of each iterable device, and passes equal ones.

    A section is skipped only if another known section follows it. So the bytes of a footer in a
    longer payload are not taken for its end by chance.
    """

    def __init__(self) -> None:
        self._last: dict[bytes, tuple[bytes, bool]] = {}

    def remember(
        self, head: SectionHead, payload: bytes, footer: bytes, *, guessed: bool = False
    ) -> None:
        """Note a section that was just read.

        Parameters
        ----------
        head : SectionHead
            Only the head of a PART is noted: no other kind comes often.
        payload : bytes
            The whole payload, or `LONGEST` bytes of a longer one, which is not noted.
        footer : bytes
            The footer that ended it; empty in a stream without footers.
        guessed : bool
            Whether nothing in the stream tells its length.
        """
        if head.kind is ItemType.PART and len(payload) <= LONGEST - _SHORTEST:
            start = head.pack()
            self._last[start] = start + payload + footer, guessed

    def skip(self, cursor: Cursor) -> int:
        """Pass all that repeats; return how many of them have a length that is told nowhere.

        Parameters
        ----------
        cursor : Cursor
            At an item.
        """
        passed, look = 0, 2 * LONGEST
        while True:
            length, guessed = self._equal(cursor.peek(look))
            if not length:
                return passed
            cursor.skip(length)
            passed += guessed
            look = _WINDOW

    def _equal(self, data: bytes) -> tuple[int, int]:
        """Return the length of what repeats in front of a section that repeats, too."""
        last, at, end, guessed, doubt = self._last, 0, 0, 0, 0
        while (known := last.get(data[at : at + _HEAD_LENGTH])) is not None:
            if not data.startswith(known[0], at):
                break
            end, guessed = at, doubt
            at += len(known[0])
            doubt += known[1]
        return end, guessed
