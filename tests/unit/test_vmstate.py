"""The vmdescription tells lengths, is found from the end, and is edited truthfully."""

from __future__ import annotations

import json
from typing import Any

import pytest
from builder import DEFAULT_DEVICES, MIB, VIRTIO_MEM_EARLY, Fields, make_stream
from reference import wire_length

from savefmt.errors import CorruptError, TruncatedError, UnsupportedError
from savefmt.format.cursor import FileCursor
from savefmt.format.vmstate import Description, find_at_end


def at_end(data: bytes) -> Description | None:
    return find_at_end(lambda length, at: data[at : at + length], len(data))


def found(data: bytes) -> Description:
    description = at_end(data)
    assert description is not None
    return description


def device(*fields: dict[str, Any], **more: Any) -> bytes:
    about = {"name": "x", "instance_id": 0, "vmsd_name": "x", "version": 1, "fields": fields}
    return json.dumps({"devices": [about | more]}).encode()


def data_field(length: int, **more: Any) -> dict[str, Any]:
    return {"name": "data", "type": "buffer", "size": length, **more}


# Lengths.


def test_lengths_are_those_on_the_wire() -> None:
    devices = (VIRTIO_MEM_EARLY, *DEFAULT_DEVICES)
    description = found(make_stream(early=[VIRTIO_MEM_EARLY]))

    assert description.sections == {
        (device.idstr, device.instance_id): len(device.content.wire()) for device in devices
    }
    assert description.page_size == 4096


@pytest.mark.parametrize(
    ("text", "length"),
    [
        (device(), 0),
        (device(data_field(3), data_field(4)), 7),
        (device(data_field(3, array_len=5)), 15),
        (device(data_field(3, index=5)), 3),
        (device(data_field(9, struct={"vmsd_name": "y", "fields": [data_field(4)]})), 9),
        (device(subsections=[Fields("x/y", 1, [("a", "b", b"abc")]).described()]), 6 + 3 + 3),
        (b'{"devices": [{"name": "x", "instance_id": 0, "size": 7, "fields": []}]}', 7),
    ],
)
def test_length_of_a_section(text: bytes, length: int) -> None:
    assert Description.parse(text, 0).sections == {("x", 0): length}
    assert wire_length(json.loads(text)["devices"][0]) == length


def test_length_that_the_sizes_cannot_tell_is_left_out() -> None:
    names = {"name": "capabilities", "array_len": 2, "type": "capability", "size": 16}

    assert Description.parse(device(names), 0).sections == {}


def test_first_of_duplicate_keys_counts() -> None:
    inlined = b'{"name": "l", "type": "qlist", "version": 1, "version": 2, "size": 5, "size": 6}'
    text = device(data_field(1)).replace(b'{"name": "data"', inlined + b', {"name": "data"')
    description = Description.parse(text, 0)

    assert description.sections == {("x", 0): 6}
    assert list(description.document["devices"][0]["fields"][0]) == [
        "name",
        "type",
        "version",
        "size",
    ]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"{} trailing",
        b'{"devices": {}}',
        b'{"devices": [1]}',
        b'{"devices": [{"instance_id": 0, "size": 1}]}',
        b'{"devices": [{"name": "x", "instance_id": "0", "size": 1}]}',
        b'{"devices": [{"name": "x", "instance_id": 0}]}',
        b'{"devices": NaN}',
        b'{"devices": [' + b"9" * 5000 + b"]}",
        b'{"devices": ' + b"[" * 200_000,
        device(data_field(-1)),
        device(data_field(True)),
        device(data_field(1 << 50)),
        device(data_field(1 << 40, array_len=2)),
        device(data_field(1, array_len=-1)),
        device({"name": "data"}),
        device(subsections=[{"fields": []}]),
        b'{"devices": [{"name": "x", "instance_id": 0, "size": 1},'
        b' {"name": "x", "instance_id": 0, "size": 2}]}',
    ],
)
def test_bad_text(text: bytes) -> None:
    with pytest.raises(CorruptError) as caught:
        Description.parse(text, 0x1000)

    assert caught.value.offset is not None
    assert caught.value.offset >= 0x1005


def test_subsections_nested_too_deeply() -> None:
    vmsd: dict[str, Any] = {"vmsd_name": "x", "fields": []}
    for _ in range(80):
        vmsd = {"vmsd_name": "x", "fields": [], "subsections": [vmsd]}
    text = json.dumps({"devices": [vmsd | {"name": "x", "instance_id": 0}]}).encode()

    with pytest.raises(CorruptError, match="nests"):
        Description.parse(text, 0)


# Finding and reading.


@pytest.mark.parametrize(
    "text_length", [2, 9, 300, 2700, 131072 - 5, 131072, 131074, 131075, 3 * MIB]
)
def test_found_at_the_end(text_length: int) -> None:
    text = b"{" + b" " * (text_length - 2) + b"}"
    raw = b"\x06" + len(text).to_bytes(4, "big") + text
    for before in (b"", b"\0", b"\x06\0\0\0\x06" * 3, b"\0" * 200_000, b"x" * 200_000):
        description = found(before + raw)
        assert description.raw == text
        assert description.offset == len(before)
        assert description.pack() == raw


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"\x06",
        b"no such thing",
        b"x" * 300_000,
        b"\0" * 300_000,
        b"\x06\0\0\0\x03{}",
        b"\x06\0\0\0\x01{}",
        b"\x06\0\0\0\x02{}\0",
        b"\x05\0\0\0\x02{}",
        b"\x06\0\0\0\x02[]",
        make_stream(description=False),
        make_stream(trailing=b"\n"),
    ],
)
def test_nothing_to_find(data: bytes) -> None:
    assert at_end(data) is None


def test_search_is_bounded() -> None:
    asked = 0

    def pread(length: int, offset: int) -> bytes:
        nonlocal asked
        asked += length
        return b"x" * length

    assert find_at_end(pread, 1 << 40) is None
    assert asked < 256 * MIB


def test_read_behind_eof() -> None:
    data = make_stream()
    expected = found(data)
    cursor = FileCursor(lambda length, at: data[at : at + length], expected.offset, len(data))

    assert Description.read(cursor) == expected
    assert cursor.tell() == len(data)
    assert Description.read(cursor) is None


@pytest.mark.parametrize(
    ("data", "error"),
    [(b"\x06\0\0\0\x03{}", TruncatedError), (b"\x06\x7f\0\0\0{}", UnsupportedError)],
)
def test_bad_length_behind_eof(data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        Description.read(FileCursor(lambda length, at: data[at : at + length], 0, len(data)))


# Editing.


@pytest.mark.parametrize("uuid", [None, bytes(16)])
@pytest.mark.parametrize("page_bits", [None, 14])
@pytest.mark.parametrize("guest_addresses", [None, {}])
def test_capability_is_switched_as_qemu_describes_it(
    uuid: bytes | None, page_bits: int | None, guest_addresses: dict[str, int] | None
) -> None:
    same = {"uuid": uuid, "page_bits": page_bits, "guest_addresses": guest_addresses, "blocks": {}}
    sequential = found(make_stream(**same))
    mapped = found(make_stream(**same, layout="mapped-ram"))

    assert sequential.with_capability("mapped-ram", True).raw == mapped.raw
    assert mapped.with_capability("mapped-ram", False).raw == sequential.raw
    assert mapped.with_capability("mapped-ram", True) is mapped
    assert sequential.with_capability("mapped-ram", False) is sequential


ENTRY = json.dumps(
    {
        "vmsd_name": "configuration/capabilities",
        "version": 1,
        "fields": [
            {"name": "caps_count", "type": "uint32", "size": 4},
            {"name": "capabilities", "type": "capability", "size": 11},
        ],
    }
)


@pytest.mark.parametrize(
    ("off", "on"),
    [
        ('{"configuration":{}}', '{"configuration":{"subsections": [%s]}}'),
        ('{"configuration":{"a" :\n1 }}', '{"configuration":{"a" :\n1, "subsections": [%s] }}'),
        (
            '{"a":1,"configuration":{"b":[]}}',
            '{"a":1,"configuration":{"b":[], "subsections": [%s]}}',
        ),
    ],
)
def test_other_writers_spacing_is_kept(off: str, on: str) -> None:
    without = Description.parse(off.encode(), 0)
    with_it = Description.parse((on % ENTRY).encode(), 0)

    assert without.with_capability("mapped-ram", True).raw == with_it.raw
    assert with_it.with_capability("mapped-ram", False).raw == without.raw


def test_empty_list_of_subsections_is_filled() -> None:
    description = Description.parse(b'{"configuration": {"subsections": [ ]}}', 0)

    edited = description.with_capability("mapped-ram", True)
    assert edited.raw.decode() == '{"configuration": {"subsections": [%s ]}}' % ENTRY


def test_members_behind_the_subsections_are_kept() -> None:
    text = '{"configuration": {"subsections": [%s], "fields": []}}' % ENTRY
    description = Description.parse(text.encode(), 0)

    assert description.with_capabilities([]).raw == b'{"configuration": {"fields": []}}'


def test_bytes_outside_ascii_are_kept() -> None:
    text = '{"name": "größe", "configuration": {"ü": 1}, "x": "ß"}'.encode()
    edited = Description.parse(text, 0).with_capability("mapped-ram", True)

    assert edited.with_capability("mapped-ram", False).raw == text
    assert edited.document["x"] == "ß"


def test_undescribed_configuration_stays_so() -> None:
    description = Description.parse(b'{"devices": []}', 0)

    assert description.with_capability("mapped-ram", True).raw == description.raw


def test_capabilities_that_cannot_be_told_apart() -> None:
    text = '{"configuration": {"subsections": [%s]}}' % ENTRY.replace("11", "12")
    description = Description.parse(text.encode(), 0)

    with pytest.raises(UnsupportedError, match="capabilities"):
        description.with_capability("mapped-ram", True)
    assert description.with_capabilities(["mapped-ram"]).raw.decode() == text.replace("12", "11")


@pytest.mark.parametrize(
    "configuration",
    ["1", "[]", '{"subsections": null}', '{"subsections": {}}', '{"subsections": [1]}'],
)
def test_configuration_that_cannot_be_edited(configuration: str) -> None:
    description = Description.parse(b'{"configuration": %s}' % configuration.encode(), 0x1000)

    with pytest.raises(CorruptError) as caught:
        description.with_capabilities(["mapped-ram"])
    assert caught.value.offset == 0x1005
