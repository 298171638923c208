"""RISC-V: registers, ELF notes, page tables Sv32, Sv39, Sv48 and Sv57."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from savefmt.errors import UnsupportedError
from savefmt.format.devicetree import Struct
from savefmt.guest.arch.base import (
    NT_PRSTATUS,
    CoreForm,
    CoreNote,
    CpuRegisters,
    Vcpu,
    field_length,
    need,
    need_all,
)
from savefmt.guest.paging import (
    ALL,
    Page,
    PageTable,
    PageTables,
    Read,
    Root,
    check_canonical,
    check_width,
    halves,
    rights,
)

EM_RISCV = 243

GENERAL = (
    *("zero", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "s0", "s1"),
    *(f"a{number}" for number in range(8)),
    *(f"s{number}" for number in range(2, 12)),
    *(f"t{number}" for number in range(3, 7)),
)
_CONTROL = (
    *("mhartid", "mstatus", "mip", "mie", "mideleg", "medeleg", "mtvec", "mepc", "mcause"),
    *("mtval", "mscratch", "stvec", "sepc", "scause", "stval", "sscratch", "satp", "hstatus"),
    *("hideleg", "hedeleg", "hgatp", "htval", "mtval2", "vsstatus", "vstvec", "vsepc"),
    *("vscause", "vstval", "vsscratch", "vsatp", "menvcfg", "senvcfg", "henvcfg"),
)
_MACHINE_MODE = 3
_MODIFY_PRIVILEGE = 1 << 17
_USER_BIG_ENDIAN = 1 << 6

_VALID = 1 << 0
_READ = 1 << 1
_WRITE = 1 << 2
_EXECUTE = 1 << 3
_USER = 1 << 4
_NOT_IN_TABLES = 0xD0  # user, accessed and dirty bits: tables do not have them
_NAPOT = 1 << 63
_NAPOT_LENGTH = 64 << 10
_RESERVED = 0x7F << 54


def fits(tree: Struct) -> bool:
    """Whether a section ``cpu`` is of RISC-V with 64 bits."""
    return field_length(tree, "env.gpr") == 256 and tree.number("env.misa_ext") is not None


def fits_32(tree: Struct) -> bool:
    """Whether a section ``cpu`` is of RISC-V with 32 bits."""
    return field_length(tree, "env.gpr") == 128 and tree.number("env.misa_ext") is not None


def read_riscv(vcpu: Vcpu) -> CpuRegisters:
    """Read the registers from a vCPU's section; CorruptError if some are missing."""
    tree = vcpu.tree
    general = need_all(tree, "env.gpr", 32)
    bits = field_length(tree, "env.gpr") // 4
    system = {"priv": need(tree, "env.priv"), "mstatus": need(tree, "env.mstatus")}
    system |= {"virt": tree.number("env.virt_enabled") or 0}
    system["misa"] = (tree.number("env.misa_mxl") or 0) << bits - 2 | need(tree, "env.misa_ext")
    found = ((name, tree.number(f"env.{name}")) for name in _CONTROL)
    system |= {name: value for name, value in found if value is not None}
    return CpuRegisters(
        architecture=f"riscv{bits}",
        cpu=vcpu.cpu,
        bits=bits,
        general=dict(zip(GENERAL, general, strict=True)),
        pc=need(tree, "env.pc"),
        vectors={f"f{number}": value for number, value in enumerate(tree.numbers("env.fpr"))},
        system=system,
        halted=vcpu.halted,
    )


def form(registers: CpuRegisters) -> CoreForm:
    """Return how QEMU marks a core."""
    swapped = registers.system["mstatus"] & _USER_BIG_ENDIAN
    return CoreForm(EM_RISCV, registers.bits, "big" if swapped else "little")


def notes(registers: CpuRegisters) -> Sequence[CoreNote]:
    """Return NT_PRSTATUS as Linux has it: the program counter in place of x0."""
    order = "<" if form(registers).byte_order == "little" else ">"
    values = (registers.pc, *list(registers.general.values())[1:])
    if registers.bits == 64:
        content = struct.pack(f"{order}32xI76x32Q8x", registers.cpu + 1, *values)
    else:
        content = struct.pack(f"{order}24xI44x32I4x", registers.cpu + 1, *values)
    return [CoreNote(b"CORE", NT_PRSTATUS, content)]


class _Scheme(NamedTuple):
    """A kind of paging: bits of an address, levels, bits an index, bytes an entry."""

    name: str
    width: int
    levels: int
    stride: int
    entry_length: int


_SCHEMES = {
    (32, 1): _Scheme("Sv32", 32, 2, 10, 4),
    (64, 8): _Scheme("Sv39", 39, 3, 9, 8),
    (64, 9): _Scheme("Sv48", 48, 4, 9, 8),
    (64, 10): _Scheme("Sv57", 57, 5, 9, 8),
}


class RiscvPageTables(PageTables):
    """Paging as a RISC-V vCPU does it in the mode that it is in."""

    def __init__(self, scheme: _Scheme | None, root: int, read: Read) -> None:
        super().__init__(scheme.name if scheme else "none", read)
        self._scheme = scheme
        self._root = root
        self.entry_length = scheme.entry_length if scheme else 8

    def enter(self, address: int) -> PageTable | Page:
        """Begin at the root."""
        scheme = self._scheme
        if scheme is None:
            return Page(0, 0)
        if scheme.width == 32:
            check_width(address, 32)
        else:
            check_canonical(address, scheme.width, scheme.name)
        return self._table(scheme.levels - 1, self._root, scheme)

    def roots(self) -> Iterator[Root]:
        """Yield both halves, or all of 32 bits."""
        scheme = self._scheme
        if scheme is None:
            yield Root(0, Page(0, 0), range(0))
            return
        top = self._table(scheme.levels - 1, self._root, scheme)
        if scheme.width == 32:
            yield Root(0, top, range(1 << top.bits))
        else:
            yield from halves(top, scheme.width)

    def decode(self, table: PageTable, entry: int) -> PageTable | Page | None:
        """Read an entry that is valid."""
        scheme = self._scheme
        if scheme is None or (scheme.entry_length == 8 and entry & _RESERVED):
            return None
        address = (entry >> 10 & (1 << 44) - 1) << 12
        if not entry & (_READ | _WRITE | _EXECUTE):
            if table.level == 0 or entry & (_NOT_IN_TABLES | _NAPOT):
                return None
            return self._table(table.level - 1, address, scheme)
        length = 1 << table.shift
        if entry & _NAPOT and scheme.entry_length == 8:
            if table.level or address >> 12 & 0xF != 8:
                return None
            address, length = address & -_NAPOT_LENGTH, _NAPOT_LENGTH
        if address % length or (entry & _WRITE and not entry & _READ):
            return None
        granted = rights(bool(entry & _WRITE), bool(entry & _USER), bool(entry & _EXECUTE))
        return Page(address, length, granted)

    def _table(self, level: int, address: int, scheme: _Scheme) -> PageTable:
        shift = 12 + level * scheme.stride
        return PageTable(f"level {level} PTE", address, shift, scheme.stride, level, ALL)


def tables(registers: CpuRegisters, read: Read, root: int | None = None) -> PageTables:
    """Return the paging of a vCPU, `root` being another satp than its own."""
    system = registers.system
    if system["virt"]:
        raise UnsupportedError(
            f"vCPU {registers.cpu} runs a guest inside the guest (two stages), whose page "
            "tables savefmt does not read"
        )
    satp = system.get("satp", 0)
    kind = satp >> 31 if registers.bits == 32 else satp >> 60
    mode = system["priv"]
    if mode == _MACHINE_MODE and system["mstatus"] & _MODIFY_PRIVILEGE:
        mode = system["mstatus"] >> 11 & 3
    scheme = _SCHEMES.get((registers.bits, kind))
    if mode == _MACHINE_MODE or kind == 0:
        if root is not None:
            raise UnsupportedError(
                f"vCPU {registers.cpu} does not use paging, so it does not show the kind of "
                "the page tables; choose another vCPU"
            )
        return RiscvPageTables(None, 0, read)
    if scheme is None:
        raise UnsupportedError(f"paging mode {kind} in satp is reserved")
    number = satp if root is None else root >> 12
    bits = 22 if registers.bits == 32 else 44
    return RiscvPageTables(scheme, (number & (1 << bits) - 1) << 12, read)
