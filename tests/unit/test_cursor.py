"""Cursors: the same answers however the bytes arrive."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from savefmt.errors import TruncatedError
from savefmt.format.cursor import CHUNK_LENGTH, ChunkCursor, Cursor, FileCursor

BASE = 0x1000
DATA = bytes(range(256)) * 4

Maker = Callable[[bytes], Cursor]


def from_file(data: bytes, longest: int = 1 << 30) -> FileCursor:
    image = bytes(BASE) + data

    def pread(length: int, offset: int) -> bytes:
        return image[offset : offset + min(length, longest)]

    return FileCursor(pread, BASE, len(image))


def from_stingy_file(data: bytes) -> FileCursor:
    return from_file(data, longest=3)


def from_chunks(data: bytes, length: int = 5) -> ChunkCursor:
    # One buffer for all chunks, spoilt before each reuse, as a decoder may do.
    def chunks() -> Iterator[bytes | memoryview]:
        buffer = bytearray(length)
        for start in range(0, len(data), length):
            piece = data[start : start + length]
            buffer[:] = b"\xee" * length
            buffer[: len(piece)] = piece
            yield b""
            yield memoryview(buffer)[: len(piece)]
        buffer[:] = b"\xee" * length

    return ChunkCursor(chunks(), BASE)


def from_one_chunk(data: bytes) -> ChunkCursor:
    return ChunkCursor(iter([data]), BASE)


@pytest.fixture(params=[from_file, from_stingy_file, from_chunks, from_one_chunk])
def make(request: pytest.FixtureRequest) -> Maker:
    maker: Maker = request.param
    return maker


def test_numbers_are_big_endian(make: Maker) -> None:
    cursor = make(bytes.fromhex("01 0203 04050607 08090a0b0c0d0e0f 03") + b"ram!")

    assert cursor.u8() == 0x01
    assert cursor.u16() == 0x0203
    assert cursor.u32() == 0x04050607
    assert cursor.u64() == 0x08090A0B0C0D0E0F
    assert cursor.counted() == b"ram"
    assert cursor.tell() == BASE + 19
    assert cursor.read(1) == b"!"


def test_peek_consumes_nothing_across_pieces(make: Maker) -> None:
    cursor = make(DATA)
    cursor.skip(3)

    for count in (0, 1, 4, 17, 2, 300):
        assert cursor.peek(count) == DATA[3 : 3 + count]
    assert cursor.tell() == BASE + 3
    assert cursor.read(300) == DATA[3:303]
    assert cursor.peek(2) == DATA[303:305]


def test_peek_is_short_only_at_the_end(make: Maker) -> None:
    cursor = make(DATA)
    cursor.skip(len(DATA) - 2)

    assert cursor.peek(100) == DATA[-2:]
    assert cursor.peek(100) == DATA[-2:]
    assert cursor.read(2) == DATA[-2:]
    assert cursor.peek(1) == b""
    assert cursor.read(0) == b""


def test_windows_add_up_to_the_data(make: Maker) -> None:
    cursor = make(DATA)
    cursor.peek(12)
    seen = b""
    while window := cursor.window():
        taken = min(len(window), 4)
        seen += bytes(window[:taken])
        cursor.advance(taken)
        assert cursor.tell() == BASE + len(seen)

    assert seen == DATA
    assert not cursor.window()


def test_advance_beyond_the_window_is_a_bug(make: Maker) -> None:
    cursor = make(b"abc")
    length = len(cursor.window())

    with pytest.raises(ValueError, match=f"window of {length}"):
        cursor.advance(length + 1)
    with pytest.raises(ValueError, match="cannot"):
        cursor.skip(-1)


def test_the_end_is_reported_where_it_is(make: Maker) -> None:
    cursor = make(DATA)
    cursor.skip(1000)

    with pytest.raises(TruncatedError, match="inside the footer: 24 of 25 bytes") as caught:
        cursor.read(25, "the footer")
    assert caught.value.offset == BASE + len(DATA)


def test_skip_past_the_end_is_refused(make: Maker) -> None:
    with pytest.raises(TruncatedError, match="an item: 3 of 4") as caught:
        make(b"abc").skip(4)
    assert caught.value.offset == BASE + 3


def test_a_counted_string_may_not_pass_the_end(make: Maker) -> None:
    with pytest.raises(TruncatedError, match="a block name"):
        make(b"\x05pc.r").counted("a block name")


def test_seek_goes_both_ways() -> None:
    data = DATA * 200
    cursor = from_file(data)
    assert cursor.end == BASE + len(data)

    for place in (7, CHUNK_LENGTH + 1, 3, 4, len(data) - 1):
        cursor.seek(BASE + place)
        assert cursor.tell() == BASE + place
        assert cursor.peek(2) == data[place : place + 2]
        assert cursor.u8() == data[place]
    cursor.seek(cursor.end)
    assert cursor.peek(1) == b""


def test_seek_past_the_end_names_the_place() -> None:
    with pytest.raises(TruncatedError, match="before offset 0x2000"):
        from_file(b"abc").seek(0x2000)
    with pytest.raises(ValueError, match="cannot seek"):
        from_file(b"abc").seek(-1)


def test_an_absurd_length_reads_nothing() -> None:
    asked: list[int] = []

    def pread(length: int, offset: int) -> bytes:
        asked.append(length)
        return bytes(length)

    cursor = FileCursor(pread, 0, 1 << 20)
    with pytest.raises(TruncatedError):
        cursor.read(1 << 62)
    with pytest.raises(TruncatedError):
        cursor.skip(1 << 62)
    assert asked == []


def test_a_file_shorter_than_announced_is_truncated() -> None:
    cursor = FileCursor(lambda length, offset: b"abcdef"[offset : offset + length], 0, 100)

    with pytest.raises(TruncatedError) as caught:
        cursor.read(10)
    assert caught.value.offset == 6


def test_skipping_reads_nothing() -> None:
    asked: list[int] = []

    def pread(length: int, offset: int) -> bytes:
        asked.append(offset)
        return bytes(length)

    cursor = FileCursor(pread, 0, 1 << 40)
    cursor.skip(1 << 39)
    cursor.u8()
    assert asked == [1 << 39]


def test_a_file_is_read_once_whatever_is_peeked_at() -> None:
    length = 3 * CHUNK_LENGTH
    fetched = 0

    def pread(count: int, offset: int) -> bytes:
        nonlocal fetched
        fetched += count
        return bytes(count)

    cursor = FileCursor(pread, 0, length)
    while len(cursor.peek(7)) == 7:
        cursor.skip(7)

    assert cursor.tell() == length // 7 * 7
    assert fetched == length
