"""Laws of salvage: all that a slow reading recovers, and nothing that differs from the original."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

from builder import PAGE_SIZE, Record, make_envelope, make_stream, page
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import read_image
from salvaging import Page, Sent, records_of, recovered

from savefmt.errors import SavefmtError
from savefmt.salvage.ranges import Ranges

BLOCKS = {"pc.ram": 12, "vga": 5, "pc.bios": 2}
FEW = settings(max_examples=max(settings().max_examples // 2, 20))
"""Each example opens an image."""

LENGTHS = {name: count * PAGE_SIZE for name, count in BLOCKS.items()}


@st.composite
def contents(draw: st.DrawFn) -> dict[str, bytes]:
    """Draw blocks in which about half of the pages are zero, and none is like another."""
    seed = draw(st.integers(0, 2**20))
    found: dict[str, bytes] = {}
    for name, count in BLOCKS.items():
        kept = draw(st.lists(st.booleans(), min_size=count, max_size=count))
        found[name] = b"".join(
            page(seed + 64 * len(found) + i) if keep else bytes(PAGE_SIZE)
            for i, keep in enumerate(kept)
        )
    return found


@st.composite
def streams(draw: st.DrawFn, *, repeats: bool = False) -> bytes:
    """Draw a sequential image; with `repeats` of a guest that ran meanwhile."""
    blocks = draw(contents())
    options: dict[str, Any] = {
        "switchover": False,
        "parts": draw(st.integers(1, 4)),
        "names_survive": draw(st.booleans()),
        "prefix": draw(st.sampled_from([b"", make_envelope(padding=100)])),
    }
    if repeats:
        again = draw(st.lists(st.sampled_from([(n, i) for n in BLOCKS for i in range(BLOCKS[n])])))
        options["last_round"] = [
            Record(name, number, page(10**6 + k)) for k, (name, number) in enumerate(again)
        ]
    return make_stream(blocks=blocks, **options)


def salvage(data: bytes, **options: object) -> tuple[dict[Page, bytes], Any]:
    with tempfile.TemporaryDirectory() as folder:
        return recovered(Path(folder, "image"), data, **options)


def last_of(records: list[Sent]) -> dict[Page, bytes]:
    return {sent.page: sent.content for sent in records}


@FEW
@given(data=streams(repeats=True), share=st.floats(0, 1))
def test_a_stream_that_was_cut_gives_all_records_before_the_cut(data: bytes, share: float) -> None:
    records = records_of(data, BLOCKS)
    start = records[0].start
    cut = start + int((len(data) - start) * share)
    before = [sent for sent in records if sent.end <= cut]

    found, report = salvage(data[:cut])

    assert found == last_of(before)
    assert report.repeated == len(before) - len(last_of(before))
    assert report.sound == (cut == len(data))


@FEW
@given(
    data=streams(),
    cuts=st.lists(st.tuples(st.integers(1, 18), st.integers(1, 9)), min_size=1, max_size=3),
    ends=st.booleans(),
)
def test_whole_records_that_were_cut_out_are_lost_and_no_page_gets_those_of_another(
    data: bytes, cuts: list[tuple[int, int]], ends: bool
) -> None:
    records = records_of(data, BLOCKS)
    gone = {i for first, count in cuts for i in range(first, min(first + count, len(records)))}
    if ends:  # up to the end of the block that comes last
        gone |= set(range(max(gone), len(records)))
    kept, at = b"", 0
    for i in sorted(gone):
        kept += data[at : records[i].start]
        at = records[i].end

    found, report = salvage(kept + data[at:])

    original = last_of(records)
    assert all(found[one] == original[one] for one in found)
    assert report.lost >= len(gone)
    assert not report.sound
    if not any(records[i].named for i in gone):  # then only what stands beside is in doubt
        beside = {i + step for i in gone for step in (-1, 1)}
        sure = [sent for i, sent in enumerate(records) if i not in gone | beside]
        assert all(found.get(sent.page) == sent.content for sent in sure)


@FEW
@given(
    data=streams(), place=st.floats(0, 1), skipped=st.integers(0, 17), shift=st.integers(0, 5000)
)
def test_bytes_that_were_cut_out_leave_no_page_made_of_two(
    data: bytes, place: float, skipped: int, shift: int
) -> None:
    records = records_of(data, BLOCKS)
    first = int((len(records) - 2) * place)
    one = records[first]
    other = records[min(first + 1 + skipped, len(records) - 1)]
    # From anywhere in a record to the same place in another: what is left looks sound.
    start = min(one.start + shift, one.end)

    found, report = salvage(data[:start] + data[min(other.start + shift, other.end) :])

    original = last_of(records)
    assert all(found[one] == original[one] for one in found)
    assert not report.sound


@FEW
@given(
    data=streams(), place=st.floats(0, 1), length=st.integers(1, 9000), fill=st.binary(max_size=9)
)
def test_what_was_overwritten_is_never_called_recovered(
    data: bytes, place: float, length: int, fill: bytes
) -> None:
    records = records_of(data, BLOCKS)
    first = records[0].start
    start = first + int((len(data) - 1 - first) * place)
    end = min(start + length, len(data))
    other = (fill * length)[: end - start].ljust(end - start, b"\0")
    damaged = data[:start] + other + data[end:]
    changed = [i for i in range(start, end) if data[i] != damaged[i]]
    # Nothing shows damage that lies inside of one page alone.
    unseen = {s.page for s in records if changed and s.body <= changed[0] and changed[-1] < s.end}

    try:
        found, _ = salvage(damaged)
    except SavefmtError:
        raise AssertionError("the block list was there") from None

    original = last_of(records)
    wrong = {one for one in found if found[one] != original[one]}
    assert wrong <= unseen
    sure = [sent for sent in records if changed and sent.end <= changed[0]][:-1]
    assert all(found.get(sent.page) == sent.content for sent in sure)


@FEW
@given(
    data=streams(), places=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 9000)), max_size=3)
)
def test_what_a_map_lists_as_bad_is_lost_and_pages_around_it_are_not(
    data: bytes, places: list[tuple[float, int]]
) -> None:
    records = records_of(data, BLOCKS)
    first = records[0].start
    bad = Ranges()
    for place, length in places:
        start = first + int((len(data) - first) * place)
        bad.add(start, min(start + length, len(data)))
    damaged = bytearray(data)
    for start, end in bad:
        damaged[start:end] = b"?" * (end - start)
    lines = "".join(f"{start:#x} {end - start:#x} -\n" for start, end in bad)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "map").write_text(f"# Mapfile\n0 ?\n{lines}")
        found, report = salvage(bytes(damaged), bad=Path(folder, "map"))

    original = last_of(records)
    assert all(found[one] == original[one] for one in found)
    touched = {sent.page for sent in records if bad.overlap(sent.start, sent.end)}
    assert not touched & found.keys()
    if not any(bad.overlap(sent.start, sent.body + 1) for sent in records):
        clean = [sent for sent in records if sent.page not in touched]
        rest = bad.overlap(records[-1].end, len(data)) or any(
            bad.overlap(one.end, other.start) for one, other in pairwise(records)
        )
        assert rest or found == last_of(clean)
    assert bool(touched) <= bool(report.lost)


@FEW
@given(blocks=contents(), share=st.floats(0, 1), enveloped=st.booleans())
def test_a_mapped_stream_that_was_cut_gives_the_pages_before_the_cut(
    blocks: dict[str, bytes], share: float, enveloped: bool
) -> None:
    prefix = make_envelope(format=6, padding=100) if enveloped else b""
    data = make_stream(layout="mapped-ram", blocks=blocks, prefix=prefix, align=PAGE_SIZE)
    sound = read_image(data)
    ends = {name: data.index(name.encode()) + len(name) + 8 + 28 + 8 for name in blocks}
    least = ends["pc.ram"]
    cut = least + int((len(data) - least) * share)

    found, report = salvage(data[:cut])

    expected = {}
    for name, block in sound.blocks.items():
        for number in sorted(block.present | block.zero) if cut >= ends[name] else ():
            assert block.pages_offset is not None
            where = number * PAGE_SIZE
            if number in block.zero or block.pages_offset + where + PAGE_SIZE <= cut:
                expected[name, number] = bytes(block.content[where : where + PAGE_SIZE])
    bits = any(block.present for name, block in sound.blocks.items() if cut >= ends[name])
    if cut < len(data) and not enveloped and not bits:
        expected = {}  # perhaps the bitmaps were never written
    assert found == expected
    listed = sum(LENGTHS[name] for name in blocks if cut >= ends[name])
    assert report.unlisted == sum(LENGTHS.values()) - listed


@FEW
@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60))),
    st.integers(0, 60),
    st.integers(0, 60),
)
def test_ranges_are_sets(parts: list[tuple[int, int]], start: int, end: int) -> None:
    ranges, model = Ranges(parts), {i for part in parts for i in range(*part)}

    assert {i for part in ranges for i in range(*part)} == model
    assert ranges.total == len(model)
    assert all(one[1] < other[0] for one, other in pairwise(ranges))
    assert {i for part in ranges.within(start, end) for i in range(*part)} == model & {
        *range(start, end)
    }
    assert {i for part in ranges.outside(start, end) for i in range(*part)} == {
        *range(start, end)
    } - model
    assert ranges.overlap(start, end) == bool(model & {*range(start, end)})
