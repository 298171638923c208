"""Pages go where they are sent, whatever the form of the image and the cut of the places."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from builder import MIB, PAGE_SIZE, Record, all_records, make_stream, page
from hypothesis import given
from hypothesis import strategies as st

import savefmt
from savefmt.export.placing import Placed, write_pages
from savefmt.export.stretches import MemorySegment
from savefmt.model import IOOptions
from savefmt.native.file import File
from savefmt.progress import Meter

COUNTS = (40, 9, 1)
NAMES = ("pc.ram", "pc.bios", "rom")
IO = IOOptions(threads=2, window=MIB)

pages = st.lists(st.sampled_from([0, 0, 1, 2]), min_size=sum(COUNTS), max_size=sum(COUNTS))


@st.composite
def placements(draw: st.DrawFn) -> list[Placed]:
    """Some stretches of blocks, in any order and any number of times, side by side."""
    placed, offset = [], draw(st.integers(0, 5000))
    for _ in range(draw(st.integers(0, 8))):
        block = draw(st.integers(0, len(COUNTS) - 1))
        first = draw(st.integers(0, COUNTS[block] - 1))
        count = draw(st.integers(1, COUNTS[block] - first))
        placed.append(Placed(MemorySegment(0, block, first, count, PAGE_SIZE, "ram"), offset))
        offset += count * PAGE_SIZE + draw(st.sampled_from([0, 0, 7, PAGE_SIZE]))
    return placed


@contextmanager
def target(folder: str) -> Iterator[tuple[Path, File]]:
    """A fresh file."""
    path = Path(folder) / "target"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        with File(fd, path=path, write=True) as file:
            yield path, file
    finally:
        os.close(fd)


@given(
    kinds=pages,
    old=st.lists(st.integers(0, COUNTS[0] - 1), max_size=10),
    placed=placements(),
    mapped=st.booleans(),
)
def test_pages_go_to_their_places(
    kinds: list[int], old: list[int], placed: list[Placed], mapped: bool
) -> None:
    data = [page(100 + i) if kind == 1 else bytes(PAGE_SIZE) for i, kind in enumerate(kinds)]
    blocks, at = {}, 0
    for name, count in zip(NAMES, COUNTS, strict=True):
        blocks[name] = b"".join(data[at : at + count])
        at += count
    # Pages that were other ones in the first round of a live save.
    rounds = [[Record("pc.ram", number, page(7000 + number)) for number in old]]
    rounds.append(all_records(blocks))
    image = make_stream(
        blocks=blocks,
        **({"layout": "mapped-ram"} if mapped else {"rounds": rounds}),
    )
    expected = bytearray(max((item.offset + item.segment.length for item in placed), default=0))
    for item in placed:
        start = item.segment.first * PAGE_SIZE
        content = blocks[NAMES[item.segment.block]][start : start + item.segment.length]
        expected[item.offset : item.offset + len(content)] = content

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "image").write_bytes(image)
        with savefmt.open(Path(folder) / "image") as opened, target(folder) as (path, file):
            os.truncate(path, len(expected))
            present = write_pages(opened, file, placed, IO, Meter(None), []).present
            assert path.read_bytes() == bytes(expected)

    filled = [expected[at : at + PAGE_SIZE] for at in _starts(placed)]
    assert present >= sum(any(one) for one in filled)
    if mapped or not old:
        assert present == sum(any(one) for one in filled)


def _starts(placed: list[Placed]) -> Iterator[int]:
    for item in placed:
        yield from range(item.offset, item.offset + item.segment.length, PAGE_SIZE)
