"""Real images that were cut short or overwritten: what is recovered is what the whole one holds."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import savefmt
from golden import load
from savefmt.errors import CorruptError, LostMemoryError
from savefmt.guest.mappings import Walk
from savefmt.native.pages import SumKey, is_zero
from savefmt.progress import Meter
from savefmt.scan.search import Places

IMAGES = ("i440fx", "i440fx-mapped", "libvirt-raw", "libvirt-sparse", "live", "libvirt-gzip")


def known_pages(image: savefmt.SaveImage) -> dict[tuple[str, int], bytes]:
    """Return the pages with content that are not lost; blocks are read a MiB at a time."""
    found = {}
    for name, block in image.blocks.items():
        size = block.page_size
        for run in image.memory.runs(name):
            data = image.memory.read(name, run.first * size, run.count * size)
            for i in range(run.count):
                page = data[i * size : (i + 1) * size]
                lost = image.rescue.lost(name) if image.rescue is not None else ()
                number = run.first + i
                if not any(first <= number < end for first, end in lost) and not is_zero(page):
                    found[name, number] = page
    return found


@pytest.mark.parametrize("name", IMAGES)
def test_nothing_is_recovered_that_the_whole_image_does_not_hold(name: str, tmp_path: Path) -> None:
    path = load.unpack(name, tmp_path)
    data = path.read_bytes()
    with savefmt.open(path) as image:
        whole = known_pages(image)
        start = image.stored_offset
    dice = random.Random(name)
    damaged = tmp_path / "damaged"
    most = 0
    for share in (0.3, 0.5, 0.8, 0.97):
        damaged.write_bytes(data[: start + int((len(data) - start) * share)])
        with savefmt.open(damaged, salvage=True) as image:
            found = known_pages(image)
            assert image.rescue is not None
            assert not image.rescue.report.sound
        if name != "live":  # its guest ran: older copies stand before the cut
            assert all(whole.get(one) == page for one, page in found.items())
            assert len(found) >= most
        most = len(found)
    assert most
    messages: list[str] = []
    for _ in range(4):
        at = start + int((len(data) - start) * dice.uniform(0.1, 0.9))
        damaged.write_bytes(data[:at] + b"\xff" * 5000 + data[at + 5000 :])
        try:
            with savefmt.open(damaged, salvage=True) as image:
                found = known_pages(image)
        except CorruptError as error:
            assert name == "libvirt-gzip"  # all of it is one member
            messages.append(error.message)
            continue
        wrong = [one for one, page in found.items() if whole.get(one) != page]
        # Of a page in a mapped-ram image nothing tells that it was overwritten.
        assert len(wrong) <= (3 if "mapped" in name or "sparse" in name else 0)
    assert all("nothing of it is proven" in message for message in messages)


def test_a_sound_image_is_the_same_guest(tmp_path: Path) -> None:
    path = load.unpack("q35-smp", tmp_path)
    key = SumKey.fixed()
    with savefmt.open(path) as image, savefmt.open(path, salvage=True) as other:
        assert other.rescue is not None
        assert other.rescue.report.sound
        mine, theirs = image.memory.sums(key, Meter(None)), other.memory.sums(key, Meter(None))
        assert mine.keys() == theirs.keys()
        assert not any(list(mine[name].differences(theirs[name])) for name in mine)
        assert image.memory.digest() == other.memory.digest()
        assert image.sections == other.sections


def test_a_page_table_that_is_lost_maps_nothing_for_sure(tmp_path: Path) -> None:
    path = load.unpack("guest/q35-16m-sequential", tmp_path)
    with savefmt.open(path) as image:
        mapped = next(Walk(image.guest.space().tables).mappings()).virtual
        steps = image.guest.space().translate(mapped).steps
        table = image.guest.physical.read(steps[-1].address & -4096, 4096)
    data = path.read_bytes()
    assert data.count(table) == 1
    at = data.index(table)
    path.write_bytes(data[: at - 20] + bytes(100) + data[at + 80 :])

    with savefmt.open(path, salvage=True) as image:
        space = image.guest.space()
        with pytest.raises(LostMemoryError, match="on a page that is lost"):
            space.translate(mapped)
        with pytest.raises(LostMemoryError):
            space.read(mapped, 8)
        walk = Walk(space.tables)
        list(walk.mappings())
        assert walk.lost == walk.damaged > 0
        problem = Places(image, space).problem
        assert problem is not None
        assert "page tables are lost; some virtual addresses are missing" in problem


@pytest.mark.parametrize("name", ["i440fx", "libvirt-zstd"])
def test_records_cut_out_of_a_stream_are_missed(name: str, tmp_path: Path) -> None:
    path = load.unpack(name, tmp_path)
    with savefmt.open(path) as image:
        whole = known_pages(image)
        plain = tmp_path / "plain"
        savefmt.convert(image, plain, codec="raw")
    with savefmt.open(plain) as image:
        pages = [one for one in image.extents() if one.block == "pc.ram" and one.kind == "data"]
    long = max(pages, key=lambda one: one.length)
    assert long.offset is not None
    assert long.stride is not None
    data, start = plain.read_bytes(), long.offset + long.stride * 3
    count = long.length // 4096 - 5
    plain.write_bytes(data[:start] + data[start + count * long.stride :])

    codes = {
        finding.code for finding in savefmt.check(plain, level=savefmt.CheckLevel.FULL).findings
    }
    with savefmt.open(plain, salvage=True) as image:
        found = known_pages(image)
        assert image.rescue is not None
        lost = image.rescue.report.lost

    assert "ram.missing-pages" in codes
    first = long.start // 4096 + 3  # this page got the end of another
    assert lost == count + 2
    assert whole.keys() - found.keys() == {
        ("pc.ram", number) for number in range(first, first + count + 2)
    }
    assert not found.items() - whole.items()
