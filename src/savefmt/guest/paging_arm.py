"""Page tables of AArch64: stage 1, with granules of 4, 16 and 64 KiB."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from savefmt.errors import AddressError, UnsupportedError
from savefmt.frozen import dataclass
from savefmt.guest.paging import Read, Step, Translation, not_mapped, read_entry
from savefmt.guest.registers_arm import Arm64Registers

_VALID = 1 << 0
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

    def shift(self, level: int) -> int:
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


@dataclass(frozen=True, slots=True)
class ArmEntry:
    """An entry that is valid: a page, or the table for what begins at `virtual`."""

    virtual: int
    physical: int
    length: int
    level: int
    page: bool


@dataclass(frozen=True, slots=True)
class Arm64PageTables:
    """Paging as an AArch64 vCPU does it at its exception level.

    Attributes
    ----------
    mode : str
        Granule and address bits of the lower half, or ``none``.
    read : callable
        Reads guest-physical memory.
    """

    mode: str
    read: Read
    _halves: tuple[_Half, ...] = ()

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
            raise UnsupportedError(f"vCPU {registers.cpu} runs {what}, whose tables are not read")
        suffix = "EL2" if level == 2 or (level == 0 and hypervisor & _HOST) else "EL1"
        if not system.get(f"SCTLR_{suffix}", 0) & _MMU_ON:
            if root is not None:
                raise UnsupportedError(
                    f"the MMU of vCPU {registers.cpu} is off, so it cannot tell what kind of "
                    "tables these are; choose another one"
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

    def translate(self, address: int) -> Translation:
        """Walk to the page of an address.

        Parameters
        ----------
        address : int
            Virtual.

        Returns
        -------
        Translation
            With the entries on the way.

        Raises
        ------
        AddressError
            If no page is mapped there, or a table lies outside of memory.
        UnsupportedError
            If the control register asks for what no processor has.
        """
        if not 0 <= address < 1 << 64:
            raise AddressError(f"{address:#x} needs more than 64 bits")
        if not self._halves:
            return Translation(address, address, 0, True, True, True)
        half = self._choose(address)
        if half.disabled:
            raise AddressError(f"{address:#x} is not mapped: {half.name} is switched off")
        return self._walk(half, address)

    def lower_entries(self, table: int | None, level: int, base: int) -> Iterator[ArmEntry]:
        """Yield what a table of the lower half holds.

        Parameters
        ----------
        table : int or None
            Where it lies; None for the first one.
        level : int
            Of the table, unless it is the first.
        base : int
            Virtual address that it begins at.

        Yields
        ------
        ArmEntry
            Ascending, what is not valid left out.
        """
        if not self._halves or self._halves[0].disabled:
            return
        half = self._halves[0]
        if not half.granule < half.address_bits <= (52 if half.wide else 48):
            return
        count = 1 << half.stride
        if table is None:
            table, level = _table_address(half), half.first_level
            count = 1 << half.address_bits - half.shift(level)
        length = 1 << half.shift(level)
        try:
            data = self.read(table, 8 * count)
        except (AddressError, UnsupportedError):
            return
        for number, entry in enumerate(struct.unpack(f"<{len(data) // 8}Q", data)):
            if not entry & _VALID:
                continue
            is_table = bool(entry & _TABLE)
            page = is_table if level == 3 else not is_table and half.blocks_at(level)
            if not page and not is_table:
                continue
            physical = half.output(entry) & (-length if page else -1)
            yield ArmEntry(base + number * length, physical, length, level, page)

    def _choose(self, address: int) -> _Half:
        high = bool(address >> 55 & 1) and len(self._halves) > 1
        half = self._halves[high]
        if not half.granule < half.address_bits <= (52 if half.wide else 48):
            raise UnsupportedError(f"{half.name} for addresses of {half.address_bits} bits")
        top = address & (1 << 56) - 1 if half.ignore_top else address
        width = 56 if half.ignore_top else 64
        expected = (1 << width - half.address_bits) - 1 if high else 0
        if top >> half.address_bits != expected:
            raise AddressError(
                f"{address:#x} lies outside of the {half.address_bits} bits of {half.name}"
            )
        return half

    def _walk(self, half: _Half, address: int) -> Translation:
        walked = list(self._entries(half, address))
        entry = walked[-1][1].entry
        tables = [step.entry for _, step in walked[:-1]]
        page = 1 << half.shift(walked[-1][0])
        # What a table forbids to all below it stands in bits 59 to 62.
        never = entry & (_UXN | _PXN)
        for table in tables:
            never |= (table >> 60 & 1) * _UXN | (table >> 59 & 1) * _PXN
        return Translation(
            address,
            half.output(entry) & -page | address & page - 1,
            page,
            not entry & _AP_READ_ONLY and not any(table >> 62 & 1 for table in tables),
            bool(entry & _AP_USER) and not any(table >> 61 & 1 for table in tables),
            never != _UXN | _PXN,
            tuple(step for _, step in walked),
        )

    def _entries(self, half: _Half, address: int) -> Iterator[tuple[int, Step]]:
        """Yield the level and the entry for each step down to the page."""
        table, bits = _table_address(half), half.address_bits
        for level in range(half.first_level, 4):
            shift = half.shift(level)
            at, name = table + ((address & (1 << bits) - 1) >> shift) * 8, f"level {level} entry"
            step = Step(name, at, read_entry(self.read, at, 8, name, address))
            is_table = bool(step.entry & _TABLE)
            leaf = is_table if level == 3 else not is_table and half.blocks_at(level)
            if not step.entry & _VALID or not (leaf or (is_table and level < 3)):
                raise not_mapped(address, step)
            yield level, step
            if leaf:
                return
            table, bits = half.output(step.entry), shift


def _low_half(control: int, root: int, both: bool) -> _Half:
    granule = _granule(_GRANULES_LOW, control >> 14 & 3)
    return _Half(
        name="TTBR0",
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
        root=root,
        size_bits=control >> 16 & 0x3F,
        granule=granule,
        disabled=bool(control >> 23 & 1),
        ignore_top=bool(control >> 38 & 1),
        wide=_is_wide(granule, control >> 32, control >> 59),
    )


def _is_wide(granule: int, physical_size: int, wide_entries: int) -> bool:
    """Tell by the fields IPS and DS, which stand in the lowest bits, of the control register."""
    return physical_size & 7 == 6 if granule == 16 else bool(wide_entries & 1)


def _granule(sizes: dict[int, int], code: int) -> int:
    if code not in sizes:
        raise UnsupportedError(f"granule {code} is reserved")
    return sizes[code]


def _table_address(half: _Half) -> int:
    """Return where the first table lies; one shorter than a granule has its own alignment."""
    entries = half.address_bits - half.shift(half.first_level)
    align = max(entries + 3, 6 if half.wide else 0)
    address = half.root & (1 << 48) - 1 & -(1 << align)
    return address | (half.root >> 2 & 0xF) << 48 if half.wide else address
