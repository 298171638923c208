"""The kernel's table of symbols, found in its image by its shape.

Names are packed: 256 tokens stand for frequent strings, and each name is a length and that many
tokens. The place and the form of the addresses have changed with the releases:

========  ======================================================================
before    addresses, count, names, markers, tokens
4.6       offsets, base, count, names, markers, tokens
4.20      count and markers have 4 bytes instead of 8
6.1       a long name has a length of two bytes
6.2       an order by name stands between markers and tokens
6.4       count, names, markers, tokens, offsets, base
7         count, names, markers, tokens, offsets
========  ======================================================================

Offsets count from the base; where addresses of per-CPU variables are absolute (x86 before
6.15), a negative one counts down from it; without a base, each counts from its own place.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from itertools import count as count_from
from itertools import pairwise
from operator import add, gt

from savefmt.errors import CorruptError
from savefmt.linux.words import pack_words, unpack_words

DIGITS = b"".join(b"%d\0" % digit for digit in range(10))
"""Ten tokens that are in every table, since every kernel has digits in its names."""

REACH = 24 << 20
"""How far names and addresses may lie from the tokens."""

MIN_COUNT, MAX_COUNT = 1000, 1 << 19
_TABLE_LIMIT = 8192
_MARK = 256
_MAX_TOKENS = 1024
_MAX_TOKEN = 128
_TRIES = 4096
"""Places at which names are looked for."""
_READINGS = 4
"""Times that all names are read."""
_TABLES = 8
"""Tables of tokens that are looked at."""
_TEXT_LIMIT = 64 << 20
_ALL = (1 << 64) - 1
_KINDS = frozenset(b"aAbBcCdDgGiInNpPrRsStTuUvVwW-?")


class Symbols:
    """Symbols of a kernel or of a module.

    Parameters
    ----------
    names : list of str
        With their kinds as first letters.
    addresses : array
        One for each name.
    """

    def __init__(self, names: list[str], addresses: array[int]) -> None:
        self._order = sorted(range(len(names)), key=addresses.__getitem__)
        self._sorted = array("Q", [addresses[number] for number in self._order])
        self._names = names
        self._by_name: dict[str, int] = {}
        for number, name in enumerate(names):
            self._by_name.setdefault(name[1:], number)
        self._addresses = addresses

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[tuple[int, str, str]]:
        """Yield address, kind and name, ascending."""
        for number in self._order:
            name = self._names[number]
            yield self._addresses[number], name[0], name[1:]

    def get(self, name: str) -> int | None:
        """Return the address of a symbol, None if there is no symbol of this name."""
        number = self._by_name.get(name)
        return None if number is None else self._addresses[number]

    def is_function(self, address: int) -> bool:
        """Whether the symbol at an address is one of code."""
        place = bisect_right(self._sorted, address) - 1
        return place >= 0 and self._names[self._order[place]][0] in "tTwW"

    def at(self, address: int) -> tuple[str, int, int] | None:
        """Return the symbol that an address belongs to: name, start and length."""
        place = bisect_right(self._sorted, address) - 1
        if place < 0:
            return None
        start = self._sorted[place]
        following = bisect_right(self._sorted, start)
        end = self._sorted[following] if following < len(self._sorted) else start + 1
        return self._names[self._order[place]][1:], start, end - start


def find(image: bytes, base: int, known: dict[str, int]) -> Symbols | None:
    """Find the table in a piece of the kernel's image.

    Parameters
    ----------
    image : bytes
        The piece.
    base : int
        Its address.
    known : dict of str to int
        Symbols whose addresses are known, to tell a table from another.

    Returns
    -------
    Symbols or None
        None where no table is that makes sense.
    """
    at, tables = image.find(DIGITS), 0
    while at >= 0 and tables < _TABLES:
        try:
            tokens = _read_tokens(image, at)
            tables += 1
            return _Table(image, base, *tokens).symbols(known)
        except (CorruptError, struct.error, IndexError, ValueError):
            at = image.find(DIGITS, at + 1)
    return None


class _Table:
    """One candidate; raises CorruptError, or an error of reading past the end, if it is wrong."""

    def __init__(
        self, image: bytes, base: int, start: int, index_at: int, tokens: list[str]
    ) -> None:
        self._image = image
        self._base = base
        self._index_at, self._tokens = index_at, tokens
        self._readings, self._left = _READINGS, _TEXT_LIMIT
        self._count_at, self._count, self._names = self._find_names(start)

    def _find_names(self, tokens_at: int) -> tuple[int, int, list[str]]:
        """Look back from the tokens for the count that names follow."""
        low = max(0, tokens_at - REACH)
        low += -low % 4
        words = unpack_words("I", self._image[low : tokens_at - (tokens_at - low) % 4])
        tries = 0
        for place in range(len(words) - 1, -1, -1):
            if not MIN_COUNT <= words[place] <= MAX_COUNT:
                continue
            count_at = low + 4 * place
            for names_at in (count_at + 4, count_at + 8):
                if not self._may_begin(names_at):
                    continue
                tries += 1
                if tries > _TRIES:
                    raise CorruptError("too much looks like names")
                names = self._read_names(names_at, words[place], tokens_at)
                if names is not None:
                    return count_at, words[place], names
        raise CorruptError("no names lie before the tokens")

    def _may_begin(self, at: int) -> bool:
        """Whether the first eight names could be names."""
        image, tokens = self._image, self._tokens
        for _ in range(8):
            if at + 2 >= len(image) or not image[at]:
                return False
            length = image[at]
            if length & 0x80:
                length, at = length & 0x7F | image[at + 1] << 7, at + 1
            kind = tokens[image[at + 1]]
            if length > _MAX_TOKENS or not kind or ord(kind[0]) not in _KINDS:
                return False
            at += 1 + length
        return True

    def _read_names(self, at: int, count: int, end: int) -> list[str] | None:
        """Return all names if the markers behind them agree."""
        first = self._skip(at, min(count, 2 * _MARK) // _MARK, end)
        if first is None:
            return None
        # The first markers are a cheap test: other bytes that look like names fail it.
        for code in "IQ":
            if self._image.find(pack_words(code, first), at, end) >= 0:
                break
        else:
            return None
        self._readings -= 1
        if self._readings < 0:
            raise CorruptError("too much looks like names")
        image, tokens, start, left = self._image, self._tokens, at, self._left
        names, marks = [], []
        for number in range(count):
            if number % _MARK == 0:
                marks.append(at - start)
            length = image[at]
            at += 1
            if length & 0x80:
                length, at = length & 0x7F | image[at] << 7, at + 1
            if not 0 < length <= _MAX_TOKENS or at + length > end:
                return None
            name = "".join([tokens[token] for token in image[at : at + length]])
            left -= len(name)
            if left < 0:
                raise CorruptError("the names are too long")
            names.append(name)
            at += length
        for code in "IQ":
            wanted = pack_words(code, marks)
            if image[at : at + len(wanted) + 16].find(wanted) >= 0:
                return names
        return None

    def _skip(self, at: int, marks: int, end: int) -> list[int] | None:
        """Return the first markers, as the lengths of the names would have them."""
        image, start, found = self._image, at, [0]
        for number in range(1, marks * _MARK + 1):
            length = image[at]
            at += 1
            if length & 0x80:
                length, at = length & 0x7F | image[at] << 7, at + 1
            at += length
            if not 0 < length <= _MAX_TOKENS or at > end:
                return None
            if number % _MARK == 0:
                found.append(at - start)
        return found

    def symbols(self, known: dict[str, int]) -> Symbols:
        """Find the addresses and put them to the names."""
        wanted = dict[int, int]()
        for number, name in enumerate(self._names):
            if name[1:] in known:
                wanted.setdefault(number, known[name[1:]])
        for addresses in self._addresses():
            if len(addresses) != self._count:
                continue
            agree = sum(addresses[number] == address for number, address in wanted.items())
            if wanted and not agree:
                continue
            if sum(address >> 63 for address in addresses) < self._count // 2:
                continue
            # Those of Linux 7 are in the order of the source, and end with what comes before
            # it.
            falls = sum(map(gt, addresses, addresses[1:]))
            if falls <= self._count // 16:
                return Symbols(self._names, addresses)
        raise CorruptError("no addresses lie beside the names")

    def _addresses(self) -> Iterator[array[int]]:
        """Yield what the addresses may be."""
        count, image = self._count, self._image
        before = self._count_at - 8
        after = self._index_at + 512
        places = [((before - 4 * count) & ~7, before)]
        for align in (4, 8):
            at = -(-after // align) * align
            places.append((at, -(-(at + 4 * count) // 8) * 8))
        for offsets_at, base_at in places:
            data = image[max(offsets_at, 0) : offsets_at + 4 * count]
            signed, numbers = unpack_words("i", data), unpack_words("I", data)
            if base_at >= 0 and base_at + 8 <= len(image):
                (base,) = struct.unpack_from("<Q", image, base_at)
                if base >> 47 == 0x1FFFF:
                    yield array("Q", [one if one >= 0 else base - 1 - one & _ALL for one in signed])
                    yield array("Q", [base + one & _ALL for one in numbers])
            here = self._base + offsets_at
            yield array("Q", [here + one & _ALL for one in map(add, signed, count_from(0, 4))])
        for at in ((self._count_at - 8 * count) & ~7, -(-after // 8) * 8):
            yield unpack_words("Q", image[max(at, 0) : at + 8 * count])


def _read_tokens(image: bytes, digits: int) -> tuple[int, int, list[str]]:
    """Return where the tokens begin, where their index does, and the tokens.

    Parameters
    ----------
    image : bytes
        Piece of the kernel.
    digits : int
        Where the token of the digit 0 lies, which is number 48.
    """
    low = max(0, digits - _TABLE_LIMIT)
    second = digits
    for _ in range(47):
        second = image.rfind(b"\0", low, second - 1) + 1
        if not second:
            raise CorruptError("no tokens before the digits")
    starts, at = [], second
    for _ in range(255):
        starts.append(at)
        at = image.find(b"\0", at, second + _TABLE_LIMIT) + 1
        if not at:
            raise CorruptError("the tokens do not end")
    for align in (8, 4, 2):
        index_at = -(-at // align) * align
        index = struct.unpack_from("<256H", image, index_at)
        start = second - index[1]
        if index[0] == 0 and [start + one for one in index[1:]] == starts and start >= 0:
            break
    else:
        raise CorruptError("no index of the tokens behind them")
    ends = [*starts, at]
    tokens = [image[one : other - 1].decode("latin-1") for one, other in pairwise([start, *ends])]
    if max(map(len, tokens)) > _MAX_TOKEN:
        raise CorruptError("a token is too long")
    return start, index_at, tokens
