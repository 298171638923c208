"""Payloads are taken apart as described, and never beyond their end."""

from __future__ import annotations

import json
from typing import Any

import pytest

from savefmt.errors import CorruptError
from savefmt.format.devicetree import Struct, Value, decode, decode_start, read_entries
from savefmt.format.fixedlayouts import find_entry
from savefmt.format.vmstate import Description


def field(name: str, kind: str, size: int, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, "size": size, **more}


def vmsd(*fields: dict[str, Any], name: str = "dev", **more: Any) -> dict[str, Any]:
    return {"vmsd_name": name, "version": 1, "fields": list(fields), **more}


def value_of(kind: str, data: bytes) -> Value:
    """Decode one field of this type."""
    (only,) = decode(vmsd(field("x", kind, len(data))), data).fields
    return only.value


@pytest.mark.parametrize(
    ("kind", "data", "value"),
    [
        ("bool", "00", False),
        ("bool", "02", True),
        ("uint8", "ff", 255),
        ("int8", "ff", -1),
        ("uint16", "0102", 258),
        ("int16", "fffe", -2),
        ("uint32", "fffffffe", 0xFFFFFFFE),
        ("int32", "fffffffe", -2),
        ("uint64", "ffffffffffffffff", (1 << 64) - 1),
        ("int64", "ffffffffffffffff", -1),
        ("int32 equal", "00000003", 3),
        ("uint8 equal", "03", 3),
        ("int64 equal", "ffffffffffffffff", (1 << 64) - 1),
        ("int32 le", "fffffffd", -3),
        ("timer", "ffffffffffffffff", -1),
        ("fd", "ffffffff", -1),
        ("CPU_Double_U", "3ff0000000000000", 0x3FF0000000000000),
        ("nullptr", "30", None),
        ("ptr-marker", "30", None),
        ("ptr-marker", "31", b"1"),
        ("capability", "0a6d61707065642d72616d", "mapped-ram"),
        ("buffer", "010203", b"\1\2\3"),
        ("unused_buffer", "00", b"\0"),
        ("bitmap", "8000000000000001", b"\1\0\0\0\0\0\0\x80"),
        ("pci irq state", "00000001000000020000000300000004", (1, 2, 3, 4)),
        ("pci config", "8680", b"\x86\x80"),
        ("virtio", "7e00", b"\x7e\0"),
        ("never heard of", "7e00", b"\x7e\0"),
        ("uint64", "010203040506070809", b"\1\2\3\4\5\6\7\x08\x09"),
    ],
)
def test_every_type(kind: str, data: str, value: Value) -> None:
    found = value_of(kind, bytes.fromhex(data))

    assert found == value
    assert type(found) is type(value)


def test_arrays_and_structs() -> None:
    inner = vmsd(field("a", "uint16", 2), field("b", "buffer", 1), name="inner")
    entry = vmsd(
        field("numbers", "uint32", 4, array_len=3),
        field("signed", "int8", 1, array_len=2),
        field("many", "struct", 3, array_len=2, struct=inner),
        field("one", "struct", 3, struct=inner),
        field("indexed", "uint8", 1, index=0),
        field("indexed", "uint8", 1, index=1),
        field("none", "uint32", 4, array_len=0),
    )
    payload = bytes.fromhex("000000010000000200000003 ff01 000a62 000b63 000c64 0708")

    tree = decode(entry, payload)

    assert tree.numbers("numbers") == (1, 2, 3)
    assert tree.numbers("signed") == (-1, 1)
    assert [part.number("a") for part in tree.structs("many")] == [10, 11]
    assert tree.structs("one")[0].data("b") == b"d"
    assert tree.numbers("indexed") == (7, 8)
    assert tree.values("none") == ()
    assert [(f.offset, f.length) for f in tree.fields[:3]] == [(0, 12), (12, 2), (14, 6)]
    assert tree.number("nothing") is None
    assert tree.data("numbers") is None


def test_subsections_follow_the_fields() -> None:
    deep = vmsd(field("z", "uint8", 1), name="dev/sub/deep", version=3)
    sub = vmsd(field("y", "uint8", 1), name="dev/sub", subsections=[deep])
    entry = vmsd(field("x", "uint8", 1), subsections=[sub])
    wire = b"\x01" + b"\x05\x07dev/sub\0\0\0\1\x02" + b"\x05\x0cdev/sub/deep\0\0\0\3\x03"

    tree = decode(entry, wire)

    assert tree.number("z") == 3
    assert tree.subsections[0].subsections[0].name == "dev/sub/deep"
    with pytest.raises(CorruptError, match="does not begin here"):
        decode(entry, wire.replace(b"dev/sub\0", b"dev/sux\0"))


def test_types_that_are_described_in_place() -> None:
    entry = vmsd(
        field("tmp", "tmp", 3, vmsd_name="t", version=0, fields=[field("a", "uint8", 1)] * 3),
        field("opaque", "tmp", 2),
    )

    tree = decode(entry, b"\1\2\3\4\5")

    assert tree.structs("tmp")[0].numbers("a") == (1, 2, 3)
    assert tree.data("opaque") == b"\4\5"


def entry_of(text: str) -> dict[str, Any]:
    """Return the first device of a description, as it is read from a stream."""
    whole = '{"page_size": 4096, "devices": [%s]}' % text
    description = Description.parse(whole.encode(), 0)
    (entry,) = read_entries(description).values()
    return entry


def described_list(kind: str, size: int, *elements: str) -> str:
    """Return a device with one list, whose elements stand in it as QEMU writes them."""
    keys = "".join(
        f'"vmsd_name": "e", "version": 1, "fields": [{element}], ' for element in elements
    )
    list_field = f'{{"name": "l", "type": "{kind}", {keys}"size": {size}}}'
    names = '"name": "d", "instance_id": 0, "vmsd_name": "d", "version": 1'
    return f'{{{names}, "fields": [{list_field}]}}'


BYTE = '{"name": "v", "type": "uint8", "size": 1}'
WORD = '{"name": "v", "type": "uint16", "size": 2}'


@pytest.mark.parametrize(
    ("elements", "wire", "values"),
    [
        ((), "00", ()),
        ((BYTE,), "010700", (7,)),
        ((BYTE, WORD), "0107 010108 00", (7, 0x108)),
    ],
)
def test_queues(elements: tuple[str, ...], wire: str, values: tuple[int, ...]) -> None:
    payload = bytes.fromhex(wire)

    tree = decode(entry_of(described_list("qtailq", len(payload), *elements)), payload)

    assert tuple(element.number("v") for element in tree.structs("l")) == values


def test_trees_with_keys_of_either_kind() -> None:
    direct = bytes.fromhex("00000001 01 000000000000002a 07 00")
    tree = decode(entry_of(described_list("gtree", len(direct), BYTE)), direct)
    (pair,) = tree.values("l")
    assert isinstance(pair, tuple)
    key, value = pair
    assert key == 42
    assert isinstance(value, Struct)
    assert value.number("v") == 7

    described = bytes.fromhex("00000001 01 0010 07 00")
    tree = decode(entry_of(described_list("gtree", len(described), WORD, BYTE)), described)
    (pair,) = tree.values("l")
    assert isinstance(pair, tuple)
    key = pair[0]
    assert isinstance(key, Struct)
    assert key.number("v") == 16


@pytest.mark.parametrize("wire", ["0207 00", "01 07 01", "ffffffff 00"])
def test_a_list_not_as_described_stays_opaque(wire: str) -> None:
    payload = bytes.fromhex(wire)
    for kind in ("qtailq", "gtree"):
        tree = decode(entry_of(described_list(kind, len(payload), BYTE)), payload)
        assert tree.data("l") == payload


def test_old_devices_are_one_buffer() -> None:
    entry = {"name": "old", "instance_id": 0, "size": 2, "fields": [field("data", "buffer", 2)]}

    assert decode(entry, b"ab").data("data") == b"ab"


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        (vmsd(field("x", "uint32", 4)), "leaves the payload"),
        (vmsd(field("x", "uint8", 1)), "accounts for 1 bytes of 2"),
        (vmsd(field("x", "uint8", 1, array_len=1 << 60)), "leaves the payload"),
        (vmsd(field("x", "buffer", 0, array_len=1 << 60)), "values"),
        (vmsd(field("x", "buffer", -1)), "has -1 as size"),
        (vmsd(field("x", "buffer", True)), "has True as size"),
        (vmsd(field("x", "struct", 2, struct=vmsd(field("y", "uint8", 1)))), "accounts for"),
        (vmsd(subsections=[vmsd(name="n" * 300)]), "shorter"),
    ],
)
def test_contradictions(entry: dict[str, Any], complaint: str) -> None:
    with pytest.raises(CorruptError, match=complaint):
        decode(entry, b"ab")


def test_nesting_has_an_end() -> None:
    entry = vmsd()
    for _ in range(100):
        entry = vmsd(field("x", "struct", 0, struct=entry))

    with pytest.raises(CorruptError, match="deep"):
        decode(entry, b"")


def test_the_rest_is_kept_where_only_the_start_is_known() -> None:
    tree = decode_start(vmsd(field("x", "uint8", 1)), b"abc")

    assert tree.number("x") == ord("a")
    assert tree.data("rest") == b"bc"
    assert decode_start(vmsd(field("x", "uint8", 1)), b"a").data("rest") is None


def test_fixed_layouts_must_fit() -> None:
    clock = bytes(range(128)) + bytes(50)
    entry = find_entry("mc146818rtc", 3, clock)

    assert entry is not None
    assert decode_start(entry, clock).data("cmos_data") == clock[:128]
    assert find_entry("mc146818rtc", 2, clock) is None
    assert find_entry("mc146818rtc", 3, clock[:100]) is None
    assert find_entry("cpu", 12, bytes(1817)) is not None
    assert find_entry("cpu", 12, bytes(1817) + b"\x05rest") is not None
    assert find_entry("cpu", 12, bytes(1818)) is None, "neither end nor subsection"
    assert find_entry("unknown", None, b"") is None


def test_typed_looks_everywhere() -> None:
    inner = vmsd(field("config[0]", "pci config", 2))
    entry = vmsd(field("dev", "struct", 2, struct=inner), field("more", "pci config", 1))

    found = list(decode(entry, b"abc").typed("pci config"))

    assert [item.value for item in found] == [b"ab", b"c"]


def test_entries_survive_hostile_json() -> None:
    deep = "[" * 100_000 + "]" * 100_000
    description = Description({}, deep.encode(), 7, {})

    with pytest.raises(CorruptError) as caught:
        read_entries(description)
    assert caught.value.offset == 7
    assert json.loads('{"a": 1, "a": 2}')["a"] == 2, "which is why the reader has its own hook"
