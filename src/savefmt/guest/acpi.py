"""What QEMU's ACPI tables say of memory (ACPI specification 6.5, 5.2.6 and 5.2.16)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from savefmt.errors import SavefmtError
from savefmt.guest.needs import GuestSource

_BLOCK = "/rom@etc/acpi/tables"
_LIMIT = 2 << 20
"""QEMU keeps 128 KiB for its tables, and 2 MiB at most."""

_HEADER = struct.Struct("<4sI")
_SRAT_HEAD = 48
_MEMORY = struct.Struct("<BBIHQQII8x")  # type, length, node, -, base, bytes, -, flags
_ENABLED = 1


def memory_starts(source: GuestSource) -> frozenset[int] | None:
    """Return where memory begins, by the table of affinities (SRAT).

    QEMU makes that table for guests with NUMA nodes, and for all that can grow.  Memory is
    cut there at every hole.

    Parameters
    ----------
    source : GuestSource
        The image.

    Returns
    -------
    frozenset of int
        Guest-physical addresses; None without such a table.
    """
    length = next((b.used_length for b in source.head.blocks.blocks if b.idstr == _BLOCK), 0)
    try:
        tables = source.memory.read(_BLOCK, 0, min(length, _LIMIT)) if length else b""
    except SavefmtError:
        return None
    for signature, table in _tables(bytes(tables)):
        if signature == b"SRAT":
            return frozenset(_starts(table))
    return None


def _tables(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the tables, which lie one after the other."""
    at = 0
    while at + _HEADER.size <= len(data):
        signature, length = _HEADER.unpack_from(data, at)
        if not _HEADER.size <= length <= len(data) - at:
            return
        yield signature, data[at : at + length]
        at += length


def _starts(table: bytes) -> Iterator[int]:
    at = _SRAT_HEAD
    while at + 2 <= len(table):
        kind, length = table[at], table[at + 1]
        if length < 2:
            return
        if kind == 1 and length == _MEMORY.size and at + length <= len(table):
            *_, base, size, _, flags = _MEMORY.unpack_from(table, at)
            if flags & _ENABLED and size:
                yield base
        at += length
