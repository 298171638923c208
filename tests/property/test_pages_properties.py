"""Pages: runs, counts and sums by hand, and the way to records and back."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby, pairwise
from typing import IO as Stream

from builder import EOS, Record, pack_records
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from savefmt.format.cursor import ChunkCursor
from savefmt.model import IOOptions
from savefmt.native.file import File
from savefmt.native.jobs import Emitter, move_pages
from savefmt.native.pages import (
    BlockPages,
    SumKey,
    Table,
    count_pages,
    is_zero,
    page_runs,
)
from savefmt.native.records import Scanner, Scatter

PAGE_SIZE = 512
AREA = 1 << 20
IO = IOOptions(threads=3, window=1 << 20)
KEY = SumKey.fixed()
STALE = b"\xee" * PAGE_SIZE

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def pack_bits(present: list[bool]) -> bytearray:
    """A bitmap as the C core wants it, in whole 64-bit words."""
    bitmap = bytearray(-(-len(present) // 64) * 8)
    for page, here in enumerate(present):
        bitmap[page // 8] |= here << page % 8
    return bitmap


def runs_by_hand(flags: list[bool]) -> list[tuple[int, int]]:
    groups = groupby(range(len(flags)), key=flags.__getitem__)
    pages = [list(group) for here, group in groups if here]
    return [(run[0], len(run)) for run in pages]


# Bitmaps.


@given(present=st.lists(st.booleans(), max_size=300))
@example(present=[])
@example(present=[True] * 64)
@example(present=[False] * 63 + [True])
@example(present=[True] * 129)
def test_page_runs_match_the_reference(present: list[bool]) -> None:
    """Same runs, in order, and never two that touch."""
    runs = [(run.first, run.count) for run in page_runs(pack_bits(present), len(present))]

    assert runs == runs_by_hand(present)
    assert all(first + count < later for (first, count), (later, _) in pairwise(runs))


@given(bitmap=st.binary(min_size=1, max_size=60), missing=st.integers(0, 7))
def test_bits_after_the_last_page_do_not_count(bitmap: bytes, missing: int) -> None:
    count = 8 * len(bitmap) - missing
    bits = [bitmap[page // 8] >> page % 8 & 1 == 1 for page in range(count)]

    assert count_pages(bitmap, count) == sum(bits)
    assert [(run.first, run.count) for run in page_runs(bitmap, count)] == runs_by_hand(bits)


# Content.


@given(length=st.integers(0, 5_000), place=st.integers(0, 4_999), value=st.integers(0, 255))
def test_zero_means_every_byte(length: int, place: int, value: int) -> None:
    data = bytearray(length)
    if place < length:
        data[place] = value

    assert is_zero(data) == (not any(data))
    assert is_zero(memoryview(bytes(data))) == (not any(data))


PAGES = st.integers(9, 12).flatmap(
    lambda bits: st.lists(
        st.builds(
            lambda text, at: (bytes(at) + text + bytes(1 << bits))[: 1 << bits],
            st.binary(max_size=30),
            st.integers(0, (1 << bits) - 1),
        ),
        min_size=2,
        max_size=2,
    )
)


@given(pages=PAGES, material=st.integers(0, 1 << 64))
def test_sums_tell_pages_apart(pages: list[bytes], material: int) -> None:
    """Zero for zero pages and only for them; the same for the same; else different."""
    key = SumKey.fixed() if material % 2 else SumKey.random()
    left, right = pages

    assert (key.sum(left) == 0) == (not any(left))
    assert key.sum(left) == key.sum(bytearray(left))
    assert (key.sum(left) == key.sum(right)) == (left == right)


def table_of(numbers: list[int]) -> Table:
    table = Table(len(numbers))
    data = table.data().cast("Q")
    for page, number in enumerate(numbers):
        data[page] = number
    return table


@given(pairs=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=200))
def test_differences_match_the_reference(pairs: list[tuple[int, int]]) -> None:
    left, right = table_of([a for a, _ in pairs]), table_of([b for _, b in pairs])

    runs = [(run.first, run.count) for run in left.differences(right)]

    assert runs == runs_by_hand([a != b for a, b in pairs])
    assert left.count_nonzero() == sum(a != 0 for a, _ in pairs)
    assert [left[page] for page in range(left.count)] == [a for a, _ in pairs]


# Whole guests.

# Runs of absent, present and zero-but-present pages; the second block may span windows.
SHAPES = st.lists(
    st.lists(st.tuples(st.sampled_from("apz"), st.integers(1, 40)), max_size=6),
    min_size=1,
    max_size=3,
)
FAR = st.sampled_from([0, 0, 0, 2_040, 4_090])


def pages_of(shape: list[tuple[str, int]], far: int) -> str:
    """One letter a page."""
    return "a" * far + "".join(letter * count for letter, count in shape)


def content_of(block: int, pages: str) -> bytes:
    return b"".join(
        (b"%8d" % (block << 20 | page) * 64 if letter == "p" else bytes(PAGE_SIZE))
        for page, letter in enumerate(pages)
    )


@contextmanager
def mapped_file(guest: list[str]) -> Iterator[tuple[File, list[BlockPages]]]:
    """The mapped-ram file of a guest, with old bytes where pages are absent."""
    with tempfile.TemporaryFile() as stored:
        blocks, offset = [], 0
        for number, pages in enumerate(guest):
            offset = (offset // AREA + 1) * AREA
            bitmap = pack_bits([letter != "a" for letter in pages])
            name = b"block%d" % number
            blocks.append(BlockPages(name, len(pages), PAGE_SIZE, offset, bitmap))
            _write_area(stored, offset, pages, content_of(number, pages))
            offset += len(pages) * PAGE_SIZE
        stored.truncate(offset)
        with File(stored.fileno(), path="source", direct=True) as file:
            yield file, blocks


def _write_area(stored: Stream[bytes], offset: int, pages: str, content: bytes) -> None:
    area = bytearray(content)
    for page, letter in enumerate(pages):
        if letter == "a":
            area[page * PAGE_SIZE : (page + 1) * PAGE_SIZE] = STALE
    stored.seek(offset)
    stored.write(area)
    stored.flush()


@contextmanager
def fresh_file(length: int) -> Iterator[File]:
    with tempfile.TemporaryFile() as stored:
        stored.truncate(length)
        with File(stored.fileno(), path="target", write=True) as file:
            yield file


def check_sums(guest: list[str], tables: list[Table] | None) -> None:
    assert tables is not None
    for number, (pages, table) in enumerate(zip(guest, tables, strict=True)):
        content = content_of(number, pages)
        for page in range(len(pages)):
            data = content[page * PAGE_SIZE : (page + 1) * PAGE_SIZE]
            assert table[page] == (KEY.sum(data) if any(data) else 0)


def ignore(_: int) -> None:
    """Nobody watches the progress."""


@relaxed
@given(shapes=SHAPES, far=FAR, first=st.integers(0, 5_000), count=st.integers(0, 5_000))
def test_absent_pages_read_as_zeros(
    shapes: list[list[tuple[str, int]]], far: int, first: int, count: int
) -> None:
    guest = [pages_of(shape, far) for shape in shapes]
    with mapped_file(guest) as (file, blocks):
        for number, block in enumerate(blocks):
            start = min(first, block.count)
            end = min(start + count, block.count)

            data = block.read(file, start, end - start)

            content = content_of(number, guest[number])
            assert data == content[start * PAGE_SIZE : end * PAGE_SIZE]
            assert block.present == sum(letter != "a" for letter in guest[number])


@relaxed
@given(shapes=SHAPES, far=FAR)
def test_moved_pages_are_the_same(shapes: list[list[tuple[str, int]]], far: int) -> None:
    guest = [pages_of(shape, far) for shape in shapes]
    with mapped_file(guest) as (source, blocks):
        offsets = [block.offset + 3 * AREA for block in blocks]
        with fresh_file(offsets[-1] + blocks[-1].count * PAGE_SIZE) as target:
            tables = move_pages(
                source, blocks, IO, ignore, target=target, target_offsets=offsets, key=KEY
            )
            for number, (block, offset) in enumerate(zip(blocks, offsets, strict=True)):
                moved = target.read(block.count * PAGE_SIZE, offset)
                assert moved == content_of(number, guest[number])
    check_sums(guest, tables)


def wire_by_hand(guest: list[str]) -> bytes:
    records = []
    for number, pages in enumerate(guest):
        content = content_of(number, pages)
        for page, letter in enumerate(pages):
            data = content[page * PAGE_SIZE : (page + 1) * PAGE_SIZE]
            records.append(Record(f"block{number}", page, None if letter == "a" else data))
    return pack_records(records, PAGE_SIZE)


@relaxed
@given(shapes=SHAPES, far=FAR, offset=st.integers(0, 3 * AREA))
def test_both_ways_out_are_what_one_writes_by_hand(
    shapes: list[list[tuple[str, int]]], far: int, offset: int
) -> None:
    guest = [pages_of(shape, far) for shape in shapes]
    wire = wire_by_hand(guest)
    with mapped_file(guest) as (source, blocks), fresh_file(0) as target:
        emitter = Emitter(source, blocks, KEY)
        assert emitter.length == len(wire)
        assert b"".join(map(bytes, emitter.chunks(IO))) == wire
        check_sums(guest, emitter.tables)

        emitter.write(target, offset, IO, ignore)
        assert target.read(len(wire), offset) == wire


@relaxed
@given(shapes=SHAPES, far=FAR)
def test_there_and_back_changes_nothing(shapes: list[list[tuple[str, int]]], far: int) -> None:
    """Emit, then scatter: content, bitmaps and sums are what they were."""
    guest = [pages_of(shape, far) for shape in shapes]
    assume(any(guest))
    with mapped_file(guest) as (source, blocks):
        end = blocks[-1].offset + blocks[-1].count * PAGE_SIZE
        with fresh_file(end) as target:
            emitter = Emitter(source, blocks, None)
            fresh = [
                BlockPages(b.name, b.count, PAGE_SIZE, b.offset, bytearray(len(b.bitmap)))
                for b in blocks
            ]
            scanner = Scanner(PAGE_SIZE, [(b.name, b.count * PAGE_SIZE) for b in blocks])
            scatter = Scatter(scanner, target, fresh, IO, key=KEY, path="source")

            def pieces() -> Iterator[bytes | memoryview]:
                yield from emitter.chunks(IO)
                yield EOS

            for _ in scatter.take(ChunkCursor(pieces(), 0)):
                pass
            scatter.close()
            for number, (old, new) in enumerate(zip(blocks, fresh, strict=True)):
                assert new.bitmap == old.bitmap
                area = target.read(new.count * PAGE_SIZE, new.offset)
                assert area == content_of(number, guest[number])
    check_sums(guest, scatter.tables)
