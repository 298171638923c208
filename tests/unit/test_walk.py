"""One walker knows where sections and streams end, whatever comes before, between or behind."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builder import (
    DEFAULT_DEVICES,
    DIRTY_BITMAPS,
    EOS,
    PAGE_SIZE,
    VIRTIO_MEM_EARLY,
    Device,
    Fields,
    make_stream,
    page,
    section_head,
    simple_device,
)
from oracle import compress

import savefmt
from savefmt import CorruptError, Layout, TruncatedError, UnsupportedError
from savefmt.format.cursor import ChunkCursor, Cursor, FileCursor
from savefmt.format.wire import PAGE_SIZES
from savefmt.reading.firstpages import infer_page_size
from savefmt.reading.visitors import SkimVisitor
from savefmt.reading.walk import StreamEnd, Walk

GLOBALSTATE = simple_device("globalstate", b"\0\0\0\x64paused".ljust(104, b"\0"))
LAST = (*DEFAULT_DEVICES, GLOBALSTATE)
OLDER = make_stream(devices=[simple_device("older", bytes(900)), *LAST])


def file_cursor(data: bytes) -> FileCursor:
    return FileCursor(lambda length, at: data[at : at + length], 0, len(data))


def chunk_cursor(data: bytes) -> ChunkCursor:
    return ChunkCursor((data[at : at + 333] for at in range(0, len(data), 333)), 0)


CURSORS = pytest.mark.parametrize("cursor", [file_cursor, chunk_cursor])


def walk(cursor: Cursor) -> StreamEnd:
    return Walk(cursor, SkimVisitor("image")).run()


def codes(end: StreamEnd) -> list[str]:
    return [finding.code for finding in end.findings]


def payloads(data: bytes, end: StreamEnd) -> dict[str, bytes]:
    return {
        s.idstr: data[s.offset : s.offset + s.length]
        for s in end.sections
        if s.offset is not None and s.length is not None
    }


def expected(*devices: Device) -> dict[str, bytes]:
    return {device.idstr: device.content.wire() for device in devices}


def footer(section_id: int) -> bytes:
    return struct.pack(">BI", 0x7E, section_id)


def word(value: int) -> bytes:
    return struct.pack(">Q", value)


# Where the stream ends.

BEHIND = {
    "nothing": b"",
    "zeros": bytes(5000),
    "one zero": b"\0",
    "text": b"what lay here before " * 500,
    "an older guest": OLDER[len(OLDER) // 2 :],
    "another guest": OLDER,
    "a description": b"\0\x06\0\0\0\x0e" + b'{"devices":[]}',
    "an EOF mark and a description": footer(13) + b"\0\x06\0\0\0\x02{}",
    "an item": section_head(4, 77, "ghost", 0, 1) + footer(77) + b"\0",
}


@CURSORS
@pytest.mark.parametrize("description", [True, False])
@pytest.mark.parametrize("behind", BEHIND)
def test_what_follows_is_nobodys(
    behind: str, description: bool, cursor: Callable[[bytes], Cursor]
) -> None:
    stream = make_stream(devices=LAST, description=description)
    data = stream + BEHIND[behind]

    end = walk(cursor(data))

    if description or behind != "a description":
        assert end.end == len(stream)
        assert end.followed is bool(BEHIND[behind])
        assert ("stream.trailing-data" in codes(end)) is end.followed
    assert payloads(data, end) == expected(*LAST)


@CURSORS
def test_a_description_directly_behind_the_mark_is_the_streams_own(
    cursor: Callable[[bytes], Cursor],
) -> None:
    stream = make_stream(devices=LAST, description=False)

    end = walk(cursor(stream + b'\x06\0\0\0\x0e{"devices":[]}zzz'))

    assert end.description is not None
    assert end.end == len(stream) + 5 + 14


@CURSORS
@pytest.mark.parametrize(
    "payload",
    [
        footer(12) + b"\0\x06\0\0\0\x02{}",
        footer(12) + b"\0" + bytes(50),
        footer(12) + section_head(4, 13, "decoy", 0, 1) + footer(13) + b"\0",
        b"\0\x06\0\0\0\x0e" + b'{"devices":[]}' + footer(12) + b"\x7e",
        footer(11) + footer(12)[:4] + b"\0" * 20,
        make_stream(),
    ],
)
def test_payloads_may_look_like_anything(payload: bytes, cursor: Callable[[bytes], Cursor]) -> None:
    """The description tells the lengths; what it says is tried by walking to it."""
    devices = (*DEFAULT_DEVICES[:2], simple_device("odd", payload), GLOBALSTATE)
    data = make_stream(devices=devices)

    end = walk(cursor(data + bytes(100)))

    assert payloads(data, end) == expected(*devices)
    assert end.end == len(data)
    assert codes(end) == ["stream.trailing-data"]


@CURSORS
@pytest.mark.parametrize("footers", [True, False])
def test_a_description_that_belongs_to_another_stream_is_not_taken(
    footers: bool, cursor: Callable[[bytes], Cursor]
) -> None:
    """A volume: a stream without description over the rest of one that has one."""
    stream = make_stream(devices=LAST, description=False, footers=True)
    other = make_stream(devices=[*LAST, simple_device("x", b"y")], footers=footers)

    end = walk(cursor(stream + other[-700:]))

    assert (end.end, end.description) == (len(stream), None)


@CURSORS
@pytest.mark.parametrize("missing", [1, 5, 30, 200, 700])
def test_a_stream_cut_short_is_no_stream(missing: int, cursor: Callable[[bytes], Cursor]) -> None:
    data = make_stream(devices=LAST)[:-missing]

    with pytest.raises(TruncatedError) as caught:
        walk(cursor(data))
    assert caught.value.offset == len(data)


def test_what_is_damaged_before_rams_end_is_not_called_cut() -> None:
    data = make_stream(ram_end=False, devices=[simple_device("one", b"state")])
    damaged = data.replace(b"state\x7e", b"state\0")

    with pytest.raises(UnsupportedError, match="nothing tells the length"):
        walk(file_cursor(damaged))
    with pytest.raises(TruncatedError, match="cut short"):
        walk(file_cursor(damaged[: damaged.index(b"state") + 7]))


def test_without_footers_and_description_the_rest_is_one() -> None:
    data = make_stream(devices=LAST, description=False, footers=False)

    end = walk(file_cursor(data))

    assert (end.end, end.eof) == (len(data), len(data) - 1)
    assert end.missing is not None
    assert end.sections == ()


# Iterable sections.

BLOCK = word(0x1000 | 0x01 | 0x08) + b"\3vda" + word(0x02)
VFIO_END = word(0xFFFFFFFFEF100001)
ITERABLES = {
    "dirty-bitmap": DIRTY_BITMAPS,
    "block": BLOCK,
    "spapr/htab": struct.pack(">IIHH", 0, 7, 1, 0) + b"\x7e" * 16 + bytes(8),
    "s390-storage_attributes": word(0x1002) + word(3) + b"\1\2\3" + word(0x01),
    "0000:00:05.0/vfio": word(0xFFFFFFFFEF100004) + word(9) + b"\x7e\0\0\0\x05\0\6\0{" + VFIO_END,
    "pbs-state": word(12) + footer(5) + b"\0\6\0\0\0\2{",
    "of the future": bytes(range(256)) * 9 + footer(6) + footer(5) + b"\x7e" * 7,
}


def with_iterable(name: str, payload: bytes, early: bool, **options: Any) -> bytes:
    """Build a stream with an iterable section that starts before or behind the START of RAM."""
    data = make_stream(devices=LAST, **options)
    start = section_head(1, 5, name, 0, 1) + payload + footer(5)
    part, last = (bytes([kind]) + footer(5)[1:] + payload + footer(5) for kind in (2, 3))
    ram = data.index(b"\x01\0\0\0\x02\x03ram")
    pages = data.index(b"\x02\0\0\0\x02", ram + 20)
    ended = data.index(b"\x03\0\0\0\x02", pages)
    if early:
        return data[:ram] + start + data[ram:pages] + part + data[pages:ended] + last + data[ended:]
    return data[:ram] + data[ram:pages] + start + data[pages:ended] + part + last + data[ended:]


@CURSORS
@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("name", ITERABLES)
def test_iterable_sections(name: str, early: bool, cursor: Callable[[bytes], Cursor]) -> None:
    data = with_iterable(name, ITERABLES[name], early)

    end = walk(cursor(data))

    assert end.end == len(data)
    assert payloads(data, end) == expected(*LAST)
    assert end.description is not None


@pytest.mark.parametrize("codec", ["raw", "zstd"])
@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("name", ITERABLES)
def test_iterable_sections_are_converted_both_ways(
    name: str, early: bool, codec: str, tmp_path: Path
) -> None:
    data = with_iterable(name, ITERABLES[name], early)
    (tmp_path / "a").write_bytes(data if codec == "raw" else compress(codec, data))

    savefmt.convert(tmp_path / "a", tmp_path / "b", layout=Layout.MAPPED_RAM, verify=True)
    savefmt.convert(tmp_path / "b", tmp_path / "c", layout=Layout.SEQUENTIAL, codec="raw")

    back = (tmp_path / "c").read_bytes()
    assert savefmt.compare(tmp_path / "a", tmp_path / "c").same
    assert back.count(ITERABLES[name] + footer(5)) == 3
    assert walk(file_cursor(back)).end == len(back)


@CURSORS
def test_sections_that_nobody_describes_before_ram_goes_on(
    cursor: Callable[[bytes], Cursor],
) -> None:
    thing = Device("slot/thing", Fields("thing", fields=[("f", "buffer", footer(10) + b"\x04")]))
    data = make_stream(devices=LAST, early=[thing, VIRTIO_MEM_EARLY])

    end = walk(cursor(data))

    assert payloads(data, end) == expected(thing, VIRTIO_MEM_EARLY, *LAST)


# Page sizes.


@CURSORS
@pytest.mark.parametrize("zeros", [True, False])
@pytest.mark.parametrize("size", PAGE_SIZES)
def test_page_sizes_are_told_by_the_records(
    size: int, zeros: bool, cursor: Callable[[bytes], Cursor]
) -> None:
    ram = bytes(16 * size) if zeros else page(1, size) + bytes(2 * size) + page(3, size) * 3
    blocks = {"ram": ram, "rom": bytes(2 * size)}
    data = make_stream(unit=size, blocks=blocks, early=[VIRTIO_MEM_EARLY], dirty_bitmaps=True)

    assert Walk(cursor(data), SkimVisitor("image")).read_head().blocks.page_size == size
    assert walk(cursor(data)).end == len(data)


@pytest.mark.parametrize("form", ["raw", "padded", "zstd", "gzip"])
@pytest.mark.parametrize("size", PAGE_SIZES)
def test_every_page_size_in_every_form(size: int, form: str, tmp_path: Path) -> None:
    content = page(1, size) + bytes(size) + page(2, size) * 2
    stream = make_stream(unit=size, blocks={"ram": content}, devices=LAST)
    data = {"raw": stream, "padded": stream + bytes(777)}.get(form) or compress(form, stream)
    (tmp_path / "a").write_bytes(data)

    savefmt.convert(tmp_path / "a", tmp_path / "b", layout=Layout.MAPPED_RAM, verify=True)
    savefmt.convert(tmp_path / "b", tmp_path / "c", codec="zstd", layout=Layout.SEQUENTIAL)
    savefmt.convert(tmp_path / "c", tmp_path / "d", codec="raw", verify=True)

    for name in "abcd":
        with savefmt.open(tmp_path / name) as image:
            assert image.page_size == size
            assert image.memory.read("ram", 0, len(content)) == content
    assert savefmt.check(tmp_path / "a", level=savefmt.CheckLevel.FULL).ok


def test_guests_may_write_records_into_their_pages() -> None:
    """Every page holds what might be the next record in pages half as long."""
    pages = b"".join(
        page(9, 2048) + struct.pack(">Q", number * PAGE_SIZE + 2048 | 0x28) + page(9, 2040)
        for number in range(8)
    )
    data = make_stream(blocks={"ram": pages})

    assert Walk(file_cursor(data), SkimVisitor("")).read_head().blocks.page_size == PAGE_SIZE


@CURSORS
@pytest.mark.parametrize("length", range(0, 60, 3))
def test_records_cut_short_are_no_reason_to_fail(
    length: int, cursor: Callable[[bytes], Cursor]
) -> None:
    data = make_stream()
    start = data.index(b"\x02\0\0\0\x02\0\0\0\0")

    head = Walk(cursor(data[: start + length]), SkimVisitor("")).read_head()

    assert [block.idstr for block in head.blocks.blocks][:1] == ["pc.ram"]


def test_a_page_size_that_the_description_denies_is_refused() -> None:
    data = make_stream().replace(b'"page_size": 4096', b'"page_size": 8192')

    with pytest.raises(CorruptError, match="pages of 8192 bytes"):
        walk(file_cursor(data))


# Device state alone.


@CURSORS
@pytest.mark.parametrize("configuration", [True, False])
def test_device_state_without_ram(configuration: bool, cursor: Callable[[bytes], Cursor]) -> None:
    whole = make_stream(configuration=configuration, devices=LAST, description=False)
    start = whole.index(section_head(1, 2, "ram", 0, 4))
    end_of_ram = b"\x03\0\0\0\x02" + EOS + footer(2)
    devices = whole.index(end_of_ram) + len(end_of_ram)
    data = whole[:start] + whole[devices:]

    end = walk(cursor(data))

    assert end.end == len(data)
    assert payloads(data, end) == expected(*LAST)


def test_the_page_size_is_looked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []

    def counted(*about: Any) -> int:
        looked.append(infer_page_size(*about))
        return looked[-1]

    monkeypatch.setattr("savefmt.reading.walk.infer_page_size", counted)
    path = tmp_path / "image"
    path.write_bytes(make_stream(blocks={"pc.ram": page(1)}))

    with savefmt.open(path) as image:
        assert image.devices.sections

    assert len(looked) == 1
