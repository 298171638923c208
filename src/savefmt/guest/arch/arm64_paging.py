"""Page tables of AArch64: stage 1, with granules of 4, 16 and 64 KiB."""

from __future__ import annotations

from collections.abc import Iterator

from savefmt.errors import AddressError, UnsupportedError
from savefmt.frozen import dataclass
from savefmt.guest.arch.arm64 import Arm64Registers
from savefmt.guest.paging import (
    ALL,
    Leaf,
    Page,
    PageTable,
    PageTables,
    Read,
    Root,
    check_width,
    rights,
)

_TABLE = 1 << 1
_AP_USER = 1 << 6
_AP_READ_ONLY = 1 << 7
_PXN = 1 << 53
_UXN = 1 << 54

_MMU_ON = 1 << 0
_STAGE_2 = 1 << 0
_HOST = 1 << 34

_GRANULES_LOW = {0: 12, 1: 16, 2: 14}
_GRANULES_HIGH = {1: 14, 2: 12, 3: 16}


@dataclass(frozen=True, slots=True)
class _Half:
    """One of the two tables: which addresses it is for, and how it is built.

    With `wide`, physical addresses have 52 bits, and entries have room for them.
    """

    name: str
    number: int
    root: int
    size_bits: int
    granule: int
    disabled: bool
    ignore_top: bool
    wide: bool

    @property
    def address_bits(self) -> int:
        return 64 - self.size_bits

    @property
    def stride(self) -> int:
        return self.granule - 3

    @property
    def first_level(self) -> int:
        return 4 - -(-(self.address_bits - self.granule) // self.stride)

    @property
    def fits(self) -> bool:
        """Whether a processor has tables for so many bits."""
        return self.granule < self.address_bits <= (52 if self.wide else 48)

    @property
    def top(self) -> PageTable:
        """The first table, which may be shorter or longer than the others."""
        bits = self.address_bits - self._shift(self.first_level)
        return self.table(self.first_level, _table_address(self, bits), bits, ALL, self.number)

    def table(self, level: int, address: int, bits: int, granted: int, state: int) -> PageTable:
        """Return a table of a level."""
        name, shift = f"level {level} entry", self._shift(level)
        return PageTable(name, address, shift, bits, level, granted, state=state)

    def _shift(self, level: int) -> int:
        return self.granule + (3 - level) * self.stride

    def blocks_at(self, level: int) -> bool:
        """Whether an entry of this level may be a page by itself."""
        return level >= {12: 1, 14: 2, 16: 2}[self.granule] - self.wide

    def output(self, entry: int) -> int:
        """Return the address in an entry, bits above 47 included where they are moved."""
        if self.wide and self.granule == 16:
            return entry & 0xFFFF_FFFF_0000 | (entry >> 12 & 0xF) << 48
        if self.wide:
            return entry & (1 << 50) - 1 & -(1 << self.granule) | (entry >> 8 & 3) << 50
        return entry & (1 << 48) - 1 & -(1 << self.granule)


class Arm64PageTables(PageTables):
    """Paging as an AArch64 vCPU does it at its exception level.

    Parameters
    ----------
    mode : str
        Granule and address bits of the lower half, or ``none``.
    read : callable
        Reads guest-physical memory.
    tables : tuple
        The lower half and, where there is one, the upper.
    """

    def __init__(self, mode: str, read: Read, tables: tuple[_Half, ...] = ()) -> None:
        super().__init__(mode, read)
        self._halves = tables

    @classmethod
    def of(cls, registers: Arm64Registers, read: Read, root: int | None = None) -> Arm64PageTables:
        """Return the paging of a vCPU.

        Parameters
        ----------
        registers : Arm64Registers
            Its registers.
        read : callable
            Reads guest-physical memory.
        root : int, optional
            Another TTBR0 than its own.

        Returns
        -------
        Arm64PageTables
            Of its translation regime.

        Raises
        ------
        UnsupportedError
            For stage 2, EL3, and a root given while the MMU is off.
        """
        system = registers.system
        level = registers.exception_level
        hypervisor = system.get("HCR_EL2", 0)
        if level == 3 or (level < 2 and hypervisor & _STAGE_2):
            what = "EL3" if level == 3 else "a guest inside the guest (stage 2)"
            raise UnsupportedError(
                f"vCPU {registers.cpu} runs {what}, whose page tables savefmt does not read"
            )
        suffix = "EL2" if level == 2 or (level == 0 and hypervisor & _HOST) else "EL1"
        if not system.get(f"SCTLR_{suffix}", 0) & _MMU_ON:
            if root is not None:
                raise UnsupportedError(
                    f"the MMU of vCPU {registers.cpu} is off, so this vCPU does not show the "
                    "kind of the page tables; choose another vCPU"
                )
            return cls("none", read)
        both = suffix == "EL1" or bool(hypervisor & _HOST)
        control = system.get(f"TCR_{suffix}", 0)
        low = system.get(f"TTBR0_{suffix}", 0) if root is None else root
        halves = [_low_half(control, low, both)]
        if both:
            halves.append(_high_half(control, system.get(f"TTBR1_{suffix}", 0)))
        kind = f"{1 << halves[0].granule - 10}K, {halves[0].address_bits}-bit"
        return cls(kind, read, tuple(halves))

    def enter(self, address: int) -> PageTable | Page:
        """Begin at the half that the upper bits choose."""
        check_width(address, 64)
        if not self._halves:
            return Page(0, 0)
        half = self._choose(address)
        if half.disabled:
            raise AddressError(f"{address:#x} is not mapped: {half.name} is switched off")
        return half.top

    def roots(self) -> Iterator[Root]:
        """Yield the halves that are in use."""
        if not self._halves:
            yield Root(0, Page(0, 0), range(0))
        for number, half in enumerate(self._halves):
            if not half.disabled and half.fits:
                top = half.top
                virtual = (1 << 64) - (1 << half.address_bits) if number else 0
                yield Root(virtual, top, range(1 << top.bits), kernel=bool(number))

    def _choose(self, address: int) -> _Half:
        high = bool(address >> 55 & 1) and len(self._halves) > 1
        half = self._halves[high]
        if not half.fits:
            raise UnsupportedError(
                f"{half.name} is for addresses of {half.address_bits} bits, which savefmt does "
                "not read"
            )
        top = address & (1 << 56) - 1 if half.ignore_top else address
        width = 56 if half.ignore_top else 64
        expected = (1 << width - half.address_bits) - 1 if high else 0
        if top >> half.address_bits != expected:
            raise AddressError(
                f"{address:#x} is outside the {half.address_bits} bits of {half.name}"
            )
        return half

    def leaf(self, table: PageTable) -> Leaf | None:
        """Say that the entries of level 3 are pages, where no address bits are moved."""
        half = self._halves[table.state & 1]
        if table.level < 3 or half.wide:
            return None
        return Leaf(_TABLE | 1, _TABLE | 1, (1 << 48) - 1 & -(1 << half.granule))

    def decode(self, table: PageTable, entry: int) -> PageTable | Page | None:
        """Read an entry that is valid."""
        half = self._halves[table.state & 1]
        is_table = bool(entry & _TABLE)
        if is_table and table.level < 3:
            # Bits 59 to 62 of a table entry forbid things to everything below it.
            own = rights(not entry >> 62 & 1, not entry >> 61 & 1, True)
            never = (entry >> 60 & 1) * _UXN | (entry >> 59 & 1) * _PXN
            return half.table(
                *(table.level + 1, half.output(entry), half.stride),
                own & table.rights,
                table.state | never,
            )
        if not is_table and (table.level == 3 or not half.blocks_at(table.level)):
            return None
        never = (entry & (_UXN | _PXN)) | table.state & (_UXN | _PXN)
        own = rights(not entry & _AP_READ_ONLY, bool(entry & _AP_USER), never != _UXN | _PXN)
        length = 1 << table.shift
        return Page(half.output(entry) & -length, length, own & table.rights)


def _low_half(control: int, root: int, both: bool) -> _Half:
    granule = _granule(_GRANULES_LOW, control >> 14 & 3)
    return _Half(
        name="TTBR0",
        number=0,
        root=root,
        size_bits=control & 0x3F,
        granule=granule,
        disabled=both and bool(control >> 7 & 1),
        ignore_top=bool(control >> (37 if both else 20) & 1),
        wide=_is_wide(granule, control >> (32 if both else 16), control >> (59 if both else 32)),
    )


def _high_half(control: int, root: int) -> _Half:
    granule = _granule(_GRANULES_HIGH, control >> 30 & 3)
    return _Half(
        name="TTBR1",
        number=1,
        root=root,
        size_bits=control >> 16 & 0x3F,
        granule=granule,
        disabled=bool(control >> 23 & 1),
        ignore_top=bool(control >> 38 & 1),
        wide=_is_wide(granule, control >> 32, control >> 59),
    )


def _is_wide(granule: int, physical_size: int, wide_entries: int) -> bool:
    """Tell by the fields IPS and DS, given in the lowest bits, of the control register."""
    return physical_size & 7 == 6 if granule == 16 else bool(wide_entries & 1)


def _granule(sizes: dict[int, int], code: int) -> int:
    if code not in sizes:
        raise UnsupportedError(f"granule {code} is reserved")
    return sizes[code]


def _table_address(half: _Half, bits: int) -> int:
    """Return where the first table lies; one shorter than a granule has its own alignment."""
    align = max(bits + 3, 6 if half.wide else 0)
    address = half.root & (1 << 48) - 1 & -(1 << align)
    return address | (half.root >> 2 & 0xF) << 48 if half.wide else address
