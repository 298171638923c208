"""The reader of items names each at its place and refuses what QEMU would not have written."""

from __future__ import annotations

import struct

import pytest
from builder import (
    DIRTY_BITMAPS,
    counted,
    section_head,
    subsection,
)

from savefmt.errors import CorruptError, NotASaveImageError, TruncatedError, UnsupportedError
from savefmt.format.configuration import Configuration
from savefmt.format.cursor import ChunkCursor, FileCursor
from savefmt.format.iterables import find
from savefmt.format.stream import (
    STREAM_HEADER,
    Advice,
    Command,
    ItemReader,
    SectionHead,
    read_header,
)
from savefmt.model import Finding

MACHINE = b"\x07" + struct.pack(">I", 11) + b"pc-q35-10.0"
BITS = subsection("configuration/target-page-bits") + struct.pack(">I", 14)
MAPPED = subsection("configuration/capabilities") + struct.pack(">I", 1) + counted("mapped-ram")
SHARED = (
    subsection("configuration/capabilities") + struct.pack(">I", 1) + counted("x-ignore-shared")
)
BOTH = (
    subsection("configuration/capabilities")
    + struct.pack(">I", 2)
    + counted("x-ignore-shared")
    + counted("mapped-ram")
)
UUID = subsection("configuration/uuid") + bytes(range(16))


def file_cursor(data: bytes, offset: int = 0) -> FileCursor:
    return FileCursor(lambda length, at: data[at : at + length], offset, len(data))


def chunk_cursor(data: bytes) -> ChunkCursor:
    return ChunkCursor((data[at : at + 7] for at in range(0, len(data), 7)), 0)


def footer(section_id: int) -> bytes:
    return struct.pack(">BI", 0x7E, section_id)


def pass_payload(stream: ItemReader, head: object) -> None:
    assert isinstance(head, SectionHead)
    framing = find(head.idstr)
    assert framing is not None
    framing(stream.cursor)


def reader(data: bytes, findings: list[Finding] | None = None) -> ItemReader:
    return ItemReader(file_cursor(data), findings=findings)


# Header and configuration.


def test_header_and_configuration() -> None:
    data = STREAM_HEADER + MACHINE + BITS + BOTH + UUID + b"\0"
    cursor = file_cursor(data)
    configuration = read_header(cursor)

    assert configuration is not None
    assert configuration.machine == "pc-q35-10.0"
    assert configuration.page_size == 16384
    assert configuration.capabilities == ("x-ignore-shared", "mapped-ram")
    assert configuration.uuid == bytes(range(16))
    assert configuration.offset == 8
    assert configuration.raw == configuration.pack() == data[8:-1]
    assert configuration.offset + configuration.length == cursor.tell() == len(data) - 1


def test_configuration_may_be_missing() -> None:
    cursor = file_cursor(STREAM_HEADER + b"\0")

    assert read_header(cursor) is None
    assert cursor.tell() == 8


def test_without_page_bits_the_page_size_is_not_told() -> None:
    configuration = read_header(file_cursor(STREAM_HEADER + MACHINE))

    assert configuration is not None
    assert configuration.page_size is None


@pytest.mark.parametrize(
    ("off", "on"),
    [
        (MACHINE, MACHINE + MAPPED),
        (MACHINE + UUID, MACHINE + MAPPED + UUID),
        (MACHINE + BITS, MACHINE + BITS + MAPPED),
        (MACHINE + BITS + UUID, MACHINE + BITS + MAPPED + UUID),
        (MACHINE + BITS + SHARED + UUID, MACHINE + BITS + BOTH + UUID),
        (MACHINE + UUID + SHARED, MACHINE + UUID + BOTH),
    ],
)
def test_capability_is_switched_where_qemu_writes_it(off: bytes, on: bytes) -> None:
    without = Configuration.read(file_cursor(off))
    with_it = Configuration.read(file_cursor(on))

    assert without.with_capability("mapped-ram", True) == with_it
    assert with_it.with_capability("mapped-ram", False) == without
    assert with_it.with_capability("mapped-ram", True) is with_it
    assert without.with_capability("mapped-ram", False) is without


def test_unknown_capability_is_kept_and_named() -> None:
    names = struct.pack(">I", 2) + counted("x-new") + counted("mapped-ram")
    data = MACHINE + subsection("configuration/capabilities") + names
    configuration = Configuration.read(file_cursor(data))

    assert configuration.unknown_capabilities == ("x-new",)
    assert configuration.with_capability("mapped-ram", False).capabilities == ("x-new",)


@pytest.mark.parametrize(
    ("data", "error", "offset"),
    [
        (b"", NotASaveImageError, 0),
        (b"not a stream", NotASaveImageError, 0),
        (b"QEVM\0\0\0\2", UnsupportedError, 4),
        (b"QEVM\0\0\0\4", NotASaveImageError, 4),
        (b"QEV", TruncatedError, 3),
        (b"QEVM\0\0", TruncatedError, 6),
        (STREAM_HEADER + b"\7\0\0\0\x0bpc", TruncatedError, 15),
        (STREAM_HEADER + b"\7\x7f\xff\xff\xff", CorruptError, 9),
        (STREAM_HEADER + MACHINE + MAPPED + MAPPED, CorruptError, 71),
        (STREAM_HEADER + MACHINE + subsection("configuration/new"), UnsupportedError, 24),
        (STREAM_HEADER + MACHINE + BITS[:-1] + b"\x20", CorruptError, 60),
        (STREAM_HEADER + MACHINE + BITS.replace(b"\0\0\0\1", b"\0\0\0\2"), UnsupportedError, 24),
        (STREAM_HEADER + MACHINE + MAPPED.replace(b"\1\x0a", b"\xff\x0a"), CorruptError, 56),
        (STREAM_HEADER + MACHINE + BOTH[:-11] + BOTH[-27:-11], CorruptError, 56),
    ],
)
def test_bad_beginning(data: bytes, error: type[Exception], offset: int) -> None:
    with pytest.raises(error) as caught:
        read_header(file_cursor(data))

    assert caught.value.offset == offset  # type: ignore[attr-defined]


# Items.


def test_two_ids_for_one_section_are_odd() -> None:
    findings: list[Finding] = []
    head = section_head(1, 5, "dirty-bitmap", 0, 1) + b"\1" + footer(5)
    again = section_head(1, 6, "dirty-bitmap", 0, 1) + b"\1" + footer(6)
    stream = reader(head + head + again, findings)
    for _ in range(3):
        item = stream.next_item()
        assert isinstance(item, SectionHead)
        pass_payload(stream, item)
        stream.finish_section(item)

    assert [(finding.code, finding.offset) for finding in findings] == [("stream.two-ids", 64)]


def test_postcopy_advise_tells_page_sizes() -> None:
    stream = reader(struct.pack(">BHHQQ", 8, 3, 16, 0x201000, 0x1000) + b"\x08\0\x03\0\0")
    full, empty = stream.next_item(), stream.next_item()

    assert isinstance(full, Command)
    assert isinstance(empty, Command)
    assert full.advice == Advice(summary=0x201000, page_size=0x1000)
    assert empty.advice is None


def test_postcopy_command_in_a_file_is_odd() -> None:
    findings: list[Finding] = []
    item = reader(b"\x08\0\x04\0\0", findings).next_item()

    assert isinstance(item, Command)
    assert item.name == "POSTCOPY_LISTEN"
    assert [finding.code for finding in findings] == ["stream.postcopy-command"]


@pytest.mark.parametrize(
    ("data", "error", "offset"),
    [
        (b"", TruncatedError, 0),
        (b"\x05", CorruptError, 0),
        (b"\x06", CorruptError, 0),
        (b"\x07", CorruptError, 0),
        (b"\x7e", CorruptError, 0),
        (b"\xff", CorruptError, 0),
        (b"\x08\0\0\0\0", CorruptError, 0),
        (b"\x08\0\x0c\0\0", CorruptError, 0),
        (b"\x08\0\x0b\0\x01x", CorruptError, 0),
        (b"\x08\0\x07\0\x04\0\0\0\0", UnsupportedError, 0),
        (b"\x08\0\x02\0\x04\0", TruncatedError, 6),
        (b"\x02\0\0\0\1", CorruptError, 0),
        (b"\x04\0\0\0\1\x05tim", TruncatedError, 9),
    ],
)
def test_bad_item(data: bytes, error: type[Exception], offset: int) -> None:
    with pytest.raises(error) as caught:
        reader(data).next_item()

    assert caught.value.offset == offset  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("second", "error"),
    [
        (section_head(1, 5, "other", 0, 1), CorruptError),
        (section_head(4, 5, "dirty-bitmap", 1, 1), CorruptError),
        (struct.pack(">BI", 2, 6), CorruptError),
    ],
)
def test_contradicting_heads(second: bytes, error: type[Exception]) -> None:
    stream = reader(section_head(1, 5, "dirty-bitmap", 0, 1) + b"\1" + footer(5) + second)
    first = stream.next_item()
    assert isinstance(first, SectionHead)
    pass_payload(stream, first)
    stream.finish_section(first)

    with pytest.raises(error) as caught:
        stream.next_item()

    assert caught.value.offset == 32  # type: ignore[attr-defined]


def test_full_section_has_no_parts() -> None:
    stream = reader(section_head(4, 5, "dirty-bitmap", 0, 1) + b"\1" + footer(5) + b"\2\0\0\0\5")
    first = stream.next_item()
    assert isinstance(first, SectionHead)
    pass_payload(stream, first)
    stream.finish_section(first)

    with pytest.raises(CorruptError, match="without a START"):
        stream.next_item()


@pytest.mark.parametrize(
    ("end", "error"),
    [
        (footer(6), CorruptError),
        (b"\x05", CorruptError),
        (b"", TruncatedError),
        (b"\x7e\0", TruncatedError),
    ],
)
def test_bad_footer(end: bytes, error: type[Exception]) -> None:
    stream = reader(section_head(1, 5, "dirty-bitmap", 0, 1) + b"\1" + end)
    head = stream.next_item()
    assert isinstance(head, SectionHead)
    pass_payload(stream, head)

    with pytest.raises(error) as caught:
        stream.finish_section(head)

    assert caught.value.offset == 27 + (len(end) if error is TruncatedError else 0)  # type: ignore[attr-defined]


def test_footers_once_seen_stay_mandatory() -> None:
    section = section_head(1, 5, "dirty-bitmap", 0, 1) + b"\1"
    stream = reader(section + footer(5) + section + b"\0")
    for finish_fails in (False, True):
        head = stream.next_item()
        assert isinstance(head, SectionHead)
        pass_payload(stream, head)
        if finish_fails:
            with pytest.raises(CorruptError, match="belongs"):
                stream.finish_section(head)
        else:
            stream.finish_section(head)


# Payloads that tell their own end.


def word(value: int) -> bytes:
    return struct.pack(">Q", value)


def vfio(kind: int) -> bytes:
    return word(0xFFFFFFFFEF100000 | kind)


@pytest.mark.parametrize(
    ("idstr", "payload"),
    [
        ("dirty-bitmap", DIRTY_BITMAPS),
        ("dirty-bitmap", b"\x80\x80\0\x01"),
        ("block", word(0x1001) + b"\3vda" + bytes(1 << 20) + word(50 << 10 | 0x04) + word(0x02)),
        ("block", word(0x200 | 0x09) + b"\3vda" + word(0x02)),
        ("spapr/htab", struct.pack(">I", 24)),
        ("spapr/htab", b"\xff\xff\xff\xff"),
        ("spapr/htab", bytes(4) + struct.pack(">IHH", 7, 2, 9) + b"\x7e" * 32 + bytes(8)),
        ("s390-storage_attributes", word(0x1002) + word(3) + b"\1\2\3" + word(0x08) + word(0x01)),
        ("s390-storage_attributes", word(0x1002) + word(3) + b"\1\2\3" + word(0x08)),
        ("pbs-state", word(5) + footer(5)),
        ("pbs-state", word(0)),
        ("a:00/vfio", vfio(3) + vfio(1)),
        (
            "vfio",
            vfio(4) + word(12) + footer(5) + b"1234567" + vfio(5) + vfio(4) + word(0) + vfio(1),
        ),
        ("a/vfio", vfio(2) + b"config" + footer(5) + vfio(1)),
        ("a/vfio", vfio(9) + b"what the future holds" + vfio(1)),
    ],
)
def test_self_delimiting_payload(idstr: str, payload: bytes) -> None:
    data = section_head(1, 5, idstr, 0, 1) + payload + footer(5)
    stream = reader(data)
    head = stream.next_item()
    pass_payload(stream, head)
    assert isinstance(head, SectionHead)
    stream.finish_section(head)
    assert stream.cursor.tell() == len(data)


@pytest.mark.parametrize(
    ("idstr", "payload", "error"),
    [
        ("dirty-bitmap", b"\x02", CorruptError),
        ("dirty-bitmap", b"\x40" + bytes(12) + word(1 << 60), TruncatedError),
        ("block", word(0x10), CorruptError),
        ("s390-storage_attributes", word(0x04), CorruptError),
        ("s390-storage_attributes", word(0x02) + word((1 << 64) - 1), TruncatedError),
        ("a/virtio-mem-device-early", word(0) + word(1 << 20) + word(0) + bytes(12), CorruptError),
        (
            "a/virtio-mem-device-early",
            word(0) + word(1 << 63) + word(1) + bytes(12),
            TruncatedError,
        ),
        ("a/vfio", vfio(3), TruncatedError),
        ("a/vfio", vfio(4) + word(1 << 62), TruncatedError),
        ("pbs-state", word(1 << 62), TruncatedError),
    ],
)
def test_bad_self_delimiting_payload(idstr: str, payload: bytes, error: type[Exception]) -> None:
    stream = reader(section_head(1, 5, idstr, 0, 1) + payload)
    head = stream.next_item()
    assert isinstance(head, SectionHead)

    with pytest.raises(error):
        pass_payload(stream, head)
