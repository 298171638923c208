"""32-bit Arm: registers, ELF notes, page tables with short and long descriptors."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from savefmt.errors import AddressError, UnsupportedError
from savefmt.format.devicetree import Struct
from savefmt.guest.arch.armsystem import read_system_32
from savefmt.guest.arch.base import (
    NT_PRSTATUS,
    ByteOrder,
    CoreForm,
    CoreNote,
    CpuRegisters,
    Vcpu,
    need_all,
)
from savefmt.guest.paging import (
    ALL,
    Page,
    PageTable,
    PageTables,
    Read,
    Root,
    check_width,
    rights,
)

EM_ARM = 40
_NT_VFP = 0x400

_MODES = {
    0x10: "usr",
    0x11: "fiq",
    0x12: "irq",
    0x13: "svc",
    0x16: "mon",
    0x17: "abt",
    0x1A: "hyp",
    0x1B: "und",
    0x1F: "sys",
}
_HYPERVISOR = 0x1A
_MONITOR = 0x16
_MMU_ON = 1 << 0
_BIG_ENDIAN = 1 << 25
_ACCESS_FLAG = 1 << 29
_LONG_DESCRIPTORS = 1 << 31


def read_arm32(vcpu: Vcpu) -> CpuRegisters:
    """Read the registers from a vCPU's section; CorruptError if some are missing."""
    tree = vcpu.tree
    general = need_all(tree, "env.regs", 16)
    microcontroller = any(part.name == "cpu/m" for part in tree.subsections)
    status = int.from_bytes(tree.data("cpsr") or b"", "big")
    system = {"xpsr" if microcontroller else "cpsr": status}
    system["fpscr"] = int.from_bytes(tree.data("fpscr") or b"", "big")
    system["vfp"] = int(tree.number("env.vfp.xregs[0]") is not None)
    system |= read_system_32(tree)
    names = [f"r{number}" for number in range(16)]
    return CpuRegisters(
        architecture="arm",
        cpu=vcpu.cpu,
        bits=32,
        general=dict(zip(names, general, strict=True)),
        pc=general[15],
        vectors={f"d{number}": _double(tree, number) for number in range(32)},
        system=system,
        halted=vcpu.halted,
    )


def _double(tree: Struct, number: int) -> int:
    halves = tree.numbers(f"env.vfp.zregs[{number // 2}].d")
    return halves[number % 2] if len(halves) > number % 2 else 0


def mode_of(registers: CpuRegisters) -> str:
    """Return the processor mode in letters."""
    return _MODES.get(registers.system.get("cpsr", 0) & 0x1F, "?")


def form(registers: CpuRegisters) -> CoreForm:
    """Return how QEMU marks a core."""
    swapped = registers.system.get("SCTLR", 0) & _BIG_ENDIAN
    order: ByteOrder = "big" if swapped else "little"
    return CoreForm(EM_ARM, 32, order)


def notes(registers: CpuRegisters) -> Sequence[CoreNote]:
    """Return NT_PRSTATUS and, of a vCPU with floating point, NT_ARM_VFP."""
    order = "<" if form(registers).byte_order == "little" else ">"
    system = registers.system
    floating = system["vfp"]
    state = system.get("cpsr", system.get("xpsr", 0))
    status = struct.pack(
        f"{order}24xI44x17I4xI", registers.cpu + 1, *registers.general.values(), state, floating
    )
    found = [CoreNote(b"CORE", NT_PRSTATUS, status)]
    if floating:
        content = struct.pack(f"{order}32QI", *registers.vectors.values(), system["fpscr"])
        found.append(CoreNote(b"LINUX", _NT_VFP, content))
    return found


class Arm32PageTables(PageTables):
    """Paging as a 32-bit Arm vCPU does it, with short or long descriptors."""

    def __init__(self, mode: str, read: Read, tops: Sequence[Root] = (), af: bool = False) -> None:
        super().__init__(mode, read)
        self.entry_length = 8 if mode == "long descriptors" else 4
        self.present = (0, 0) if mode == "short descriptors" else (1, 1)
        self._tops = tops
        self._access_flag = af

    def enter(self, address: int) -> PageTable | Page:
        """Begin at the table whose addresses these are."""
        check_width(address, 32)
        if self.mode == "none":
            return Page(0, 0)
        for root in reversed(self._tops):
            if isinstance(root.top, PageTable):
                number = (address - root.virtual >> root.top.shift) + root.entries.start
                if number in root.entries:
                    return root.top
        raise AddressError(f"{address:#x} is not mapped: no page table covers it")

    def roots(self) -> Iterator[Root]:
        """Yield both tables, where there are two."""
        if self.mode == "none":
            yield Root(0, Page(0, 0), range(0))
        yield from self._tops

    def decode(self, table: PageTable, entry: int) -> PageTable | Page | None:
        """Read an entry of either kind."""
        if self.entry_length == 8:
            return self._decode_long(table, entry)
        kind = entry & 3
        if kind == 0:
            return None
        if table.level == 1:
            if kind == 1:
                return PageTable("second-level entry", entry & -1024, 12, 8, 2, ALL)
            high = bool(entry & 1 << 18)  # 16 MiB, with bits 32 to 39 in two places
            length = 1 << 24 if high else 1 << 20
            base = entry & 0xFFFF_FFFF & -length
            if high:
                base |= (entry >> 20 & 15) << 32 | (entry >> 5 & 15) << 36
            return Page(base, length, self._rights(entry >> 10, entry >> 15, entry >> 4 & 1))
        length = 1 << 16 if kind == 1 else 1 << 12
        never = entry >> 15 & 1 if kind == 1 else entry & 1
        return Page(entry & -length, length, self._rights(entry >> 4, entry >> 9, never))

    def _rights(self, access: int, extra: int, never: int) -> int:
        """Read AP[1:0], AP[2] and XN."""
        low, read_only = access & 3, extra & 1
        if self._access_flag:  # then AP[0] says that the page was used
            return rights(not read_only, bool(low & 2), not never)
        return rights(not read_only and low != 0, low >= 2, not never)

    def _decode_long(self, table: PageTable, entry: int) -> PageTable | Page | None:
        is_table = bool(entry & 2)
        address = entry & (1 << 40) - 4096
        if is_table and table.level < 3:
            return _long_table(table.level + 1, address, 9)
        if not is_table and table.level == 3:
            return None
        length = 1 << table.shift
        granted = rights(not entry & 1 << 7, bool(entry & 1 << 6), not entry & 1 << 54)
        return Page(address & -length, length, granted)


def _long_table(level: int, address: int, bits: int) -> PageTable:
    return PageTable(f"level {level} entry", address, 39 - 9 * level, bits, level)


def tables(registers: CpuRegisters, read: Read, root: int | None = None) -> PageTables:
    """Return the paging of a vCPU, `root` being another TTBR0 than its own."""
    system = registers.system
    state = system.get("cpsr")
    if state is None or "SCTLR" not in system:
        raise UnsupportedError("savefmt does not read the page tables of this vCPU")
    secure = not system.get("SCR_EL3", 1) & 1 or state & 0x1F == _MONITOR
    if secure or state & 0x1F == _HYPERVISOR:
        what = "in the secure world" if secure else "a hypervisor"
        raise UnsupportedError(
            f"vCPU {registers.cpu} runs {what}, whose page tables savefmt does not read"
        )
    if not system["SCTLR"] & _MMU_ON:
        if root is not None:
            raise UnsupportedError(
                f"the MMU of vCPU {registers.cpu} is off, so this vCPU does not show the kind "
                "of the page tables; choose another vCPU"
            )
        return Arm32PageTables("none", read)
    control = system.get("TTBCR", 0)
    low = system.get("TTBR0", 0) if root is None else root
    if control & _LONG_DESCRIPTORS:
        return Arm32PageTables(
            "long descriptors", read, _long_roots(control, low, system.get("TTBR1", 0))
        )
    return Arm32PageTables(
        "short descriptors",
        read,
        _short_roots(control, low, system.get("TTBR1", 0)),
        bool(system["SCTLR"] & _ACCESS_FLAG),
    )


def _short_roots(control: int, low: int, high: int) -> list[Root]:
    """Return TTBR0's table, for the lowest part of the addresses, and TTBR1's."""
    part = control & 7
    tops = []
    if not control & 1 << 4:
        bits = 12 - part
        top = PageTable("first-level entry", low & 0xFFFF_FFFF & -(4 << bits), 20, bits, 1)
        tops.append(Root(0, top, range(1 << bits)))
    if part and not control & 1 << 5:
        upper = PageTable("first-level entry", high & 0xFFFF_C000, 20, 12, 1)
        tops.append(Root(1 << 32 - part, upper, range(1 << 12 - part, 1 << 12), kernel=True))
    return tops


def _long_roots(control: int, low: int, high: int) -> list[Root]:
    sizes = control & 7, control >> 16 & 7
    tops = []
    if not control & 1 << 7:
        top = _first_long(low, 32 - sizes[0])
        tops.append(Root(0, top, range(1 << top.bits)))
    if not control & 1 << 23:
        width = 32 - sizes[1]
        upper = _first_long(high, width)
        start = (1 << 32) - (1 << width) if sizes[1] else 1 << 32 - sizes[0]
        if start < 1 << 32:
            count = (1 << 32) - start >> upper.shift
            first = 0 if sizes[1] else start >> upper.shift
            tops.append(Root(start, upper, range(first, first + count), kernel=True))
    return tops


def _first_long(root: int, width: int) -> PageTable:
    level = 1 if width > 30 else 2
    bits = width - (39 - 9 * level)
    address = root & (1 << 40) - 1 & -(8 << bits)
    return _long_table(level, address, bits)
