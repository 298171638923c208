"""Sections that repeat earlier ones are passed, and nothing that is found differs for it."""

from __future__ import annotations

import struct

import pytest
from builder import EOS, make_stream, page, section_head
from hypothesis import example, given
from hypothesis import strategies as st

from savefmt.errors import FormatError, UnsupportedError
from savefmt.format.cursor import ChunkCursor, Cursor, FileCursor
from savefmt.format.stream import ItemReader
from savefmt.reading.visitors import SkimVisitor
from savefmt.reading.walk import Onlooker, Walk

RAM, BITMAP, UNKNOWN = 2, 77, 78
NAMES = {BITMAP: "dirty-bitmap", UNKNOWN: "nobody-knows"}


class Told(Onlooker):
    """Listens, so that nothing is passed over."""


def part(number: int, payload: bytes) -> bytes:
    return struct.pack(">BI", 2, number) + payload + footer(number)


def footer(number: int) -> bytes:
    return struct.pack(">BI", 0x7E, number)


def stream(parts: bytes, *, before_pages: bool) -> bytes:
    """A stream with a START of each iterable section, and then these parts."""
    whole = make_stream(blocks={"pc.ram": page(1) + page(2)})
    head_end = whole.index(footer(RAM)) + len(footer(RAM))
    at = head_end if before_pages else whole.index(b"\x03" + RAM.to_bytes(4, "big"))
    starts = b"".join(
        section_head(1, number, name, 0, 1) + b"\x01" + footer(number)
        for number, name in NAMES.items()
    )
    return whole[:at] + starts + parts + whole[at:]


EMPTY = [part(RAM, EOS), part(BITMAP, b"\x01"), part(UNKNOWN, b"\x01")]
PARTS = st.sampled_from(
    [
        *EMPTY,
        part(UNKNOWN, b""),
        part(UNKNOWN, b"\x01" + footer(UNKNOWN)),  # a footer that ends nothing
        part(UNKNOWN, part(UNKNOWN, b"\x01") + b"x"),  # a section within one
        part(UNKNOWN, bytes(60)),
        part(BITMAP, b"\x10" + bytes(5) + b"\x01"),
    ]
)


def outcome(cursor: Cursor, *, spare: bool) -> object:
    visitor = SkimVisitor("image", None if spare else Told())
    assert visitor.spares_repeats is spare
    try:
        return Walk(cursor, visitor).run()
    except (FormatError, UnsupportedError) as error:
        return str(error)


@given(
    parts=st.lists(st.tuples(PARTS, st.integers(1, 40)), max_size=12),
    before_pages=st.booleans(),
    step=st.integers(1, 400),
    cut=st.integers(0, 60),
)
@example(
    parts=[(EMPTY[2], 30), (part(UNKNOWN, b"\x01" + footer(UNKNOWN)), 1)],
    before_pages=True,
    step=7,
    cut=0,
)
def test_the_same_is_found(
    parts: list[tuple[bytes, int]], before_pages: bool, step: int, cut: int
) -> None:
    data = stream(b"".join(part * count for part, count in parts), before_pages=before_pages)
    data = data[: len(data) - cut]

    def pieces() -> ChunkCursor:
        return ChunkCursor((data[at : at + step] for at in range(0, len(data), step)), 0)

    told = outcome(pieces(), spare=False)

    assert outcome(pieces(), spare=True) == told
    file = FileCursor(lambda length, at: data[at : at + length], 0, len(data))
    assert outcome(file, spare=True) == told


@pytest.mark.parametrize("before_pages", [False, True])
def test_a_long_run_is_not_taken_apart(before_pages: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0
    next_item = ItemReader.next_item

    def counted(self: ItemReader) -> object:
        nonlocal read
        read += 1
        return next_item(self)

    monkeypatch.setattr(ItemReader, "next_item", counted)
    data = stream(b"".join(EMPTY) * 20_000, before_pages=before_pages)

    Walk(
        FileCursor(lambda length, at: data[at : at + length], 0, len(data)), SkimVisitor("image")
    ).run()

    assert read < 500
