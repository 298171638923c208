"""The kernel's virtual addresses, from the page tables of a vCPU."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from savefmt.errors import AddressError, ConversionError, UnsupportedError
from savefmt.guest.paging import Level, X86PageTables
from savefmt.image import SaveImage
from savefmt.model import Finding, Severity

Mapping = tuple[int, int, int]
"""Virtual address, guest-physical address, length."""

_PRESENT = 1 << 0
_LARGE = 1 << 7
_ADDRESS = 0x000F_FFFF_FFFF_F000
_ENTRIES = struct.Struct("<512Q")
_UPPER_HALF = 256
# Linux maps one stack page there at thousands of addresses, for returns to 16-bit code.
_ESPFIX = range(0xFFFF_FF00_0000_0000, 0xFFFF_FF80_0000_0000)
_MAX_TABLES = 1 << 18
_MAX_MAPPINGS = 1 << 20


def kernel_mappings(image: SaveImage, findings: list[Finding]) -> list[Mapping]:
    """Return what the first vCPU's page tables map in the kernel's half.

    Parameters
    ----------
    image : SaveImage
        Of an x86 guest in 64-bit mode.
    findings : list of Finding
        Receives tables that lie outside of memory.

    Returns
    -------
    list of (int, int, int)
        Ascending by virtual address, neighbours joined.

    Raises
    ------
    UnsupportedError
        If the vCPU is in another mode.
    ConversionError
        If the tables have no end, as those of a forged image.
    """
    tables = image.guest.space().tables
    if not isinstance(tables, X86PageTables) or tables.mode not in ("4-level", "5-level"):
        raise UnsupportedError(
            "--kernel-va needs an x86 guest whose first vCPU runs in 64-bit mode"
        )
    walk = _Walk(tables)
    found: list[Mapping] = []
    for virtual, physical, length in walk.pages(tables.levels, tables.root & _ADDRESS, 0):
        if found:
            last = found[-1]
            if (last[0] + last[2], last[1] + last[2]) == (virtual, physical):
                found[-1] = (last[0], last[1], last[2] + length)
                continue
        if len(found) == _MAX_MAPPINGS:
            raise ConversionError("the page tables map more ranges than any kernel does")
        found.append((virtual, physical, length))
    if walk.lost:
        findings.append(
            Finding(
                "export.page-tables",
                Severity.WARNING,
                f"{walk.lost} page tables of the kernel lie where no memory is",
            )
        )
    return found


class _Walk:
    def __init__(self, tables: X86PageTables) -> None:
        self._tables = tables
        self._read = 0
        self.lost = 0

    def pages(self, levels: tuple[Level, ...], table: int, base: int) -> Iterator[Mapping]:
        """Yield the pages below a table, those of the upper half only at the root."""
        self._read += 1
        if self._read > _MAX_TABLES:
            raise ConversionError("the page tables have no end; they lead back to themselves")
        try:
            entries = _ENTRIES.unpack(self._tables.read(table, _ENTRIES.size))
        except AddressError:
            self.lost += 1
            return
        level, deeper = levels[0], levels[1:]
        root = levels == self._tables.levels
        for number in range(_UPPER_HALF if root else 0, 512):
            entry = entries[number]
            virtual = base | number << level.shift
            if root:
                virtual |= -1 << (level.shift + level.bits) & 0xFFFF_FFFF_FFFF_FFFF
            if not entry & _PRESENT or virtual in _ESPFIX:
                continue
            if not deeper or (level.large and entry & _LARGE):
                size = 1 << level.shift
                yield virtual, entry & _ADDRESS & -size, size
            else:
                yield from self.pages(deeper, entry & _ADDRESS, virtual)
