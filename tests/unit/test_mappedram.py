"""Mapped-ram: headers, the places QEMU would choose, bitmaps of either byte order."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import pytest

from savefmt.errors import CorruptError, TruncatedError, UnsupportedError
from savefmt.format.mappedram import (
    HEADER_LENGTH,
    PAGES_ALIGN,
    MappedRamHeader,
    Region,
    bitmap_length,
    check_regions,
    decode_bitmap,
    encode_bitmap,
    place_all,
    stray_count,
    tell_bitmap_order,
)

MIB = 1 << 20


@dataclass(frozen=True)
class Block:
    name: bytes
    used_length: int
    guest_address: int | None = None


def test_header_of_the_format_description() -> None:
    data = bytes.fromhex("00000001 0000000000001000 000000000000008b 0000000000100000")
    header = MappedRamHeader.parse(data + b"bitmap", at=0x6F)

    assert header == MappedRamHeader(page_size=4096, bitmap_offset=0x8B, pages_offset=MIB)
    assert header.pack() == data
    assert len(data) == HEADER_LENGTH
    assert not header.ignored


def test_pages_need_page_alignment_only() -> None:
    assert (
        MappedRamHeader.parse(struct.pack(">IQQQ", 1, 4096, 9, 0x3000), at=0).pages_offset == 0x3000
    )


def test_ignored_block_has_no_offsets() -> None:
    assert MappedRamHeader.parse(struct.pack(">IQQQ", 1, 4096, 0, 0), at=0).ignored


@pytest.mark.parametrize(
    ("numbers", "error", "offset"),
    [
        ((2, 4096, 9, MIB), UnsupportedError, 0),
        ((1, 0, 9, MIB), CorruptError, 4),
        ((1, 128, 9, MIB), CorruptError, 4),
        ((1, 4097, 9, MIB), CorruptError, 4),
        ((1, 1 << 40, 9, MIB), CorruptError, 4),
        ((1, 4096, 0, MIB), CorruptError, 12),
        ((1, 4096, 9, 0), CorruptError, 12),
        ((1, 4096, 9, MIB + 512), CorruptError, 20),
    ],
)
def test_bad_header(numbers: tuple[int, ...], error: type[Exception], offset: int) -> None:
    with pytest.raises(error) as caught:
        MappedRamHeader.parse(struct.pack(">IQQQ", *numbers), at=0x100)

    assert caught.value.offset == 0x100 + offset  # type: ignore[attr-defined]


def test_short_header() -> None:
    with pytest.raises(TruncatedError) as caught:
        MappedRamHeader.parse(bytes(27), at=0x100)

    assert caught.value.offset == 0x100 + 27


# The table in format.md 5.2, as QEMU 10.0.2 wrote it.
QEMU_BLOCKS = [
    (b"pc.ram", 64 * MIB, 0x60, 0x6F, 0x8B, 0x100000, 0x4100000),
    (b"/rom@etc/acpi/tables", 128 << 10, 0x4100000, 0x410001D, 0x4100039, 0x4200000, 0x4220000),
    (b"pc.bios", 256 << 10, 0x4220000, 0x4220010, 0x422002C, 0x4300000, 0x4340000),
    (b"pc.rom", 128 << 10, 0x4340000, 0x434000F, 0x434002B, 0x4400000, 0x4420000),
    (b"/rom@etc/table-loader", 4096, 0x4420000, 0x442001E, 0x442003A, 0x4500000, 0x4501000),
    (b"/rom@etc/acpi/rsdp", 4096, 0x4501000, 0x450101B, 0x4501037, 0x4600000, 0x4601000),
]


def test_plan_is_qemus() -> None:
    placements = place_all([Block(name, length) for name, length, *_ in QEMU_BLOCKS], 0x60, 4096)

    for placement, (_, _, entry, header, bitmap, pages, following) in zip(
        placements, QEMU_BLOCKS, strict=True
    ):
        assert placement.entry_offset == entry
        assert placement.header_offset == header
        assert placement.bitmap_offset == bitmap
        assert placement.pages_offset == pages
        assert placement.next_offset == following
        assert placement.header == MappedRamHeader(4096, bitmap, pages)


def test_plan_leaves_room_for_a_guest_address_and_takes_other_alignments() -> None:
    (placement,) = place_all([Block(b"a", 8192, guest_address=0)], 100, 4096, align=4096)

    assert placement.header_offset == 100 + 1 + 1 + 8 + 8
    assert placement.bitmap_offset == placement.header_offset + HEADER_LENGTH
    assert placement.pages_offset == 4096


def test_plan_keeps_an_aligned_bitmap_end() -> None:
    start = PAGES_ALIGN - (1 + 1 + 8 + HEADER_LENGTH + 8)

    assert place_all([Block(b"a", 4096)], start, 4096)[0].pages_offset == PAGES_ALIGN
    assert place_all([Block(b"a", 4096)], start + 1, 4096)[0].pages_offset == 2 * PAGES_ALIGN


@pytest.mark.parametrize(("pages", "length"), [(0, 0), (1, 8), (64, 8), (65, 16), (16384, 2048)])
def test_bitmap_length(pages: int, length: int) -> None:
    assert bitmap_length(pages) == length


def test_regions_side_by_side_are_fine() -> None:
    check_regions([Region("b", 20, 10), Region("a", 10, 10)], start=10, end=30)


@pytest.mark.parametrize(
    ("offset", "length", "error"),
    [(9, 1, CorruptError), (25, 1, CorruptError), (15, 6, CorruptError), (95, 6, TruncatedError)],
)
def test_regions_out_of_place(offset: int, length: int, error: type[Exception]) -> None:
    regions = [Region("entry", 20, 10), Region("pages", offset, length)]

    with pytest.raises(error, match="pages"):
        check_regions(regions, start=10, end=100)


# Bitmaps.  Page k is bit k % 64 of word k // 64.

PAGES = {0, 24, 30, 63, 64, 70}
COUNT = 71
WORDS = [sum(1 << page % 64 for page in PAGES if page // 64 == index) for index in range(2)]
LITTLE = struct.pack("<2Q", *WORDS)
BIG = struct.pack(">2Q", *WORDS)


def set_pages(canonical: bytes | bytearray) -> set[int]:
    number = int.from_bytes(canonical, "little")
    return {page for page in range(number.bit_length()) if number >> page & 1}


def test_bitmap_of_either_byte_order() -> None:
    for raw, order in ((LITTLE, "little"), (BIG, "big")):
        bitmap = bytearray(raw)
        assert decode_bitmap(bitmap, 128, order) == 0  # type: ignore[arg-type]
        assert bitmap == LITTLE
    assert encode_bitmap(LITTLE, "big") == BIG
    assert encode_bitmap(LITTLE) == LITTLE
    assert set_pages(LITTLE) == PAGES


@pytest.mark.parametrize("count", [64, 65, 70, 71, 72, 128])
def test_bits_past_the_last_page_are_ignored(count: int) -> None:
    bitmap = bytearray(LITTLE)
    strays = decode_bitmap(bitmap, count)

    assert len(bitmap) == len(LITTLE)
    assert set_pages(bitmap) == {page for page in PAGES if page < count}
    assert strays == stray_count(LITTLE, count) == len([p for p in PAGES if p >= count])
    assert stray_count(bitmap, count) == 0


def test_bitmap_is_whole_words() -> None:
    with pytest.raises(ValueError, match="64-bit"):
        decode_bitmap(bytearray(9), 65)


def test_order_is_told_by_bits_past_the_last_page() -> None:
    assert tell_bitmap_order([(LITTLE, COUNT)]) == "little"
    assert tell_bitmap_order([(BIG, COUNT)]) == "big"


def in_pages(number: int, page: int) -> bool:
    """Data of the set pages, and stale data under a clear bit, which misleads nobody."""
    return page in PAGES | {1}


def everywhere(number: int, page: int) -> bool:
    return True


def test_order_is_told_by_the_data() -> None:
    # Whole words: nothing is past the end.
    assert tell_bitmap_order([(LITTLE, 128)]) is None
    assert tell_bitmap_order([(LITTLE, 128)], [in_pages]) == "little"
    assert tell_bitmap_order([(BIG, 128)], [in_pages]) == "big"
    assert tell_bitmap_order([(BIG, 128)], [everywhere, in_pages]) == "big"
    assert tell_bitmap_order([(LITTLE, 128)], [everywhere]) is None


@pytest.mark.parametrize("bitmap", [bytes(16), b"\xff" * 16, b"\x18\0\0\0\0\0\0\x18" * 2])
def test_order_that_cannot_be_told(bitmap: bytes) -> None:
    assert tell_bitmap_order([(bitmap, 128)], [everywhere]) is None


STRAY = (1 << 56).to_bytes(8, "little"), 1
"""The bitmap of a ROM of one page, with a stray bit that another byte order would call set."""


def test_a_stray_bit_does_not_outvote_the_rest() -> None:
    # Both orders have strays now, and the data tell.
    assert tell_bitmap_order([(LITTLE, COUNT), STRAY], [in_pages]) == "little"


def test_a_stray_bit_against_the_data_is_a_contradiction() -> None:
    def in_ram(number: int, page: int) -> bool:
        return number == 0 and in_pages(number, page)

    with pytest.raises(CorruptError, match="contradict"):
        tell_bitmap_order([(LITTLE, 128), STRAY], [in_ram])


def test_strays_in_either_order_without_data_are_a_contradiction() -> None:
    with pytest.raises(CorruptError, match="contradict"):
        tell_bitmap_order([(LITTLE, COUNT), STRAY], [everywhere])


def test_order_of_a_long_bitmap_takes_few_probes() -> None:
    probes = 0

    def has_data(number: int, page: int) -> bool:
        nonlocal probes
        probes += 1
        return page % 64 < 8

    bitmaps = [(b"\xff\0\0\0\0\0\0\0" * 10_000, 640_000)] * 3
    assert tell_bitmap_order(bitmaps, [has_data]) == "little"
    assert probes <= 512
