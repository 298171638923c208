"""Page tables of x86 (format.md 8.4)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from savefmt.errors import UnsupportedError
from savefmt.guest.arch.x86 import CR0_PG, CR4_LA57, CR4_PAE, CR4_PSE, X86Registers
from savefmt.guest.paging import (
    ALL,
    EXECUTABLE,
    Leaf,
    Page,
    PageTable,
    PageTables,
    Read,
    Root,
    check_canonical,
    check_width,
    halves,
)

_ADDRESS = 0x000F_FFFF_FFFF_F000
_LARGE = 1 << 7
_NO_EXECUTE = 1 << 63
_PAGES = Leaf(1, 1, _ADDRESS)


class _Level(NamedTuple):
    """Name of the entries, lowest bit and number of bits that select one, whether pages."""

    name: str
    shift: int
    bits: int
    large: bool = False


_LONG = (
    _Level("PML5E", 48, 9),
    _Level("PML4E", 39, 9),
    _Level("PDPTE", 30, 9, large=True),
    _Level("PDE", 21, 9, large=True),
    _Level("PTE", 12, 9),
)
_LEVELS = {
    "5-level": _LONG,
    "4-level": _LONG[1:],
    "PAE": (_Level("PDPTE", 30, 2), _Level("PDE", 21, 9, large=True), _Level("PTE", 12, 9)),
    "32-bit": (_Level("PDE", 22, 10, large=True), _Level("PTE", 12, 10)),
    "none": (),
}
_ROOT = {"PAE": 0xFFFF_FFE0, "32-bit": 0xFFFF_F000}
_WIDTH = {"4-level": 48, "5-level": 57}


class X86PageTables(PageTables):
    """Paging as an x86 vCPU does it.

    Parameters
    ----------
    mode : str
        ``5-level``, ``4-level``, ``PAE``, ``32-bit`` or ``none``.
    root : int
        CR3.
    read : callable
        Reads guest-physical memory.
    large_pages : bool
        CR4.PSE, which only 32-bit paging asks for.
    """

    def __init__(self, mode: str, root: int, read: Read, large_pages: bool = True) -> None:
        super().__init__(mode, read)
        self.root = root
        self.entry_length = 4 if mode == "32-bit" else 8
        self._levels = _LEVELS[mode]
        self._large = large_pages or mode != "32-bit"

    @classmethod
    def of(cls, registers: X86Registers, read: Read, root: int | None = None) -> X86PageTables:
        """Return the paging of a vCPU.

        Parameters
        ----------
        registers : X86Registers
            Its registers.
        read : callable
            Reads guest-physical memory.
        root : int, optional
            Another CR3 than its own.

        Returns
        -------
        X86PageTables
            In the vCPU's mode.

        Raises
        ------
        UnsupportedError
            If a root is given and the vCPU does not page: then the mode is unknown.
        """
        control = registers.control
        if not control["cr0"] & CR0_PG:
            if root is not None:
                raise UnsupportedError(
                    f"vCPU {registers.cpu} does not use paging, so it does not show the kind "
                    "of the page tables; choose another vCPU"
                )
            return cls("none", 0, read)
        if registers.long_mode:
            mode = "5-level" if control["cr4"] & CR4_LA57 else "4-level"
        else:
            mode = "PAE" if control["cr4"] & CR4_PAE else "32-bit"
        top = control["cr3"] if root is None else root
        return cls(mode, top, read, bool(control["cr4"] & CR4_PSE))

    def enter(self, address: int) -> PageTable | Page:
        """Begin at CR3."""
        if self.mode in _WIDTH:
            check_canonical(address, _WIDTH[self.mode], self.mode)
        else:
            check_width(address, 32)
        return self._table(0, self.root & _ROOT.get(self.mode, _ADDRESS), ALL)

    def roots(self) -> Iterator[Root]:
        """Yield both halves in 64-bit modes, else all at once."""
        top = self._table(0, self.root & _ROOT.get(self.mode, _ADDRESS), ALL)
        if isinstance(top, Page):
            yield Root(0, top, range(0))
        elif self.mode in _WIDTH:
            yield from halves(top, _WIDTH[self.mode])
        else:
            yield Root(0, top, range(1 << top.bits))

    def decode(self, table: PageTable, entry: int) -> PageTable | Page | None:
        """Read an entry that is present."""
        level = self._levels[table.level]
        granted = table.rights
        if self.mode != "PAE" or table.level:  # the first entries of PAE have no such bits
            # Bits 1 and 2 of the entry are in the order of ours.
            granted &= entry >> 1 & 3 | (0 if entry & _NO_EXECUTE else EXECUTABLE)
        last = table.level == len(self._levels) - 1
        if not last and not (level.large and entry & _LARGE and self._large):
            return self._table(table.level + 1, entry & _ADDRESS, granted)
        length = 1 << level.shift
        base = entry & _ADDRESS & -length
        if self.entry_length == 4 and not last:  # PSE-36: bits 32 to 39 in bits 13 to 20
            base |= (entry >> 13 & 0xFF) << 32
        return Page(base, length, granted)

    def leaf(self, table: PageTable) -> Leaf | None:
        """Say that the lowest entries are pages."""
        return _PAGES if table.level == len(self._levels) - 1 else None

    def _table(self, level: int, address: int, granted: int) -> PageTable | Page:
        if not self._levels:
            return Page(0, 0)
        name, shift, bits, _ = self._levels[level]
        return PageTable(name, address, shift, bits, level, granted)
