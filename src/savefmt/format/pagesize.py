"""The target page size of a sequential stream, from its first page records (format.md 4.5).

Every page comes at least once, in the order of addresses, so neighbouring records are one
page apart, and behind the content of a page stands the next record's word.  A guest that
writes words of its own into its pages can make a wrong size look possible, yet never the
right one impossible: of all sizes that fit, the one that neighbours are apart is taken.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence

from savefmt.format.wire import PAGE_SIZES, RamFlag

LOOK_LENGTH = 1 << 20
"""Bytes of records that are enough: 16 of the largest pages."""

_MAX_RECORDS = 512
_BARE = frozenset({RamFlag.HOOK.value, RamFlag.MULTIFD_FLUSH.value})
_HEADS: Mapping[int, int] = {
    RamFlag.ZERO.value: 1,
    RamFlag.PAGE.value: 0,
    RamFlag.XBZRLE.value: 3,
    RamFlag.COMPRESS_PAGE.value: 4,
}
"""Bytes between the name and the content, by kind of record."""


def infer_page_size(data: bytes, blocks: Sequence[tuple[bytes, int]]) -> int | None:
    """Tell the page size from the beginning of the first records.

    Parameters
    ----------
    data : bytes
        The payload of the first `ram` section that has records, `LOOK_LENGTH` bytes of it.
    blocks : sequence of (bytes, int)
        Name and length of each block.

    Returns
    -------
    int or None
        None where these bytes are no records in pages of any size.
    """
    lengths = dict(blocks)
    best, most = None, -1
    for size in PAGE_SIZES:
        if any(length % size for length in lengths.values()):
            continue
        neighbours = _count_neighbours(data, size, lengths)
        if neighbours is not None and neighbours > most:
            best, most = size, neighbours
    return best


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
    if kind not in _HEADS or word & RamFlag.CONTINUE:
        return True
    return data[9 : 9 + data[8]] in names if len(data) > 8 else False


def _kind_of(word: int, page_size: int) -> int | None:
    kind = word & (page_size - 1) & ~RamFlag.CONTINUE.value
    sound = kind in _HEADS or kind in _BARE or word == RamFlag.EOS
    return kind if sound else None


def _count_neighbours(data: bytes, size: int, lengths: dict[bytes, int]) -> int | None:
    """Count records one page behind the record before; None if these are no records."""
    neighbours = 0
    before: tuple[bytes, int] | None = None
    try:
        for here in _places(data, size, lengths):
            neighbours += before == (here[0], here[1] - size)
            before = here
    except ValueError:
        return None
    return neighbours


def _places(data: bytes, size: int, lengths: dict[bytes, int]) -> Iterator[tuple[bytes, int]]:
    """Yield block and address of each record; ValueError if it can be none."""
    at = 0
    block = None
    for _ in range(_MAX_RECORDS):
        word = int.from_bytes(data[at : at + 8], "big")
        at += 8
        if at > len(data) or word == RamFlag.EOS:
            return
        kind = _kind_of(word, size)
        if kind is None:
            raise ValueError(word)
        if kind in _BARE:
            continue
        if not word & RamFlag.CONTINUE.value:
            block = data[at + 1 : at + 1 + data[at]] if at < len(data) else b""
            at += 1 + len(block)
            if at >= len(data):
                return
        address = word & ~(size - 1)
        if block is None or address + size > lengths.get(block, 0):
            raise ValueError(block)
        yield block, address
        at += _HEADS[kind]
        if at > len(data):
            return
        if kind == RamFlag.PAGE:
            at += size
        elif kind == RamFlag.XBZRLE:
            at += int.from_bytes(data[at - 2 : at], "big")
        elif kind == RamFlag.COMPRESS_PAGE:
            at += int.from_bytes(data[at - 4 : at], "big")
        elif data[at - 1]:
            raise ValueError(data[at - 1])
