"""What QEMU's ACPI tables say about memory (ACPI specification 6.5, 5.2.6, 5.2.16 and 5.2.25)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from savefmt.errors import SavefmtError
from savefmt.guest.needs import GuestSource

_BLOCK = "/rom@etc/acpi/tables"
_LIMIT = 2 << 20
"""QEMU keeps 128 KiB for its tables, and 2 MiB at most."""

_HEADER = struct.Struct("<4sI")
_SRAT_HEAD = 48
_MEMORY = struct.Struct("<BBIHQQII8x")  # type, length, node, -, base, bytes, -, flags
_ENABLED, _HOT_PLUGGABLE, _NON_VOLATILE = 1, 2, 4

_NFIT_HEAD = 40
_PART = struct.Struct("<HH")
_RANGE = struct.Struct("<16x16sQQ")  # kind, base, bytes
_PERSISTENT = bytes.fromhex("79d3f066f3b47440ac430d3318b78cdb")

_LOW_HOLE = (0xA0000, 0x100000)
"""QEMU tells nothing of these addresses on x86, where RAM lies below video memory and ROMs."""


class Affinity(NamedTuple):
    """Memory in the table of affinities: its node, where it lies, what it is."""

    node: int
    start: int
    length: int
    pluggable: bool


def affinities(source: GuestSource) -> list[Affinity]:
    """Return what the table of affinities (SRAT) says of memory.

    QEMU makes that table for guests with NUMA nodes, and for all that can grow.  Memory is
    cut there at every hole.

    Parameters
    ----------
    source : GuestSource
        The image.

    Returns
    -------
    list of Affinity
        None at all without such a table.
    """
    table = _table(source, b"SRAT")
    return list(_affinities(table)) if table else []


def node_lengths(source: GuestSource) -> list[int]:
    """Return the bytes of main memory in each node of the table of affinities, by number."""
    lengths: dict[int, int] = {}
    found = [each for each in affinities(source) if not each.pluggable]
    for each in found:
        lengths[each.node] = lengths.get(each.node, 0) + each.length
    ends = {each.start + each.length: each.node for each in found}
    if _LOW_HOLE[0] in ends and any(each.start == _LOW_HOLE[1] for each in found):
        lengths[ends[_LOW_HOLE[0]]] += _LOW_HOLE[1] - _LOW_HOLE[0]
    return [lengths[node] for node in sorted(lengths)]


def persistent_ranges(source: GuestSource) -> list[tuple[int, int]]:
    """Return (address, length) of NVDIMMs, by the firmware's table of them (NFIT)."""
    table = _table(source, b"NFIT")
    return list(_ranges(table)) if table else []


def _table(source: GuestSource, wanted: bytes) -> bytes | None:
    length = next((b.used_length for b in source.head.blocks.blocks if b.idstr == _BLOCK), 0)
    try:
        tables = source.memory.read(_BLOCK, 0, min(length, _LIMIT)) if length else b""
    except SavefmtError:
        return None
    return next((table for name, table in _tables(bytes(tables)) if name == wanted), None)


def _tables(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the tables, which lie one after the other."""
    at = 0
    while at + _HEADER.size <= len(data):
        signature, length = _HEADER.unpack_from(data, at)
        if not _HEADER.size <= length <= len(data) - at:
            return
        yield signature, data[at : at + length]
        at += length


def _affinities(table: bytes) -> Iterator[Affinity]:
    for kind, part in _parts(table, _SRAT_HEAD, lambda at: (table[at], table[at + 1])):
        if kind == 1 and len(part) == _MEMORY.size:
            _, _, node, _, base, size, _, flags = _MEMORY.unpack(part)
            if flags & _ENABLED and size:
                yield Affinity(node, base, size, bool(flags & (_HOT_PLUGGABLE | _NON_VOLATILE)))


def _ranges(table: bytes) -> Iterator[tuple[int, int]]:
    for kind, part in _parts(table, _NFIT_HEAD, lambda at: _PART.unpack_from(table, at)):
        if kind == 0 and len(part) >= _RANGE.size:
            guid, base, size = _RANGE.unpack_from(part)
            if guid == _PERSISTENT and size:
                yield base, size


def _parts(
    table: bytes, at: int, head: Callable[[int], tuple[int, int]]
) -> Iterator[tuple[int, bytes]]:
    """Yield the kind and the bytes of each structure of a table."""
    while at + _PART.size <= len(table):
        kind, length = head(at)
        if length < 2:
            return
        if at + length <= len(table):
            yield kind, table[at : at + length]
        at += length
