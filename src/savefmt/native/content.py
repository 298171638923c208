"""The content of memory that was read: patterns, texts, entropy, and equal pages.

The C core works without the interpreter's lock, so threads can do this side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from savefmt.native.core import Owned, call, ffi, lib
from savefmt.native.pages import Table

_BATCH = 4096

_CASE = 0x20
"""By this bit a small letter differs from a capital one."""

TEXT_ENCODINGS = {
    "ascii": lib.SF_TEXT_ASCII,
    "utf-16le": lib.SF_TEXT_UTF16LE,
    "utf-16be": lib.SF_TEXT_UTF16BE,
}
"""Encodings of `text_runs`."""

ENTROPY_UNITS = 31
"""Units of `entropies` in a bit."""


class MaskedPattern:
    """Bytes to look for, some of whose bits may not matter.

    Parameters
    ----------
    value, mask : bytes
        Of one length, at least 1.  Memory matches where it equals the value in all bits
        that are set in the mask.
    """

    def __init__(self, value: bytes, mask: bytes) -> None:
        if not value or len(value) != len(mask):
            raise ValueError("a pattern needs bytes, and a mask as long")
        self.value = value
        self.mask = mask
        self._struct = ffi.new("struct sf_pattern *")
        self._kept = ffi.from_buffer("uint8_t[]", value), ffi.from_buffer("uint8_t[]", mask)
        self._struct.value, self._struct.mask = self._kept
        self._struct.length = len(value)
        self._struct.anchors = _rarest(value, mask)

    @property
    def handle(self) -> Any:
        """The C core's pattern, which borrows from this one."""
        return self._struct

    @property
    def is_text(self) -> bool:
        """Whether nothing but the case of letters may not matter."""
        return all(mask | _CASE == 0xFF for mask in self.mask)

    @property
    def fits_zeros(self) -> bool:
        """Whether a stretch of zeros matches."""
        return not any(v & m for v, m in zip(self.value, self.mask, strict=True))

    def find(self, data: bytes, start: int = 0) -> Iterator[int]:
        """Yield the places where the pattern lies, overlapping ones included.

        Parameters
        ----------
        data : bytes
            Where to look.
        start : int
            The first place to look at.

        Yields
        ------
        int
            Offsets in `data`, ascending.
        """
        found = ffi.new("uint64_t[]", _BATCH)
        following = ffi.new("size_t *", start)
        with ffi.from_buffer("uint8_t[]", data) as view:
            while following[0] < len(data):
                count = lib.sf_find(
                    self._struct, view, len(data), following[0], found, _BATCH, following
                )
                yield from ffi.unpack(found, count)


class ManyTexts:
    """Texts to look for all at once, in time that hardly grows with their number.

    Parameters
    ----------
    texts : sequence of MaskedPattern
        At least one.  Their masks may leave out the case of letters and no other bit: see
        `MaskedPattern.is_text`.
    """

    def __init__(self, texts: Sequence[MaskedPattern]) -> None:
        array = ffi.new("struct sf_pattern[]", [text.handle[0] for text in texts])
        self._owned = Owned("sf_many", *texts)
        call(lib.sf_many_new, array, len(texts), self._owned.cell)

    def find(self, data: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the matches in some bytes; any thread may call it.

        Parameters
        ----------
        data : bytes
            Where to look.
        start, end : int
            A match begins from `start` to before `end`.

        Yields
        ------
        (int, int)
            Number of the text, and offset in `data`; ascending for each text.
        """
        room = _BATCH + lib.sf_many_room(self._owned.content)
        places, numbers = ffi.new("uint64_t[]", room), ffi.new("uint32_t[]", room)
        following = ffi.new("size_t *", start)
        with ffi.from_buffer("uint8_t[]", data) as view:
            while following[0] < len(data):
                count = lib.sf_many_find(
                    self._owned.content,
                    view,
                    len(data),
                    start,
                    end,
                    places,
                    numbers,
                    room,
                    following,
                )
                found = ffi.unpack(numbers, count), ffi.unpack(places, count)
                yield from zip(*found, strict=True)


def _rarest(value: bytes, mask: bytes) -> tuple[int, int]:
    """Choose the two places that memory is least likely to match by chance."""

    def commonness(at: int) -> tuple[int, int]:
        return -mask[at].bit_count(), _COMMON.find(value[at])

    one, *rest = sorted(range(len(value)), key=commonness)
    # An equal byte tells nothing new where the same byte repeats.
    other = next((at for at in rest if value[at] != value[one]), rest[0] if rest else one)
    return one, other


# From rather common to very common; all other bytes are rare.
_COMMON = bytes([*b"mpfuhgldcnrsaoite ", 0x48, 0x8B, 0x01, 0xFF, 0x00])


def text_runs(data: bytes, encoding: str, least: int) -> Iterator[tuple[int, int]]:
    """Yield the places of rows of printable characters.

    Parameters
    ----------
    data : bytes
        Where to look; of even length for UTF-16, whose characters lie at even offsets.
    encoding : str
        One of `TEXT_ENCODINGS`.
    least : int
        Fewer characters than these make no text, but where they touch either end of the
        data, since they may go on there.

    Yields
    ------
    (int, int)
        Offset and length in bytes.
    """
    found = ffi.new("uint64_t[][2]", _BATCH)
    following = ffi.new("size_t *")
    kind = TEXT_ENCODINGS[encoding]
    with ffi.from_buffer("uint8_t[]", data) as view:
        while following[0] < len(data):
            count = lib.sf_text_runs(
                view, len(data), kind, least, following[0], found, _BATCH, following
            )
            numbers = ffi.unpack(ffi.cast("uint64_t *", found), 2 * count) if count else []
            yield from zip(numbers[::2], numbers[1::2], strict=True)


class LineFormat:
    r"""How a line about a text is written, for texts of one stretch of memory.

    Parameters
    ----------
    parts : sequence of bytes or (str, int)
        In order: bytes as they are; ``("hex", BASE)`` or ``("decimal", BASE)``, the text's
        offset in the data added to the base; ``("text", 0)``, the text with tabs as
        ``\t``; ``("json", 0)``, the text as the inside of a JSON string.
    """

    def __init__(self, parts: Sequence[bytes | tuple[str, int]]) -> None:
        self._kept = [ffi.from_buffer("uint8_t[]", part) for part in parts if type(part) is bytes]
        self.count = len(parts)
        self.handle = ffi.new("struct sf_line_part[]", self.count)
        kept = iter(self._kept)
        for own, part in zip(self.handle, parts, strict=True):
            if isinstance(part, bytes):
                own.kind, own.bytes, own.len = lib.SF_LINE_BYTES, next(kept), len(part)
            else:
                own.kind, own.number = _LINE_KINDS[part[0]], part[1]


_LINE_KINDS = {
    "hex": lib.SF_LINE_HEX,
    "decimal": lib.SF_LINE_DECIMAL,
    "text": lib.SF_LINE_TEXT,
    "json": lib.SF_LINE_JSON,
}
_LINES_LENGTH = 1 << 20


def text_lines(data: bytes, encoding: str, least: int, form: LineFormat) -> bytes:
    """Return a line for each text that touches neither end of the data.

    Parameters
    ----------
    data, encoding, least
        As for `text_runs`.
    form : LineFormat
        What a line looks like.

    Returns
    -------
    bytes
        The lines, one after the other, in order.
    """
    room, pieces = _LINES_LENGTH, []
    out = ffi.new("uint8_t[]", room)
    at, following, kind = 0, ffi.new("size_t *"), TEXT_ENCODINGS[encoding]
    with ffi.from_buffer("uint8_t[]", data) as view:
        while at < len(data):
            length = lib.sf_text_lines(
                view, len(data), kind, least, at, form.handle, form.count, out, room, following
            )
            if following[0] == at:  # one line needs more
                room *= 2
                out = ffi.new("uint8_t[]", room)
                continue
            pieces.append(ffi.buffer(out, length)[:])
            at = following[0]
    return b"".join(pieces)


def entropies(data: bytes | memoryview, page_size: int) -> bytes:
    """Return the entropy of each page in 1/31 bits a byte: one byte, 0 to 248."""
    count = len(data) // page_size
    out = bytearray(count)
    with ffi.from_buffer("uint8_t[]", data) as view, ffi.from_buffer("uint8_t[]", out) as target:
        lib.sf_census_entropy(view, page_size, count, target)
    return bytes(out)


def count_distinct(tables: Sequence[Table]) -> tuple[int, int]:
    """Count the different numbers, and those that occur once, over all tables; zeros do not count.

    Returns
    -------
    (int, int)
        Different ones, and among them those that occur once.
    """
    total = sum(table.count_nonzero() for table in tables)
    sums = bytearray(8 * total)
    with ffi.from_buffer("uint64_t[]", sums) as numbers:
        count = 0
        for table in tables:
            count += lib.sf_table_nonzero(table.handle, numbers + count)
        distinct, unique = ffi.new("uint64_t *"), ffi.new("uint64_t *")
        lib.sf_census_distinct(numbers, count, distinct, unique)
    return distinct[0], unique[0]
