"""The walker names every item at its place and refuses what QEMU would not have written."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import pytest
from builder import (
    DEFAULT_DEVICES,
    DIRTY_BITMAPS,
    VIRTIO_MEM_EARLY,
    counted,
    make_stream,
    section_head,
    subsection,
)

from savefmt.errors import CorruptError, NotASaveImageError, TruncatedError, UnsupportedError
from savefmt.format.cursor import ChunkCursor, Cursor, FileCursor
from savefmt.format.ram import read_block_list
from savefmt.format.stream import (
    STREAM_HEADER,
    Command,
    Configuration,
    EndOfStream,
    ItemType,
    NeedDescription,
    SectionHead,
    StreamWalker,
    guess_payload_length,
    read_header,
)
from savefmt.format.vmstate import Description, find_at_end
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


def walker(data: bytes, findings: list[Finding] | None = None) -> StreamWalker:
    return StreamWalker(file_cursor(data), findings=findings)


def walk(
    data: bytes, cursor: Cursor, findings: list[Finding] | None = None
) -> Iterator[tuple[Command | SectionHead | EndOfStream, bytes]]:
    """Yield each item with its payload; that of `ram` is left out."""
    description = find_at_end(lambda length, at: data[at : at + length], len(data))
    configuration = read_header(cursor)
    walker = StreamWalker(cursor, description=description, findings=findings)
    while not isinstance(item := walker.next_item(), EndOfStream):
        payload = b""
        if isinstance(item, SectionHead):
            if item.idstr != "ram":
                payload = walker.read_payload(item)
            elif item.kind is ItemType.START:
                assert configuration is not None
                read_block_list(cursor, mapped="mapped-ram" in configuration.capabilities)
                cursor.skip(8)
            else:
                skip_records(cursor)
            walker.finish_section(item)
        yield item, payload
    yield item, b""
    end = Description.read(cursor)
    assert (end is None) == (description is None)
    assert cursor.peek(1) == b""


def skip_records(cursor: Cursor) -> None:
    while (word := cursor.u64()) & 0x3FF != 0x10:
        if not word & 0x20:
            cursor.counted()
        cursor.skip(4096 if word & 0x08 else 1)


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


def test_page_size_without_page_bits_is_that_of_x86() -> None:
    configuration = read_header(file_cursor(STREAM_HEADER + MACHINE))

    assert configuration is not None
    assert configuration.page_size == 4096


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


@pytest.mark.parametrize("cursor", [file_cursor, chunk_cursor])
@pytest.mark.parametrize("layout", ["sequential", "mapped-ram"])
def test_every_item_in_order(layout: str, cursor: Callable[[bytes], Cursor]) -> None:
    data = make_stream(
        layout=layout,
        commands=[(1, b""), (2, b"ping"), (3, b"")],
        early=[VIRTIO_MEM_EARLY],
        dirty_bitmaps=True,
        parts=2,
        align=4096,
    )
    items = list(walk(data, cursor(data)))

    names = [
        item.name if isinstance(item, Command) else f"{item.kind.name} {item.idstr}"
        for item, _ in items[:-1]
        if not isinstance(item, EndOfStream)
    ]
    assert names == [
        "OPEN_RETURN_PATH",
        "PING",
        "POSTCOPY_ADVISE",
        "START ram",
        "START dirty-bitmap",
        "FULL 0000:00:03.0/virtio-mem-device-early",
        "PART ram",
        "PART ram",
        "PART dirty-bitmap",
        "SWITCHOVER_START",
        "END dirty-bitmap",
        "END ram",
        "FULL timer",
        "FULL cpu_common",
        "FULL 0000:00:02.0/virtio-rng",
    ]
    assert [payload for _, payload in items[-4:-1]] == [d.content.wire() for d in DEFAULT_DEVICES]
    assert DIRTY_BITMAPS in [payload for _, payload in items]
    for item, _ in items[:-1]:
        assert not isinstance(item, EndOfStream)
        assert data[item.offset :].startswith(item.pack())
    heads = [item for item, _ in items if isinstance(item, SectionHead)]
    assert all(head.pack_footer() in data for head in heads)
    assert (heads[0].version, heads[3].version) == (4, 4), "a PART repeats what its START said"


def test_virtio_mem_tells_its_length_without_description() -> None:
    data = make_stream(early=[VIRTIO_MEM_EARLY], devices=[], description=False)

    assert VIRTIO_MEM_EARLY.content.wire() in [
        payload for _, payload in walk(data, file_cursor(data))
    ]


def test_length_that_nothing_tells() -> None:
    data = make_stream(description=False)

    with pytest.raises(NeedDescription, match="FULL section of 'timer'") as caught:
        list(walk(data, file_cursor(data)))

    assert caught.value.offset == data.index(b"\x05timer") - 5


def test_section_that_the_description_leaves_out() -> None:
    data = make_stream(devices=DEFAULT_DEVICES).replace(b'"name": "timer"', b'"name": "temer"')

    with pytest.raises(NeedDescription, match="not described"):
        list(walk(data, file_cursor(data)))


def test_stream_without_footers() -> None:
    findings: list[Finding] = []
    data = make_stream(footers=False)

    assert len(list(walk(data, file_cursor(data), findings))) == 8
    assert [finding.code for finding in findings] == ["stream.no-footers"]


def test_two_ids_for_one_section_are_odd() -> None:
    findings: list[Finding] = []
    head = section_head(1, 5, "dirty-bitmap", 0, 1) + b"\1" + footer(5)
    again = section_head(1, 6, "dirty-bitmap", 0, 1) + b"\1" + footer(6)
    stream = walker(head + head + again, findings)
    for _ in range(3):
        item = stream.next_item()
        assert isinstance(item, SectionHead)
        stream.skip_payload(item)
        stream.finish_section(item)

    assert [(finding.code, finding.offset) for finding in findings] == [("stream.two-ids", 64)]


def test_postcopy_advise_tells_page_sizes() -> None:
    stream = walker(struct.pack(">BHHQQ", 8, 3, 16, 0x201000, 0x1000) + b"\x08\0\x03\0\0")
    full, empty = stream.next_item(), stream.next_item()

    assert isinstance(full, Command)
    assert isinstance(empty, Command)
    assert full.page_size_summary == 0x201000
    assert empty.page_size_summary is None


def test_postcopy_command_in_a_file_is_odd() -> None:
    findings: list[Finding] = []
    item = walker(b"\x08\0\x04\0\0", findings).next_item()

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
        walker(data).next_item()

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
    stream = walker(section_head(1, 5, "dirty-bitmap", 0, 1) + b"\1" + footer(5) + second)
    first = stream.next_item()
    assert isinstance(first, SectionHead)
    stream.skip_payload(first)
    stream.finish_section(first)

    with pytest.raises(error) as caught:
        stream.next_item()

    assert caught.value.offset == 32  # type: ignore[attr-defined]


def test_full_section_has_no_parts() -> None:
    stream = walker(section_head(4, 5, "dirty-bitmap", 0, 1) + b"\1" + footer(5) + b"\2\0\0\0\5")
    first = stream.next_item()
    assert isinstance(first, SectionHead)
    stream.skip_payload(first)
    stream.finish_section(first)

    with pytest.raises(CorruptError, match="never started"):
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
    stream = walker(section_head(1, 5, "dirty-bitmap", 0, 1) + b"\1" + end)
    head = stream.next_item()
    assert isinstance(head, SectionHead)
    stream.skip_payload(head)

    with pytest.raises(error) as caught:
        stream.finish_section(head)

    assert caught.value.offset == 27 + (len(end) if error is TruncatedError else 0)  # type: ignore[attr-defined]


def test_footers_once_seen_stay_mandatory() -> None:
    section = section_head(1, 5, "dirty-bitmap", 0, 1) + b"\1"
    stream = walker(section + footer(5) + section + b"\0")
    for finish_fails in (False, True):
        head = stream.next_item()
        assert isinstance(head, SectionHead)
        stream.skip_payload(head)
        if finish_fails:
            with pytest.raises(CorruptError, match="belongs"):
                stream.finish_section(head)
        else:
            stream.finish_section(head)


# Payloads that tell their own end.


def word(value: int) -> bytes:
    return struct.pack(">Q", value)


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
    ],
)
def test_self_delimiting_payload(idstr: str, payload: bytes) -> None:
    data = section_head(1, 5, idstr, 0, 1) + payload + footer(5)
    for take in (StreamWalker.read_payload, StreamWalker.skip_payload):
        stream = walker(data)
        head = stream.next_item()
        assert isinstance(head, SectionHead)
        assert take(stream, head) in (payload, None)
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
        ("a/vfio", word(0xFFFFFFFFEF100001), NeedDescription),
    ],
)
def test_bad_self_delimiting_payload(idstr: str, payload: bytes, error: type[Exception]) -> None:
    stream = walker(section_head(1, 5, idstr, 0, 1) + payload)
    head = stream.next_item()
    assert isinstance(head, SectionHead)

    with pytest.raises(error):
        stream.skip_payload(head)


def test_payload_too_long_to_keep() -> None:
    stream = walker(section_head(1, 5, "dirty-bitmap", 0, 1) + b"\x40" + bytes(12) + word(1 << 60))
    head = stream.next_item()
    assert isinstance(head, SectionHead)

    with pytest.raises(UnsupportedError, match="1024 MiB"):
        stream.read_payload(head)


# Guessing.


@pytest.mark.parametrize(
    "following",
    [
        b"\0",
        b"\0\x06\0\0\0\x02{}",
        b"\x02\0\0\0\1",
        b"\x08\0\x0b\0\0",
        section_head(4, 9, "cpu", 0, 1),
    ],
)
def test_footer_is_found_behind_look_alikes(following: bytes) -> None:
    payload = b"state " + footer(5) + b"\x7e" + footer(5) + b"\x08\xff" + footer(6) + b" more"

    assert guess_payload_length(payload + footer(5) + following, 5) == len(payload)


def test_next_guess() -> None:
    data = b"state" + footer(5) + b"\0\x06" + footer(5) + b"\0"

    assert guess_payload_length(data, 5) == 5
    assert guess_payload_length(data, 5, start=6) == 12
    assert guess_payload_length(data, 5, start=13) is None
