"""The block list in all its shapes, the words around pages, and XBZRLE."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from builder import DEFAULT_BLOCKS, EOS, MIB, PAGE_SIZE, counted, make_stream, word
from deltas import apply_delta

from savefmt.errors import CorruptError, TruncatedError, UnsupportedError
from savefmt.format.cursor import ChunkCursor, FileCursor
from savefmt.format.mappedram import MappedRamHeader, place_all
from savefmt.format.ram import (
    EOS_WORD,
    BlockList,
    pack_block_entry,
    pack_word,
    read_block_list,
)
from savefmt.format.stream import Advice
from savefmt.format.wire import RamFlag
from savefmt.model import Finding


def file_cursor(data: bytes, offset: int = 0) -> FileCursor:
    return FileCursor(lambda length, at: data[at : at + length], offset, len(data))


def entry(name: str, length: int, *more: int) -> bytes:
    return counted(name) + struct.pack(f">{1 + len(more)}Q", length, *more)


def read(data: bytes, **options: Any) -> BlockList:
    """Read a list that an EOS word ends."""
    cursor = file_cursor(data + EOS)
    blocks = read_block_list(cursor, **options)
    assert cursor.tell() == blocks.end
    assert cursor.u64() == RamFlag.EOS
    return blocks


TWO = entry("pc.ram", 0x8000) + entry("pc.bios", 0x2000)


def test_sequential_list() -> None:
    blocks = read(word(0xA000, 4) + TWO)

    assert [(b.idstr, b.name, b.used_length, b.offset) for b in blocks.blocks] == [
        ("pc.ram", b"pc.ram", 0x8000, 8),
        ("pc.bios", b"pc.bios", 0x2000, 23),
    ]
    assert (blocks.total, blocks.page_size, blocks.offset) == (0xA000, 4096, 8)
    assert blocks["pc.bios"].page_count == 2
    assert blocks["pc.ram"].next_offset is None
    assert not blocks["pc.ram"].ignored
    with pytest.raises(KeyError):
        blocks["vga.vram"]


def test_word_may_have_been_read_before() -> None:
    assert len(read(TWO, total_word=0xA004).blocks) == 2


def test_list_may_come_in_pieces() -> None:
    data = word(0xA000, 4) + TWO
    cursor = ChunkCursor((data[at : at + 3] for at in range(0, len(data), 3)), 0)

    assert len(read_block_list(cursor).blocks) == 2


def test_empty_list() -> None:
    assert read(word(0, 4)).blocks == ()


def test_guest_addresses() -> None:
    data = entry("pc.ram", 0x8000, 0) + entry("pc.bios", 0x2000, 0xFFFC0000)
    blocks = read(word(0xA000, 4) + data, ignore_shared=True)

    assert [block.guest_address for block in blocks.blocks] == [0, 0xFFFC0000]


@pytest.mark.parametrize("huge_last", [False, True])
@pytest.mark.parametrize("ignore_shared", [False, True])
def test_backing_page_sizes_of_postcopy(huge_last: bool, ignore_shared: bool) -> None:
    address = [0x200000] if ignore_shared else []
    huge = entry("huge", 4 * MIB, 2 * MIB, *address)
    small = entry("small", 0x1000, *address)
    data = word(4 * MIB + 0x1000, 4) + (small + huge if huge_last else huge + small)
    blocks = read(data, postcopy=Advice(0x201000, 0x1000), ignore_shared=ignore_shared)

    assert blocks["huge"].backing_page_size == 2 * MIB
    assert blocks["small"].backing_page_size is None
    assert {block.guest_address for block in blocks.blocks} == {*address} or {None}
    assert (
        read(word(0xA000, 4) + TWO, postcopy=Advice(0x1000, 0x1000)).blocks[0].backing_page_size
        is None
    )


def test_name_that_is_no_utf8() -> None:
    data = word(0x1000, 4) + b"\x02\xff\xfe" + struct.pack(">Q", 0x1000)
    (block,) = read(data).blocks

    assert block.name == b"\xff\xfe"
    assert block.idstr.encode("utf-8", "surrogateescape") == block.name


@pytest.mark.parametrize(
    ("data", "error", "offset"),
    [
        (b"", TruncatedError, 0),
        (EOS, CorruptError, 0),
        (word(0x1000, 0x24) + TWO, CorruptError, 0),
        (word(1 << 60, 4), UnsupportedError, 0),
        (word(0x8000, 4) + TWO[:10], TruncatedError, 18),
        (word(0x9000, 4) + TWO, CorruptError, 31),
        (word(0xA000, 4) + entry("", 0x1000), CorruptError, 8),
        (word(0xA000, 4) + entry("a", 0), CorruptError, 10),
        (word(0xA000, 4) + entry("a", 0x801), CorruptError, 10),
        (word(0x10000, 4) + entry("pc.ram", 0x8000) * 2, CorruptError, 23),
        (word(0xB000, 4) + TWO, TruncatedError, 39),
    ],
)
def test_bad_list(data: bytes, error: type[Exception], offset: int) -> None:
    with pytest.raises(error) as caught:
        read_block_list(file_cursor(data))

    assert caught.value.offset == offset  # type: ignore[attr-defined]


def test_too_many_blocks() -> None:
    data = word(0x1000 * 5000, 4) + b"".join(entry(f"b{n}", 0x1000) for n in range(5000))

    with pytest.raises(CorruptError, match="more than 4096"):
        read_block_list(file_cursor(data))


def test_backing_page_size_outside_the_summary() -> None:
    data = word(0x2000, 4) + entry("a", 0x1000, 0x400000) + entry("b", 0x1000)

    with pytest.raises(CorruptError, match="backed"):
        read_block_list(file_cursor(data), postcopy=Advice(0x201000, 0x1000))


# Mapped-ram.


def mapped_list(data: bytes, **options: Any) -> BlockList:
    cursor = file_cursor(data, data.index(b"\x03ram") + 12)
    blocks = read_block_list(cursor, mapped=True, **options)
    assert cursor.u64() == RamFlag.EOS
    return blocks


@pytest.mark.parametrize("prefix", [b"", b"x" * 3001])
def test_mapped_list_is_as_planned(prefix: bytes) -> None:
    data = make_stream(layout="mapped-ram", prefix=prefix)
    blocks = mapped_list(data)

    assert [block.idstr for block in blocks.blocks] == list(DEFAULT_BLOCKS)
    assert blocks.page_size == PAGE_SIZE
    placements = place_all(blocks.blocks, blocks.offset, PAGE_SIZE)
    for block, placement in zip(blocks.blocks, placements, strict=True):
        assert block.header == placement.header
        assert block.header_offset == placement.header_offset
        assert block.next_offset == placement.next_offset
        assert block.bitmap_length == 8
        pages = data[placement.pages_offset :]
        assert pages.startswith(DEFAULT_BLOCKS[block.idstr])
    assert blocks.end == placements[-1].next_offset


def test_mapped_list_in_one_pass() -> None:
    data = make_stream(layout="mapped-ram", align=4096)
    start = data.index(b"\x03ram") + 12
    cursor = ChunkCursor((data[at : at + 99] for at in range(start, len(data), 99)), start)

    assert read_block_list(cursor, mapped=True) == mapped_list(data)


def test_mapped_list_tells_the_page_size() -> None:
    blocks = {"a": bytes(0x20000)}

    assert (
        mapped_list(make_stream(layout="mapped-ram", page_bits=16, blocks=blocks)).page_size
        == 65536
    )


def test_unaligned_pages_and_ignored_blocks_are_noted() -> None:
    findings: list[Finding] = []
    data = make_stream(
        layout="mapped-ram", align=4096, guest_addresses={"pc.bios": 0xE0000}, ignored={"pc.bios"}
    )
    blocks = mapped_list(data, ignore_shared=True, findings=findings)

    assert [block.ignored for block in blocks.blocks] == [False, True, False]
    assert blocks["pc.bios"].guest_address == 0xE0000
    assert blocks["pc.bios"].next_offset == blocks["/rom@etc/acpi/rsdp"].offset
    assert [finding.code for finding in findings] == [
        "mappedram.unaligned-pages",
        "mappedram.ignored-block",
        "mappedram.unaligned-pages",
    ]


def mapped_bytes(length: int, *header: int, total: int = 0x4000) -> bytes:
    """Return a list with one block of the given header, in a file of zeros."""
    data = word(total, 4) + entry("a", length) + struct.pack(">IQQQ", *header)
    return data.ljust(0x10000, b"\0")


@pytest.mark.parametrize(
    ("data", "error", "match"),
    [
        (mapped_bytes(0x4000, 1, 0x1000, 46, 0x100000), TruncatedError, "page area"),
        (mapped_bytes(0x4000, 1, 0x1000, 46, 0xF000), TruncatedError, "page area"),
        (mapped_bytes(0x4000, 1, 0x1000, 0xFFFC, 0x1000), TruncatedError, "bitmap"),
        (mapped_bytes(0x4000, 1, 0x1000, 45, 0x1000), CorruptError, "overlaps"),
        (mapped_bytes(0x4000, 1, 0x1000, 0x2000, 0x1000), CorruptError, "overlaps"),
        (mapped_bytes(0x4000, 1, 0x1000, 1, 0x1000), CorruptError, "before"),
        (mapped_bytes(0x4000, 1, 0x2000, 46, 0x2000), CorruptError, "pages of 4096"),
        (mapped_bytes(0x4000, 1, 0x1000, 0, 0), CorruptError, "no page area"),
        (mapped_bytes(0x3800, 1, 0x1000, 46, 0x1000), CorruptError, "whole pages"),
    ],
)
def test_bad_mapped_list(data: bytes, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        read_block_list(file_cursor(data), mapped=True, page_size=4096)


def test_pages_before_the_list_cannot_lead_back() -> None:
    data = bytes(0x8000) + mapped_bytes(0x4000, 1, 0x1000, 0x9000, 0x1000)

    with pytest.raises(CorruptError, match="before their header"):
        read_block_list(file_cursor(data, 0x8000), mapped=True)


def test_blocks_of_different_page_sizes() -> None:
    first = mapped_bytes(0x4000, 1, 0x1000, 46, 0x1000, total=0x8000)[:0x5000]
    second = entry("b", 0x4000) + struct.pack(">IQQQ", 1, 0x2000, 0x5100, 0x6000)

    with pytest.raises(CorruptError, match="pages of 4096"):
        read_block_list(file_cursor((first + second).ljust(0x10000, b"\0")), mapped=True)


def test_mapped_ram_with_postcopy() -> None:
    with pytest.raises(UnsupportedError, match="postcopy"):
        read_block_list(file_cursor(word(0x1000, 4)), mapped=True, postcopy=Advice(0x1000, 0x1000))


# Packing.


def test_entries_pack_as_they_are_read() -> None:
    header = MappedRamHeader(4096, 0x55, 0x100000)
    name = b"pc.ram"

    assert pack_block_entry(name, 0x8000) == entry("pc.ram", 0x8000)
    assert pack_block_entry(name, 0x8000, guest_address=7) == entry("pc.ram", 0x8000, 7)
    assert pack_block_entry(name, 0x8000, header=header) == entry("pc.ram", 0x8000) + header.pack()


def test_words_of_the_format_description() -> None:
    assert pack_word(0x4082000, RamFlag.MEM_SIZE) == bytes.fromhex("0000000004082004")
    assert EOS_WORD == EOS


# XBZRLE.


def test_delta_of_the_format_description() -> None:
    page = bytearray(4096)
    apply_delta(page, bytes.fromhex("ec0801cd"))

    assert page[1132] == 0xCD
    assert sum(page) == 0xCD


@pytest.mark.parametrize(
    ("delta", "result"),
    [
        (b"", b"........"),
        (b"\0\x01a", b"a......."),
        (b"\0\x08abcdefgh", b"abcdefgh"),
        (b"\x07\x01a", b".......a"),
        (b"\x01\x02ab\x02\x01c", b".ab..c.."),
        (b"\x81\0\x81\0a", b".a......"),
    ],
)
def test_delta(delta: bytes, result: bytes) -> None:
    page = bytearray(b"........")
    # A delta longer than the page is refused, so the page is one of many bytes.
    page += bytes(64)
    apply_delta(page, delta)

    assert page[:8] == result
    assert page[8:] == bytes(64)


@pytest.mark.parametrize(
    "delta",
    [
        b"\x01",
        b"\x80",
        b"\x80\x80\0\0",
        b"\x01\0",
        b"\x01\x02a",
        b"\x08\x01a",
        b"\x07\x02ab",
        b"\xff\x7f\x01a",
        b"\0\x01a\0\x01b",
        b"\0\x01a\x01",
        b"\0\x01a\x01\x80",
        b"\0\x07abcdefg\x01",
    ],
)
def test_bad_delta(delta: bytes) -> None:
    with pytest.raises(CorruptError) as caught:
        apply_delta(bytearray(8), delta, 0x100)

    assert caught.value.offset == 0x100
