"""The target page size of a sequential stream, from its first page records (format.md 4.5).

Every page comes at least once, in the order of addresses. So neighbouring records are one page
apart, and the next record's word follows the content of a page. A guest can write such words
into its pages. That can make a wrong size look possible, but never the right size impossible.
Of all sizes that fit, the most frequent distance between neighbours is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence

from savefmt.format.wire import PAGE_SIZES, RamFlag

LOOK_LENGTH = 1 << 20
"""Bytes of records that are enough: 16 of the largest pages."""

_MAX_RECORDS = 128
# Plain numbers: flags of an enumeration take ten times as long to test, and `savefmt info`
# tests thousands.
_CONTINUE, _EOS = RamFlag.CONTINUE.value, RamFlag.EOS.value
_PAGE, _XBZRLE, _COMPRESS = (
    RamFlag.PAGE.value,
    RamFlag.XBZRLE.value,
    RamFlag.COMPRESS_PAGE.value,
)
_BARE = frozenset({RamFlag.HOOK.value, RamFlag.MULTIFD_FLUSH.value})
_HEADS: Mapping[int, int] = {RamFlag.ZERO.value: 1, _PAGE: 0, _XBZRLE: 3, _COMPRESS: 4}
"""Bytes between the name and the content, by kind of record."""


def may_begin_record(data: bytes, page_size: int, names: Container[bytes]) -> bool:
    """Tell whether a page record, or the end of a section, may begin like this.

    Parameters
    ----------
    data : bytes
        A word and, if that has one, a counted name.
    page_size : int
        Target page size.
    names : container of bytes
        All blocks.
    """
    word = int.from_bytes(data[:8], "big")
    kind = _kind_of(word, page_size)
    if kind is None or len(data) < 8:
        return False
    if kind not in _HEADS or word & _CONTINUE:
        return True
    return data[9 : 9 + data[8]] in names if len(data) > 8 else False


def _kind_of(word: int, page_size: int) -> int | None:
    kind = word & (page_size - 1) & ~_CONTINUE
    sound = kind in _HEADS or kind in _BARE or word == _EOS
    return kind if sound else None


class PageSizeGuess:
    """What the records looked at so far say of the size of pages.

    Parameters
    ----------
    blocks : sequence of (bytes, int)
        Name and length of each block.
    """

    def __init__(self, blocks: Sequence[tuple[bytes, int]]) -> None:
        lengths = dict(blocks)
        self._total = sum(lengths.values())
        self._trials = [
            _Trial(size, lengths)
            for size in PAGE_SIZES
            if not any(length % size for length in lengths.values())
        ]

    def feed(self, data: bytes, ends: Callable[[bytes], bool]) -> int | None:
        """Look at the payload of the next RAM section.

        Parameters
        ----------
        data : bytes
            From its first byte on, as much as `LOOK_LENGTH`; less only at the end of the file.
        ends : callable
            Tells whether a section may have ended before such bytes.

        Returns
        -------
        int or None
            Length of the payload if that is certain, and more sections are of use.
        """
        results = {trial: trial.feed(data, ends) for trial in self._trials}
        self._trials = [trial for trial, used in results.items() if used >= 0] or self._trials
        lengths = {results[trial] for trial in self._trials}
        told = len(self._trials) == 1 or self._best.neighbours > 0
        return None if told or len(lengths) > 1 or lengths <= {0, -1} else lengths.pop()

    @property
    def _best(self) -> _Trial:
        return max(self._trials, key=lambda trial: trial.neighbours)

    @property
    def size(self) -> int | None:
        """The size that fits best: of equals one by which every page came, or the commonest."""
        if not self._trials:
            return None
        equal = [t for t in self._trials if t.neighbours == self._best.neighbours]
        whole = [t for t in equal if t.records * t.size == self._total]
        return (whole or equal)[0].size


class _Trial:
    """Reads records as if pages were of one size."""

    def __init__(self, size: int, lengths: Mapping[bytes, int]) -> None:
        self.size = size
        self.neighbours = 0
        self.records = 0
        self._lengths = lengths
        self._block: bytes | None = None
        self._address = 0

    def feed(self, data: bytes, ends: Callable[[bytes], bool]) -> int:
        """Return the length of a payload, 0 if it goes on, -1 if these are no such records."""
        at = 0
        for _ in range(_MAX_RECORDS):
            word = int.from_bytes(data[at : at + 8], "big")
            if at + 8 > len(data):
                return 0 if len(data) >= LOOK_LENGTH else -1
            if word == _EOS:
                return at + 8 if ends(data[at + 8 :]) else -1
            length = self._record(data, at, word)
            if length < 0:
                return -1
            at += length
        return 0

    def _record(self, data: bytes, at: int, word: int) -> int:
        start = at
        at += 8
        kind = _kind_of(word, self.size)
        if kind is None:
            return -1
        if kind in _BARE:
            return 8
        block = self._block
        if not word & _CONTINUE:
            block = data[at + 1 : at + 1 + data[at]] if at < len(data) else b""
            at += 1 + len(block)
        address = word & ~(self.size - 1)
        if block is None or address + self.size > self._lengths.get(block, 0):
            return -1
        self.neighbours += block == self._block and address == self._address + self.size
        self.records += 1
        self._block, self._address = block, address
        at += _HEADS[kind]
        if kind == _PAGE:
            at += self.size
        elif kind == _XBZRLE:
            at += int.from_bytes(data[at - 2 : at], "big")
        elif kind == _COMPRESS:
            at += int.from_bytes(data[at - 4 : at], "big")
        elif data[at - 1 : at] != b"\0":
            return -1
        return at - start
