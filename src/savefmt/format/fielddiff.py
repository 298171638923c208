"""Which fields of two device states differ."""

from __future__ import annotations

from collections.abc import Iterator

from savefmt.format.devicetree import Struct, Value
from savefmt.reports import FieldDifference

_SHOWN_BYTES = 32


def field_differences(left: Struct, right: Struct) -> Iterator[FieldDifference]:
    """Yield the fields of a device that differ between two states.

    Parameters
    ----------
    left, right : Struct
        The same section of two images, decoded.

    Yields
    ------
    FieldDifference
        In the order of the left one, then what only the right one has.
    """
    mine, theirs = dict(_leaves(left)), dict(_leaves(right))
    for path, value in mine.items():
        if path not in theirs:
            yield FieldDifference(path, _text(value, value), None)
        elif value != theirs[path]:
            other = theirs[path]
            yield FieldDifference(path, _text(value, other), _text(other, value))
    for path, value in theirs.items():
        if path not in mine:
            yield FieldDifference(path, None, _text(value, value))


def _leaves(tree: Struct, prefix: str = "") -> Iterator[tuple[str, Value]]:
    """Yield every value that has no parts, by a path that is its own."""
    seen: dict[str, int] = {}
    for field in tree.fields:
        number = seen[field.name] = seen.get(field.name, 0) + 1
        name = field.name if number == 1 else f"{field.name}#{number}"
        yield from _value_leaves(field.value, f"{prefix}{name}")
    for subsection in tree.subsections:
        yield from _leaves(subsection, f"{prefix}[{subsection.name}].")


def _value_leaves(value: Value, path: str) -> Iterator[tuple[str, Value]]:
    if isinstance(value, Struct):
        yield from _leaves(value, f"{path}.")
    elif isinstance(value, tuple):
        for number, item in enumerate(value):
            yield from _value_leaves(item, f"{path}[{number}]")
    else:
        yield path, value


def _text(value: Value, other: Value) -> str:
    """Show a value; of bytes those from the first on that differs."""
    if not isinstance(value, bytes):
        return hex(value) if isinstance(value, int) and not isinstance(value, bool) else str(value)
    start = 0
    if isinstance(other, bytes) and len(value) > _SHOWN_BYTES:
        pairs = enumerate(zip(value, other, strict=False))
        first = next((at for at, (one, two) in pairs if one != two), 0)
        start = first - first % 4
    piece = value[start : start + _SHOWN_BYTES].hex(" ", -4)
    where = f"{len(value)} bytes, at {start:#x}: " if len(value) > _SHOWN_BYTES else ""
    return f"{where}{piece}"
