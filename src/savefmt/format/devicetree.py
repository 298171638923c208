"""Device payloads by the vmdescription: typed fields with names (format.md 7.2, 7.3)."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from typing import Any, Union

from savefmt.errors import CorruptError
from savefmt.format.vmstate import MAX_DEPTH, SUBSECTION_OVERHEAD, Description
from savefmt.format.wire import ItemType, decode_name, encode_name
from savefmt.frozen import dataclass

MAX_VALUES = 4 << 20
"""Values in one section: far more than QEMU writes, few enough to keep in memory."""

Value = Union[int, str, bytes, None, "Struct", tuple["Value", ...]]
"""What a field holds: a number (or truth), text, bytes, a structure, or an array of these."""

_ELEMENTS = "\0elements"
"""Key under which a list's elements are kept, which the JSON repeats in one object."""

_INTEGERS = {
    f"{sign}int{bits}{rule}": not sign
    for sign in ("", "u")
    for bits in (8, 16, 32, 64)
    for rule in ("", " equal", " le")
}
"""Types, and whether they have a sign."""
_POINTER_MARK = "ptr-marker"
"""Stands before each pointer of an array from QEMU 11.0 on; ``nullptr`` only where none is."""
_NO_POINTER = b"0"
_SIGNED_NUMBERS = frozenset({"timer", "fd"})
_LETTERS = {1: "B", 2: "H", 4: "I", 8: "Q"}
_INLINED = frozenset({"tmp", "vstruct"})
_LISTS = frozenset({"qtailq", "qlist"})


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a device.

    Attributes
    ----------
    name : str
        QEMU's name for it, such as ``env.regs``.
    type : str
        QEMU's name for how it is sent, such as ``uint64``.
    offset, length : int
        Where it lies in the payload.
    value : int, bool, str, bytes, None, Struct or tuple
        An array is a tuple; what nobody describes is bytes.
    """

    name: str
    type: str
    offset: int
    length: int
    value: Value


@dataclass(frozen=True, slots=True)
class Struct:
    """A device, or a part of one, with its fields in the order of the stream."""

    name: str
    version: int
    fields: tuple[Field, ...]
    subsections: tuple[Struct, ...] = ()

    def values(self, name: str) -> tuple[Value, ...]:
        """Return all values under a name, those of an array one by one.

        Parameters
        ----------
        name : str
            A field here or in a subsection.

        Returns
        -------
        tuple
            Empty if there is no such field.
        """
        found: list[Value] = []
        for field in self.fields:
            if field.name == name:
                found += field.value if isinstance(field.value, tuple) else (field.value,)
        for subsection in self.subsections:
            found += subsection.values(name)
        return tuple(found)

    def numbers(self, name: str) -> tuple[int, ...]:
        """Return the numbers under a name; see `values`."""
        return tuple(value for value in self.values(name) if isinstance(value, int))

    def structs(self, name: str) -> tuple[Struct, ...]:
        """Return the structures under a name; see `values`."""
        return tuple(value for value in self.values(name) if isinstance(value, Struct))

    def number(self, name: str) -> int | None:
        """Return the first number under a name, None if there is no number."""
        return next(iter(self.numbers(name)), None)

    def data(self, name: str) -> bytes | None:
        """Return the first bytes under a name, None if there are no bytes."""
        return next((value for value in self.values(name) if isinstance(value, bytes)), None)

    def typed(self, type_name: str) -> Iterator[Field]:
        """Yield all fields of a type, such as ``pci config``, however deep they lie."""
        return (field for field in self.walk() if field.type == type_name)

    def named(self, name: str) -> Iterator[Field]:
        """Yield all fields of a name, however deep they lie."""
        return (field for field in self.walk() if field.name == name)

    def walk(self) -> Iterator[Field]:
        """Yield all fields in the order of the stream, each before those inside it."""
        for field in self.fields:
            yield field
            inner = field.value if isinstance(field.value, tuple) else (field.value,)
            for value in inner:
                if isinstance(value, Struct):
                    yield from value.walk()
        for subsection in self.subsections:
            yield from subsection.walk()


def read_entries(description: Description) -> Mapping[tuple[str, int], dict[str, Any]]:
    """Return what the description says of each device, repeated keys kept.

    Parameters
    ----------
    description : Description
        Parsed before, so it is JSON of the right shape.

    Returns
    -------
    mapping of (str, int) to dict
        Entries for `decode`, by idstr and instance.
    """
    text = description.raw.decode("utf-8", "surrogateescape")
    try:
        document = json.loads(text, object_pairs_hook=_with_elements)
    except RecursionError as error:
        raise CorruptError("vmdescription nests too deeply", offset=description.offset) from error
    return {(entry["name"], entry["instance_id"]): entry for entry in document.get("devices", ())}


def _with_elements(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(reversed(pairs))  # of repeated keys the first counts
    if len(members) < len(pairs):
        elements: list[dict[str, Any]] = []
        for key, value in pairs:
            if key == "vmsd_name":
                elements.append({})
            if elements and key != "size":
                elements[-1].setdefault(key, value)
        members[_ELEMENTS] = elements
    return members


def decode(entry: Mapping[str, Any], payload: bytes | memoryview) -> Struct:
    """Decode a payload.

    Parameters
    ----------
    entry : mapping
        What the description says of it: see `read_entries`.
    payload : bytes or memoryview
        All of it.

    Returns
    -------
    Struct
        Field for field.

    Raises
    ------
    CorruptError
        If description and payload contradict each other; its offset counts from the
        payload's first byte.
    """
    decoder = _Decoder(payload)
    decoded = decoder.struct(entry, 0)
    decoder.expect_end(len(payload))
    return decoded


def decode_start(entry: Mapping[str, Any], payload: bytes | memoryview) -> Struct:
    """Decode the known part of a payload; the rest is one more field, ``rest``.

    Parameters
    ----------
    entry : mapping
        Describes how the payload begins.
    payload : bytes or memoryview
        All of it.

    Returns
    -------
    Struct
        Field for field.
    """
    decoder = _Decoder(payload)
    start = decoder.struct(entry, 0)
    if decoder.at == len(payload):
        return start
    left = bytes(payload[decoder.at :])
    rest = Field("rest", "undescribed", decoder.at, len(left), left)
    return Struct(start.name, start.version, (*start.fields, rest), start.subsections)


class _Decoder:
    """Goes through a payload once; every step is checked against what is left."""

    def __init__(self, payload: bytes | memoryview) -> None:
        self._payload = memoryview(payload)
        self._count = 0
        self.at = 0

    def expect_end(self, end: int) -> None:
        if self.at != end:
            raise CorruptError(
                f"the vmdescription accounts for {self.at} bytes of {end}", offset=self.at
            )

    def struct(self, vmsd: Mapping[str, Any], depth: int) -> Struct:
        if depth > MAX_DEPTH:
            raise CorruptError(f"vmdescription nests more than {MAX_DEPTH} deep", offset=self.at)
        fields = tuple(self.field(entry, depth) for entry in _objects(vmsd.get("fields")))
        subsections = []
        for subsection in _objects(vmsd.get("subsections")):
            self._subsection_head(subsection)
            subsections.append(self.struct(subsection, depth + 1))
        return Struct(_text(vmsd, "vmsd_name"), _version(vmsd), fields, tuple(subsections))

    def _subsection_head(self, vmsd: Mapping[str, Any]) -> None:
        name = encode_name(_text(vmsd, "vmsd_name"))
        at = self.at
        head = bytes(self._take(SUBSECTION_OVERHEAD + len(name)))
        expected = bytes([ItemType.SUBSECTION, len(name) & 0xFF]) + name
        if head[: len(expected)] != expected:
            raise CorruptError(f"subsection {decode_name(name)!r} does not begin here", offset=at)

    def field(self, entry: Mapping[str, Any], depth: int) -> Field:
        start = self.at
        size = _number(entry, "size")
        kind = _text(entry, "type")
        value: Value
        if "array_len" in entry:
            value = self._array(entry, kind, size, depth)
        else:
            value = self._one(entry, kind, size, depth)
        return Field(_text(entry, "name"), kind, start, self.at - start, value)

    def _array(
        self, entry: Mapping[str, Any], kind: str, size: int, depth: int
    ) -> tuple[Value, ...]:
        count = _number(entry, "array_len")
        if size * count > len(self._payload) - self.at:
            raise CorruptError(
                f"array {_text(entry, 'name')!r} of {count} x {size} bytes leaves the payload",
                offset=self.at,
            )
        if kind in _INTEGERS and size in _LETTERS:
            self._spend(count)
            letter = _LETTERS[size].lower() if _INTEGERS[kind] else _LETTERS[size]
            return struct.unpack(f">{count}{letter}", self._take(size * count))
        self._spend(count)
        return tuple(self._one(entry, kind, size, depth) for _ in range(count))

    def _one(self, entry: Mapping[str, Any], kind: str, size: int, depth: int) -> Value:
        self._spend(1)
        end = self.at + size
        if end > len(self._payload):
            raise CorruptError(
                f"field {_text(entry, 'name')!r} of {size} bytes leaves the payload",
                offset=self.at,
            )
        nested = entry.get("struct")
        if nested is None and kind in _INLINED and "fields" in entry:
            nested = entry
        if isinstance(nested, dict):
            value = self.struct(nested, depth + 1)
            self.expect_end(end)
            return value
        if kind in _LISTS or kind == "gtree":
            return self._list(entry, kind, size, depth)
        return _scalar(kind, self._take(size))

    def _list(self, entry: Mapping[str, Any], kind: str, size: int, depth: int) -> Value:
        """Decode a list if the description has all of its elements, else keep the bytes."""
        inner = _Decoder(self._take(size))
        inner._count = self._count
        elements = list(_objects(entry.get(_ELEMENTS)))
        if not elements and "fields" in entry:
            elements = [dict(entry)]
        try:
            value = inner.tree(elements, depth) if kind == "gtree" else inner.queue(elements, depth)
            inner.expect_end(size)
        except CorruptError:
            return bytes(inner._payload)
        finally:
            self._count = inner._count
        return value

    def queue(self, elements: list[dict[str, Any]], depth: int) -> tuple[Value, ...]:
        found = []
        for element in elements:
            self._expect_mark(1)
            found.append(self.struct(element, depth + 1))
        self._expect_mark(0)
        return tuple(found)

    def tree(self, elements: list[dict[str, Any]], depth: int) -> tuple[Value, ...]:
        count = int.from_bytes(self._take(4), "big")
        self._spend(count)
        described_keys = len(elements) == 2 * count
        described = iter(elements)
        pairs: list[Value] = []
        for _ in range(count):
            self._expect_mark(1)
            key: Value
            if described_keys:
                key = self.struct(next(described, {}), depth + 1)
            else:
                key = int.from_bytes(self._take(8), "big")
            pairs.append((key, self.struct(next(described, {}), depth + 1)))
        self._expect_mark(0)
        return tuple(pairs)

    def _expect_mark(self, mark: int) -> None:
        if self._take(1)[0] != mark:
            raise CorruptError(
                "a list is not as the vmdescription describes it", offset=self.at - 1
            )

    def _take(self, count: int) -> memoryview:
        if count > len(self._payload) - self.at:
            raise CorruptError("the payload is shorter than described", offset=self.at)
        data = self._payload[self.at : self.at + count]
        self.at += count
        return data

    def _spend(self, count: int) -> None:
        self._count += count
        if self._count > MAX_VALUES:
            raise CorruptError(f"more than {MAX_VALUES} values in one section", offset=self.at)


def _scalar(kind: str, data: memoryview) -> Value:
    if kind in _INTEGERS:
        signed = _INTEGERS[kind] and kind != "int64 equal"  # that one is unsigned (7.3)
        return int.from_bytes(data, "big", signed=signed) if len(data) <= 8 else bytes(data)
    if kind == "bool":
        return any(data)
    if kind in _SIGNED_NUMBERS and len(data) <= 8:
        return int.from_bytes(data, "big", signed=True)
    if kind == "CPU_Double_U" and len(data) == 8:
        return int.from_bytes(data, "big")
    if kind == "nullptr" or (kind == _POINTER_MARK and bytes(data) == _NO_POINTER):
        return None
    if kind == "capability" and len(data) and data[0] == len(data) - 1:
        return decode_name(bytes(data[1:]))
    if kind == "bitmap":
        return b"".join(bytes(data[at : at + 8])[::-1] for at in range(0, len(data), 8))
    if kind == "pci irq state" and len(data) == 16:
        return struct.unpack(">4I", data)
    return bytes(data)


def _objects(value: object) -> Iterator[dict[str, Any]]:
    if isinstance(value, list):
        yield from (item for item in value if isinstance(item, dict))


def _text(entry: Mapping[str, Any], key: str) -> str:
    value = entry.get(key, "")
    return value if isinstance(value, str) else repr(value)


def _number(entry: Mapping[str, Any], key: str) -> int:
    value = entry.get(key)
    if type(value) is not int or value < 0:
        raise CorruptError(f"the vmdescription has {value!r} as {key}")
    return value


def _version(entry: Mapping[str, Any]) -> int:
    value = entry.get("version", 0)
    return value if type(value) is int else 0
