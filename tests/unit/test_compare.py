"""Comparing: blind to the form, exact to the page."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from builder import (
    DEFAULT_BLOCKS,
    DEFAULT_DEVICES,
    MIB,
    PAGE_SIZE,
    VIRTIO_MEM_EARLY,
    Record,
    all_records,
    make_envelope,
    make_stream,
    page,
    simple_device,
)
from oracle import CODECS, compress

import savefmt
from savefmt import (
    BlockDifference,
    Comparison,
    IOOptions,
    OperationCancelled,
    PageRun,
    SectionDifference,
    TruncatedError,
    UnsupportedError,
)
from savefmt.reports import FieldDifference


def compare(folder: Path, left: bytes, right: bytes) -> Comparison:
    (folder / "left").write_bytes(left)
    (folder / "right").write_bytes(right)
    return savefmt.compare(folder / "left", folder / "right", io=IOOptions(threads=2, window=MIB))


def both(**options: Any) -> list[bytes]:
    return [make_stream(layout=layout, **options) for layout in ("sequential", "mapped-ram")]


def test_every_form_of_one_guest_is_the_same(tmp_path: Path) -> None:
    plain = make_stream()
    forms = [make_envelope(format=n) + compress(name, plain) for n, name in enumerate(CODECS)]
    forms += [compress(name, plain) for name in CODECS]
    forms.append(make_stream(layout="mapped-ram", stale={("pc.ram", 1): page(99)}))
    forms.append(make_stream(layout="mapped-ram", prefix=make_envelope(format=6), align=4096))

    for form in forms:
        result = compare(tmp_path, form, forms[-1])
        assert result.same
        assert result.notes == ()


def test_pages_that_differ_are_named(tmp_path: Path) -> None:
    content = bytearray(DEFAULT_BLOCKS["pc.ram"])
    for index in (1, 2, 5):
        content[index * PAGE_SIZE + 100] ^= 0x40
    other = {**DEFAULT_BLOCKS, "pc.ram": bytes(content)}

    for left in both():
        for right in both(blocks=other):
            result = compare(tmp_path, left, right)
            assert not result.same
            assert result.blocks == (
                BlockDifference("pc.ram", "content", 3, (PageRun(1, 2), PageRun(5, 1)), PAGE_SIZE),
            )
            assert result.sections == ()


def test_one_bit_anywhere_is_seen(tmp_path: Path) -> None:
    for place in (0, 7, 8, PAGE_SIZE - 1, 3 * PAGE_SIZE + 2049):
        content = bytearray(DEFAULT_BLOCKS["pc.ram"])
        content[place] ^= 1

        result = compare(
            tmp_path, make_stream(), make_stream(blocks={**DEFAULT_BLOCKS, "pc.ram": content})
        )

        assert [block.runs for block in result.blocks] == [(PageRun(place // PAGE_SIZE, 1),)]


def test_blocks_of_one_side_only(tmp_path: Path) -> None:
    fewer = {name: DEFAULT_BLOCKS[name] for name in ("pc.bios", "pc.ram")}

    for left in both():
        for right in both(blocks=fewer):
            assert compare(tmp_path, left, right).blocks == (
                BlockDifference("/rom@etc/acpi/rsdp", "only-left", 1, (), PAGE_SIZE),
            )
            assert compare(tmp_path, right, left).blocks == (
                BlockDifference("/rom@etc/acpi/rsdp", "only-right", 1, (), PAGE_SIZE),
            )


def test_the_order_of_blocks_does_not_count(tmp_path: Path) -> None:
    turned = dict(reversed(list(DEFAULT_BLOCKS.items())))

    assert compare(tmp_path, make_stream(), make_stream(blocks=turned)).same


def test_blocks_of_another_length(tmp_path: Path) -> None:
    longer = {**DEFAULT_BLOCKS, "pc.bios": DEFAULT_BLOCKS["pc.bios"] + bytes(PAGE_SIZE)}

    result = compare(tmp_path, make_stream(), make_stream(blocks=longer))

    assert [(block.idstr, block.reason) for block in result.blocks] == [("pc.bios", "length")]


def test_other_page_sizes_are_refused(tmp_path: Path) -> None:
    blocks = {"ram": bytes(3 << 13) + page(1, 1 << 13)}

    with pytest.raises(UnsupportedError, match=r"pages have 8192 bytes and those of .* 4096"):
        compare(tmp_path, make_stream(blocks=blocks), make_stream(page_bits=13, blocks=blocks))


@pytest.mark.parametrize("early", [False, True])
def test_sections_that_differ_are_named(early: bool, tmp_path: Path) -> None:
    key = "early" if early else "devices"
    base = [VIRTIO_MEM_EARLY] if early else list(DEFAULT_DEVICES)

    def images(*devices: Any) -> list[bytes]:
        return both(**{key: [*base, *devices]})

    same = simple_device("same", b"s")
    for left in images(same, simple_device("a", b"1"), simple_device("b", b"x", 3)):
        for right in images(same, simple_device("a", b"1", 1), simple_device("b", b"y", 3)):
            result = compare(tmp_path, left, right)
            assert result.blocks == ()
            assert set(result.sections) == {
                SectionDifference("a", 0, "only-left"),
                SectionDifference("b", 3, "content", (FieldDifference("data", "78", "79"),)),
                SectionDifference("a", 1, "only-right"),
            }


def test_an_empty_section_counts(tmp_path: Path) -> None:
    other = make_stream(devices=[*DEFAULT_DEVICES, simple_device("empty", b"")])

    result = compare(tmp_path, make_stream(), other)

    assert result.sections == (SectionDifference("empty", 0, "only-right"),)


def test_many_parts_of_one_section_take_no_time(tmp_path: Path) -> None:
    """A slow save sends tens of thousands; the work must not grow with their square."""
    part = b"\x02\0\0\0\x01" + b"\x01" + b"\x7e\0\0\0\x01"
    data = make_stream(dirty_bitmaps=True)
    place = data.index(part[:5])
    long = data[:place] + part * 30_000 + data[place:]

    began = time.process_time()  # not the clock, which other work on the machine drives on
    result = compare(tmp_path, long, long)

    assert result.same
    assert time.process_time() - began < 5


def test_without_description_and_footers_devices_are_compared_together(tmp_path: Path) -> None:
    other = make_stream(footers=False, devices=[*DEFAULT_DEVICES, simple_device("a", b"1")])
    blind = make_stream(footers=False, description=False)

    same = compare(tmp_path, make_stream(footers=False), blind)
    assert same.same
    assert "compared as a whole" in same.notes[0]

    differ = compare(tmp_path, blind, other)
    assert differ.sections == (SectionDifference("(all devices)", 0, "content"),)


def test_live_streams_by_what_they_end_with(tmp_path: Path) -> None:
    rounds = [
        [Record("pc.ram", 0, page(90)), Record("pc.ram", 4, page(91))],
        all_records(DEFAULT_BLOCKS),
    ]
    assert compare(tmp_path, make_stream(rounds=rounds), make_stream()).same

    rounds.append([Record("pc.ram", 0, delta=b"\x00\x01z")])
    for other in both():
        result = compare(tmp_path, make_stream(rounds=rounds), other)
        assert [block.runs for block in result.blocks] == [(PageRun(0, 1),)]


def test_memory_left_out_is_told(tmp_path: Path) -> None:
    addresses = dict.fromkeys(DEFAULT_BLOCKS, 0)
    rest = [record for record in all_records(DEFAULT_BLOCKS) if record.block != "pc.ram"]
    mapped = make_stream(
        layout="mapped-ram", guest_addresses=addresses, ignored=frozenset({"pc.ram"})
    )
    plain = make_stream(guest_addresses=addresses, rounds=[rest])

    assert compare(tmp_path, mapped, plain).same
    assert "'pc.ram' was left out" in compare(tmp_path, mapped, plain).notes[0]
    for image in (mapped, plain):
        result = compare(tmp_path, image, make_stream())
        assert [(b.idstr, b.reason) for b in result.blocks] == [("pc.ram", "only-right")]


def test_other_machines_are_noted(tmp_path: Path) -> None:
    result = compare(tmp_path, make_stream(), make_stream(machine="pc-i440fx-10.0"))

    assert result.same
    assert result.notes == ("machine types: pc-q35-10.0 and pc-i440fx-10.0",)


def test_open_images_are_taken_too(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(make_stream())

    with savefmt.open(tmp_path / "a") as image:
        assert savefmt.compare(image, image).same
        assert image.memory.read("pc.ram", 0, 4) == page(0)[:4]


@pytest.mark.parametrize("layout", ["sequential", "mapped-ram"])
def test_errors_name_the_file(layout: str, tmp_path: Path) -> None:
    with pytest.raises(TruncatedError) as caught:
        compare(tmp_path, make_stream(), make_stream(layout=layout)[:-300])

    assert caught.value.path == tmp_path / "right"


def test_cancelling(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(make_stream())

    with pytest.raises(OperationCancelled):
        savefmt.compare(tmp_path / "a", tmp_path / "a", progress=lambda progress: False)
