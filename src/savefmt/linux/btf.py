"""BTF: the types that a Linux kernel describes in its memory, as records, names and references.

Nothing in it is trusted: each offset and each reference is checked before it is followed.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from enum import IntEnum
from functools import cached_property
from typing import NamedTuple

from savefmt.errors import CorruptError

MAGIC = b"\x9f\xeb\x01"
MAX_LENGTH = 32 << 20
"""Of a kernel's BTF, which has 4 to 6 MiB."""

MAX_TYPES = 1 << 19
"""In it; there are some 120,000."""

_HEADER = struct.Struct("<HBBIIIII")
_RECORD = struct.Struct("<III")
_INFO = struct.Struct("<II")
_MAX_NAME = 512
_NAMES_KEPT = 4096
_PLACES = 16


class Kind(IntEnum):
    """What a record describes."""

    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


# Bytes that follow a record: so many, and so many for each of its items.
_FOLLOWS = {
    Kind.INT: (4, 0),
    Kind.ARRAY: (12, 0),
    Kind.STRUCT: (0, 12),
    Kind.UNION: (0, 12),
    Kind.ENUM: (0, 8),
    Kind.FUNC_PROTO: (0, 8),
    Kind.VAR: (4, 0),
    Kind.DATASEC: (0, 12),
    Kind.DECL_TAG: (4, 0),
    Kind.ENUM64: (0, 12),
}
_LENGTHS = {int(kind): _FOLLOWS.get(kind, (0, 0)) for kind in Kind}
_SIZES = [_LENGTHS.get(kind, (-1, 0))[0] for kind in range(32)]
_STEPS = [_LENGTHS.get(kind, (-1, 0))[1] for kind in range(32)]


class Record(NamedTuple):
    """One type.

    Attributes
    ----------
    kind : Kind
        What it is.
    name : str
        Empty where it has none.
    length : int
        How many members, values or parameters it has.
    flag : bool
        Bit fields, signed values, or a union: each kind has its own meaning.
    value : int
        Its size, or the number of the type that it refers to.
    at : int
        Where the data behind it begins.
    """

    kind: Kind
    name: str
    length: int
    flag: bool
    value: int
    at: int


class Member(NamedTuple):
    """A member of a structure: its name, its type, and where it lies, in bits."""

    name: str
    type: int
    offset: int
    bits: int


class Btf:
    """Types by number and by name.

    Parameters
    ----------
    data : bytes
        Header, types and strings.
    base : Btf, optional
        The kernel's own, for that of a module: it goes on where the other ends.

    Raises
    ------
    CorruptError
        If that is no BTF.
    """

    def __init__(self, data: bytes, base: Btf | None = None) -> None:
        self.base = base
        self._types, self._strings = _sections(data)
        self._found: dict[tuple[tuple[Kind, ...], str], int | None] = {}
        self._first = base.count if base else 0
        self._first_string = base.string_length if base else 0
        # Type 0, void, is the base's.
        self._offsets = array("I", [] if base else [0])
        self._offsets.extend(self._scan())

    @property
    def count(self) -> int:
        """Of all types, those of the base and void among them."""
        return self._first + len(self._offsets)

    @property
    def string_length(self) -> int:
        """Of all strings, those of the base among them."""
        return self._first_string + len(self._strings)

    def _scan(self) -> Iterator[int]:
        data, end, at, count = self._types, len(self._types), 0, 0
        unpack, sizes, steps = _INFO.unpack_from, _SIZES, _STEPS
        while at < end:
            if at + _RECORD.size > end:
                raise CorruptError("the last type is cut short", offset=at)
            _, info = unpack(data, at)
            kind = info >> 24 & 31
            extra = sizes[kind]
            if extra < 0:
                raise CorruptError(f"a type has the unknown kind {kind}", offset=at)
            if count == MAX_TYPES:
                raise CorruptError(f"more than {MAX_TYPES} types", offset=at)
            count += 1
            yield at
            at += 12 + extra + steps[kind] * (info & 0xFFFF)
        if at != end:
            raise CorruptError("the last type reaches past the end", offset=at)

    def text(self, offset: int) -> str:
        """Return the name at an offset of the strings."""
        if offset < self._first_string and self.base:
            return self.base.text(offset)
        start = offset - self._first_string
        if not 0 <= start < len(self._strings):
            raise CorruptError(f"the name at {offset:#x} is outside of the strings")
        end = self._strings.find(b"\0", start, start + _MAX_NAME)
        if end < 0:
            raise CorruptError(f"the name at {offset:#x} does not end")
        return self._strings[start:end].decode("ascii", "replace")

    def record(self, number: int) -> Record:
        """Return a type.

        Parameters
        ----------
        number : int
            As other types refer to it; 0 is void and has no record.

        Returns
        -------
        Record
            Its head.

        Raises
        ------
        CorruptError
            If there is no such type.
        """
        if self.base and number < self._first:
            return self.base.record(number)
        place = number - self._first
        if not 0 <= place < len(self._offsets) or not number:
            raise CorruptError(f"type {number} is named, and there are {self.count}")
        at = self._offsets[place]
        name, info, value = _RECORD.unpack_from(self._types, at)
        kind = Kind(info >> 24 & 31)
        return Record(
            kind, self.text(name) if name else "", info & 0xFFFF, bool(info >> 31), value, at + 12
        )

    def words(self, number: int, record: Record, width: int) -> Iterator[tuple[int, ...]]:
        """Yield what follows a record, `width` 32-bit numbers for each of its items."""
        data = self._owner(number)._types
        items = record.length if _STEPS[record.kind] else 1
        return struct.iter_unpack(f"<{width}I", data[record.at : record.at + 4 * width * items])

    def _owner(self, number: int) -> Btf:
        return self.base._owner(number) if self.base and number < self._first else self

    def members(self, number: int, record: Record) -> Iterator[Member]:
        """Yield the members of a structure or union."""
        for name, kind, offset in self.words(number, record, 3):
            bits = 0
            if record.flag:
                bits, offset = offset >> 24, offset & 0xFFFFFF
            yield Member(self.text(name) if name else "", kind, offset, bits)

    def values(self, number: int, record: Record) -> Iterator[tuple[str, int]]:
        """Yield the names and values of an enumeration."""
        if record.kind is Kind.ENUM64:
            for name, low, high in self.words(number, record, 3):
                value = low | high << 32
                yield self.text(name), value - (1 << 64) * (record.flag and value >> 63)
            return
        for name, value in self.words(number, record, 2):
            yield self.text(name), value - (1 << 32) * (record.flag and value >> 31)

    def find(self, kinds: tuple[Kind, ...], name: str) -> int | None:
        """Return the number of the type with this name, in this BTF but not in its base.

        Parameters
        ----------
        kinds : tuple of Kind
            What it may be; the first that there is.
        name : str
            Its name.

        Returns
        -------
        int or None
            None where there is no such type.
        """
        key = (kinds, name)
        if key not in self._found:
            if len(self._found) >= _NAMES_KEPT:
                self._found.clear()
            self._found[key] = self._find(kinds, name)
        return self._found[key]

    def _find(self, kinds: tuple[Kind, ...], name: str) -> int | None:
        for place in self._places(name):
            for kind in kinds:
                found = self._names.get(place << 5 | kind)
                if found is not None:
                    return found
        return None

    def _places(self, name: str) -> Iterator[int]:
        """Yield the offsets of a name in the strings, its own first, then the base's."""
        wanted, at, count = b"\0" + name.encode() + b"\0", -1, 0
        while (at := self._strings.find(wanted, at + 1)) >= 0 and count < _PLACES:
            yield at + 1 + self._first_string
            count += 1
        if self.base:
            yield from self.base._places(name)

    @cached_property
    def _names(self) -> dict[int, int]:
        """Type by the offset of its name and its kind, the first of several."""
        data, unpack, found = self._types, _INFO.unpack_from, dict[int, int]()
        for number, at in enumerate(self._offsets, self._first):
            name, info = unpack(data, at)
            if name:
                found.setdefault(name << 5 | info >> 24 & 31, number)
        if not self.base:
            found = {key: number for key, number in found.items() if number}
        return found

    def enumeration_of(self, name: str) -> int | None:
        """Return the number of the enumeration that has a value of this name."""
        for place in self._places(name):
            if place in self._enumerators:
                return self._enumerators[place]
        return None

    @cached_property
    def _enumerators(self) -> dict[int, int]:
        found = dict[int, int]()
        data = self._types
        for place, at in enumerate(self._offsets):
            kind = data[at + 7] & 31
            if kind in (Kind.ENUM, Kind.ENUM64) and place + self._first:
                count, step = data[at + 4] | data[at + 5] << 8, _STEPS[kind]
                if len(found) > MAX_TYPES:
                    break
                for item in range(at + 12, at + 12 + count * step, step):
                    name = int.from_bytes(data[item : item + 4], "little")
                    found.setdefault(name, place + self._first)
        return found


def length_of(head: bytes) -> int | None:
    """Return how long the BTF is whose first bytes these are.

    Parameters
    ----------
    head : bytes
        At least the header.

    Returns
    -------
    int or None
        None where it is none.
    """
    if len(head) < _HEADER.size:
        return None
    magic, version, _, length, types_at, types, strings_at, strings = _HEADER.unpack_from(head)
    if magic != 0xEB9F or version != 1 or not _HEADER.size <= length <= 4096:
        return None
    whole = length + max(types_at + types, strings_at + strings)
    sound = types and strings and (types_at + types <= strings_at or strings_at < types_at)
    return int(whole) if sound and whole <= MAX_LENGTH else None


def _sections(data: bytes) -> tuple[bytes, bytes]:
    """Return types and strings."""
    whole = length_of(data)
    if whole is None:
        raise CorruptError("no BTF begins here")
    if whole > len(data):
        raise CorruptError(f"the BTF is {whole} bytes long, and {len(data)} bytes of it are there")
    _, _, _, length, types_at, types, strings_at, strings = _HEADER.unpack_from(data)
    types_at, strings_at = types_at + length, strings_at + length
    return data[types_at : types_at + types], data[strings_at : strings_at + strings]
