"""What ``savefmt devices`` prints, and the doubts about device state."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypedDict

from savefmt.cli.render.document import error_values
from savefmt.cli.render.failure import ErrorValues
from savefmt.cli.render.plain import WIDTH, many, plain
from savefmt.errors import FormatError
from savefmt.format.devicetree import Field, Struct, Value
from savefmt.model import Section

if TYPE_CHECKING:
    from savefmt.reading.devices import Devices

_STEP = "  "
_EXACT_LENGTH = 4
"""Numbers of more bytes than these are text in JSON, which many readers round to 53 bits."""


class BytesValues(TypedDict):
    """The first bytes of an opaque field as hexadecimal digits, and how many there are."""

    hex: str
    length: int


class FieldValues(TypedDict):
    """A field; a number of more than 4 bytes is hexadecimal text, such as ``0x1f``."""

    name: str
    type: str
    offset: int
    length: int
    value: bool | int | str | BytesValues | StructValues | list[Any] | None


class StructValues(TypedDict):
    """A device or a part of one."""

    name: str
    version: int
    fields: list[FieldValues]
    subsections: list[StructValues]


class DeviceValues(TypedDict):
    """A device; `described` is false where the stream does not describe the section."""

    idstr: str
    instance_id: int
    version: int | None
    offset: int | None
    length: int | None
    described: bool
    state: StructValues


class DamagedValues(TypedDict):
    """A device that could not be decoded."""

    idstr: str
    instance_id: int
    error: ErrorValues


def doubts(devices: Devices) -> Iterator[str]:
    """Say what is uncertain about device sections, and so about all that is read from them.

    Parameters
    ----------
    devices : Devices
        Of an image; looked through if that was not done yet.

    Yields
    ------
    str
        One line each.
    """
    for finding in devices.findings:
        yield finding.message
    if devices.incomplete:
        yield devices.incomplete


def device_lines(section: Section, tree: Struct, described: bool, limit: int) -> Iterator[str]:
    """Tell a device's state.

    Parameters
    ----------
    section : Section
        Where it stands in the stream.
    tree : Struct
        Its fields.
    described : bool
        Whether the stream itself describes them.
    limit : int
        Bytes to show of an opaque field.

    Yields
    ------
    str
        One line.
    """
    version = "" if section.version is None else f"version {section.version}, "
    origin = "" if described else ", not described by the stream"
    length = many(section.length or 0, "byte")
    yield f"{plain(section.idstr)}/{section.instance_id} ({version}{length}{origin})"
    yield from _struct_lines(tree, _STEP, limit)


def _struct_lines(tree: Struct, indent: str, limit: int) -> Iterator[str]:
    for field in tree.fields:
        yield from _field_lines(field, indent, limit)
    for subsection in tree.subsections:
        yield f"{indent}[{plain(subsection.name)}]"
        yield from _struct_lines(subsection, indent + _STEP, limit)


def _field_lines(field: Field, indent: str, limit: int) -> Iterator[str]:
    name, kind = plain(field.name), plain(field.type)
    yield from _value_lines(f"{indent}{name}", f" ({kind})", field.value, indent, limit)


def _value_lines(name: str, kind: str, value: Value, indent: str, limit: int) -> Iterator[str]:
    if isinstance(value, Struct):
        yield f"{name}{kind}:"
        yield from _struct_lines(value, indent + _STEP, limit)
    elif isinstance(value, tuple) and any(isinstance(item, (Struct, tuple)) for item in value):
        for number, item in enumerate(value):
            yield from _value_lines(f"{name}[{number}]", kind, item, indent, limit)
    else:
        yield from textwrap.wrap(
            f"{name}{kind} = {_scalar(value, limit)}",
            width=WIDTH,
            subsequent_indent=indent + 2 * _STEP,
            break_on_hyphens=False,
        )


def _scalar(value: Value, limit: int) -> str:
    if isinstance(value, bytes):
        shown = value[:limit].hex(" ", -4)
        more = f" ... {len(value)} bytes in all" if len(value) > limit else ""
        return f"{shown}{more}" if value else "no bytes"
    if isinstance(value, tuple):
        return ", ".join(_scalar(item, limit) for item in value) or "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value} ({value:#x})" if abs(value) > 9 else str(value)
    return "null" if value is None else plain(str(value))


def device_values(section: Section, tree: Struct, described: bool, limit: int) -> DeviceValues:
    """Turn a device into what JSON can hold; the parameters are those of `device_lines`."""
    return {
        "idstr": section.idstr,
        "instance_id": section.instance_id,
        "version": section.version,
        "offset": section.offset,
        "length": section.length,
        "described": described,
        "state": _struct_values(tree, limit),
    }


def damaged_values(section: Section, error: FormatError) -> DamagedValues:
    """Turn a device that could not be decoded into values that JSON can hold."""
    return {
        "idstr": section.idstr,
        "instance_id": section.instance_id,
        "error": error_values(error),
    }


def _struct_values(tree: Struct, limit: int) -> StructValues:
    return {
        "name": tree.name,
        "version": tree.version,
        "fields": [
            {
                "name": field.name,
                "type": field.type,
                "offset": field.offset,
                "length": field.length,
                "value": _plain_value(field.value, _item_length(field), limit),
            }
            for field in tree.fields
        ],
        "subsections": [_struct_values(subsection, limit) for subsection in tree.subsections],
    }


def _item_length(field: Field) -> int:
    """Return the bytes of a field, or of one element of an array."""
    count = len(field.value) if isinstance(field.value, tuple) else 1
    return field.length // count if count else 0


def _plain_value(value: Value, length: int, limit: int) -> Any:
    if isinstance(value, Struct):
        return _struct_values(value, limit)
    if isinstance(value, tuple):
        return [_plain_value(item, length, limit) for item in value]
    if isinstance(value, bytes):
        return {"hex": value[:limit].hex(), "length": len(value)}
    if isinstance(value, int) and not isinstance(value, bool) and length > _EXACT_LENGTH:
        return hex(value)
    return value
