"""Page records: however they are cut, what comes out is what the slow reader reads."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import reference
from builder import EOS, Record, pack_records
from deltas import apply_delta
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from savefmt.errors import CorruptError, SavefmtError, TruncatedError
from savefmt.format.cursor import ChunkCursor
from savefmt.model import IOOptions
from savefmt.native.core import NeedContentError
from savefmt.native.file import File
from savefmt.native.pages import BlockPages, SumKey
from savefmt.native.records import Scanner, Scatter, Tally

PAGE_SIZE = 512
START = 7_000
BLOCKS = {"pc.ram": 9, "n" * 255: 4, "b": 1}
NAMES = list(BLOCKS)
ZERO, PAGE, XBZRLE = 1, 2, 3
IO = IOOptions(threads=2, window=1 << 20)
PATH = Path("image.save")
AREA = 1 << 20

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

Told = tuple[int, int, int, int, bytes]


# What streams are made of.


@st.composite
def deltas(draw: st.DrawFn) -> bytes:
    """A delta that keeps the rules."""
    wire, position = b"", 0
    for number in range(draw(st.integers(0, 4))):
        keep = draw(st.integers(min(number, 1), 200))
        data = draw(st.binary(min_size=1, max_size=150))
        if position + keep + len(data) > PAGE_SIZE or len(wire) + len(data) + 4 > PAGE_SIZE:
            break
        wire += _uleb(keep) + _uleb(len(data)) + data
        position += keep + len(data)
    return wire


def _uleb(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128, value >> 7])


CONTENT = st.one_of(
    st.just(bytes(PAGE_SIZE)),
    st.builds(
        lambda text, at: (bytes(at) + text).ljust(PAGE_SIZE, b"\0")[:PAGE_SIZE],
        st.binary(min_size=1, max_size=9),
        st.integers(0, PAGE_SIZE - 1),
    ),
)
PLACES = st.sampled_from([(name, page) for name, count in BLOCKS.items() for page in range(count)])


def records(*, with_deltas: bool = True) -> st.SearchStrategy[list[Record]]:
    """Records on few pages, so that they meet again."""
    kinds: list[st.SearchStrategy[Record]] = [
        st.builds(lambda place, data: Record(place[0], place[1], data), PLACES, CONTENT),
        st.builds(lambda place: Record(place[0], place[1]), PLACES),
    ]
    if with_deltas:
        delta = st.builds(
            lambda place, data: Record(place[0], place[1], delta=data), PLACES, deltas()
        )
        kinds.append(delta)
    return st.lists(st.one_of(kinds), max_size=25)


CUTS = st.lists(st.integers(0, 4_000), max_size=12)


def pieces_of(wire: bytes, cuts: list[int]) -> list[bytes]:
    """Cut the wire at those places, as far as it has them."""
    places = [0, *sorted(cut for cut in cuts if cut < len(wire)), len(wire)]
    return [wire[start:end] for start, end in pairwise(places)]


def new_scanner() -> Scanner:
    lengths = [(name.encode(), count * PAGE_SIZE) for name, count in BLOCKS.items()]
    scanner = Scanner(PAGE_SIZE, lengths)
    scanner.begin(START)
    return scanner


# The slow reader.


def records_by_hand(wire: bytes) -> list[Told]:
    """Read sound records, one after another."""
    told: list[Told] = []
    at = block = 0
    while True:
        word = int.from_bytes(wire[at : at + 8], "big")
        page, flags = divmod(word, PAGE_SIZE)
        if flags == 0x10:
            return told
        start, at = at, at + 8
        if not flags & 0x20:
            length = wire[at]
            block = NAMES.index(wire[at + 1 : at + 1 + length].decode())
            at += 1 + length
        if flags & 0x02:
            told.append((ZERO, block, page, START + start, b""))
            at += 1
            continue
        length = PAGE_SIZE if flags & 0x08 else int.from_bytes(wire[at + 1 : at + 3], "big")
        at += 0 if flags & 0x08 else 3
        kind = PAGE if flags & 0x08 else XBZRLE
        told.append((kind, block, page, START + at, wire[at : at + length]))
        at += length


def apply_by_hand(story: list[Record]) -> tuple[dict[str, bytearray], set[tuple[str, int]]]:
    """What memory holds in the end, and which pages are present."""
    memory = {name: bytearray(count * PAGE_SIZE) for name, count in BLOCKS.items()}
    present = set()
    for record in story:
        start = record.page * PAGE_SIZE
        page = memory[record.block][start : start + PAGE_SIZE]
        present.add((record.block, record.page))
        if record.delta is not None:
            new = reference.apply_xbzrle(bytes(page), record.delta)
        elif record.data is not None:
            new = record.data
        else:
            present.discard((record.block, record.page))
            new = bytes(PAGE_SIZE)
        memory[record.block][start : start + PAGE_SIZE] = new
    return memory, present


# The scanner.


@given(story=records(), cuts=CUTS)
@example(story=[], cuts=[1, 2, 3])
def test_any_cut_tells_the_same(story: list[Record], cuts: list[int]) -> None:
    wire = pack_records(story, PAGE_SIZE) + EOS
    scanner = new_scanner()

    told, used, done = [], 0, False
    for piece in pieces_of(wire + b"beyond the end", cuts):
        if not done:
            more, count, done = scanner.records(piece)
            told += more
            used += count

    assert told == records_by_hand(wire)
    assert (used, done) == (len(wire), True)
    counts = scanner.counts
    kinds = [kind for kind, *_ in told]
    assert counts.zeros == kinds.count(ZERO)
    assert counts.pages == kinds.count(PAGE)
    assert counts.deltas == kinds.count(XBZRLE)


@given(story=records(), part=st.floats(0, 1), cuts=CUTS)
def test_any_beginning_is_sound(story: list[Record], part: float, cuts: list[int]) -> None:
    """Records that are there whole are told; nobody is misled about the end."""
    wire = pack_records(story, PAGE_SIZE) + EOS
    there = int(part * (len(wire) - 1))
    scanner = new_scanner()

    told = []
    for piece in pieces_of(wire[:there], cuts):
        more, used, done = scanner.records(piece)
        assert (used, done) == (len(piece), False)
        told += more

    whole = records_by_hand(wire)
    assert told == whole[: len(told)]
    if len(told) < len(whole):
        kind, _, _, offset, data = whole[len(told)]
        assert offset + len(data) > START + there or kind == ZERO


def verdict_of(pieces: list[bytes]) -> tuple[int, str]:
    """How many records come before the end, the complaint or the want of more."""
    scanner = new_scanner()
    told = 0
    try:
        for piece in pieces:
            records, _, done = scanner.records(piece)
            told += len(records)
            if done:
                return told, "end"
    except SavefmtError as error:
        return -1, f"{type(error).__name__}: {error}"
    return told, "more"


@given(
    story=records(),
    junk=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1)), min_size=1, max_size=3),
    cuts=CUTS,
)
def test_damage_is_told_alike(
    story: list[Record], junk: list[tuple[float, bytes]], cuts: list[int]
) -> None:
    """Byte by byte, in pieces or at once: the same complaint at the same place."""
    wire = bytearray(pack_records(story, PAGE_SIZE) + EOS)
    for part, data in junk:
        place = int(part * len(wire))
        wire[place : place + len(data)] = data

    verdict = verdict_of([bytes(wire)])

    assert verdict_of([bytes([byte]) for byte in wire]) == verdict
    assert verdict_of(pieces_of(bytes(wire), cuts)) == verdict


# Deltas.


@given(delta=deltas(), seed=st.binary(min_size=1, max_size=20))
def test_deltas_do_what_the_reference_does(delta: bytes, seed: bytes) -> None:
    page = (seed * PAGE_SIZE)[:PAGE_SIZE]
    changed = bytearray(page)

    apply_delta(changed, delta)

    assert bytes(changed) == reference.apply_xbzrle(page, delta)


@given(delta=st.binary(max_size=40))
def test_a_bad_delta_changes_nothing(delta: bytes) -> None:
    before = b"\x55" * PAGE_SIZE
    page = bytearray(before)
    fault = None
    try:
        apply_delta(page, delta, 42)
    except CorruptError as error:
        fault = error

    if fault is not None:
        assert fault.offset == 42
    assert bytes(page) == (before if fault else reference.apply_xbzrle(before, delta))


# Tally and scatter.


def cursor_over(wire: bytes, cuts: list[int]) -> ChunkCursor:
    return ChunkCursor(iter(pieces_of(wire, cuts)), START)


def drain(steps: Iterator[int]) -> int:
    """Run to the end and return the last offset; they never go back."""
    last = START
    for offset in steps:
        assert offset >= last
        last = offset
    return last


@given(story=records(with_deltas=False), cuts=CUTS)
def test_tally_sums_the_last_content(story: list[Record], cuts: list[int]) -> None:
    key = SumKey.random()
    wire = pack_records(story, PAGE_SIZE) + EOS
    tally = Tally(new_scanner(), key, PATH)

    assert drain(tally.take(cursor_over(wire + b"tail", cuts))) == START + len(wire)

    memory, _ = apply_by_hand(story)
    for table, (name, count) in zip(tally.tables, BLOCKS.items(), strict=True):
        content = memory[name]
        for page in range(count):
            assert table[page] == key.sum(content[page * PAGE_SIZE : (page + 1) * PAGE_SIZE])


@given(story=records(), cuts=CUTS, packed=st.booleans())
def test_index_runs_match_the_last_records(
    story: list[Record], cuts: list[int], packed: bool
) -> None:
    wire = pack_records(story, PAGE_SIZE) + EOS
    tally = Tally(new_scanner(), None, PATH)
    drain(tally.take(cursor_over(wire, cuts)))

    last = {(block, page): (kind, offset) for kind, block, page, offset, _ in records_by_hand(wire)}
    kinds = {ZERO: "zero", PAGE: "data", XBZRLE: "delta"}
    for number, index in enumerate(tally.indexes):
        if packed:
            index.pack()
        at = 0
        for run in index.runs():
            assert run.pages.first == at
            assert run.pages.count > 0
            for i in range(run.pages.count):
                kind, offset = last.get((number, at + i), (0, 0))
                assert run.kind == kinds.get(kind, "absent")
                if run.kind == "data":
                    assert offset == run.offset + i * run.stride
            at += run.pages.count
        assert at == index.count


@given(story=records(), cuts=CUTS)
def test_sums_refuse_the_first_delta(story: list[Record], cuts: list[int]) -> None:
    wire = pack_records(story, PAGE_SIZE) + EOS
    tally = Tally(new_scanner(), SumKey.fixed(), PATH)
    first = [offset for kind, *_, offset, _ in records_by_hand(wire) if kind == XBZRLE]

    if not first:
        drain(tally.take(cursor_over(wire, cuts)))
        return
    with pytest.raises(NeedContentError) as caught:
        drain(tally.take(cursor_over(wire, cuts)))
    assert caught.value.offset == first[0]
    assert caught.value.path == PATH


def target_blocks() -> list[BlockPages]:
    return [
        BlockPages(name.encode(), count, PAGE_SIZE, AREA * (1 + i), bytearray(-(-count // 64) * 8))
        for i, (name, count) in enumerate(BLOCKS.items())
    ]


@relaxed
@given(story=records(), cuts=CUTS, sections=st.integers(1, 3))
def test_scatter_leaves_what_memory_held(
    story: list[Record], cuts: list[int], sections: int
) -> None:
    """Content, bitmaps and sums, also when the records come in several sections."""
    key = SumKey.random()
    blocks = target_blocks()
    share = -(-len(story) // sections) or 1
    with tempfile.TemporaryFile() as stored:
        stored.truncate(AREA * (len(BLOCKS) + 1))
        with File(stored.fileno(), path=PATH, write=True) as file:
            scanner = new_scanner()
            scatter = Scatter(scanner, file, blocks, IO, key=key, path=PATH)
            for section in range(sections):
                part = story[section * share : (section + 1) * share]
                wire = pack_records(part, PAGE_SIZE) + EOS
                drain(scatter.take(cursor_over(wire, cuts)))
            scatter.close()
            read = {
                block.name.decode(): file.read(block.count * PAGE_SIZE, block.offset)
                for block in blocks
            }

    memory, present = apply_by_hand(story)
    assert read == memory
    assert scatter.tables is not None
    for block, table in zip(blocks, scatter.tables, strict=True):
        name = block.name.decode()
        for page in range(block.count):
            content = memory[name][page * PAGE_SIZE : (page + 1) * PAGE_SIZE]
            assert (block.bitmap[page // 8] >> page % 8 & 1 == 1) == ((name, page) in present)
            assert table[page] == key.sum(content)


@given(story=records(), part=st.floats(0, 1, exclude_max=True), cuts=CUTS)
def test_truncation_is_told_at_its_offset(
    story: list[Record], part: float, cuts: list[int]
) -> None:
    wire = pack_records(story, PAGE_SIZE) + EOS
    there = int(part * len(wire))
    tally = Tally(new_scanner(), None, PATH)

    with pytest.raises(TruncatedError) as caught:
        drain(tally.take(cursor_over(wire[:there], cuts)))

    assert caught.value.offset == START + there
