"""LoongArch: registers, ELF notes, direct windows and page tables as the walker's registers say."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from savefmt.errors import CorruptError, UnsupportedError
from savefmt.format.devicetree import Struct
from savefmt.guest.arch.base import (
    NT_FPREGSET,
    NT_PRSTATUS,
    CoreForm,
    CoreNote,
    CpuRegisters,
    Vcpu,
    need,
    need_all,
)
from savefmt.guest.paging import (
    Page,
    PageTable,
    PageTables,
    Read,
    Root,
    check_canonical,
    check_width,
    rights,
)

EM_LOONGARCH = 258

_ADDRESS_BITS = 48
_PHYSICAL = (1 << _ADDRESS_BITS) - 1
_PAGE = (1 << _ADDRESS_BITS) - 4096

_DIRECT = 1 << 3
_PAGING = 1 << 4
_VALID = 1 << 0
_DIRTY = 1 << 1
_HUGE = 1 << 6
_NO_EXECUTE = 1 << 62


_SYSTEM = ("env.CSR_", "env.sys_states[0].CSR_")
"""How the names of control and status registers begin, before QEMU 11.1 and since then."""


def fits(tree: Struct) -> bool:
    """Whether a section ``cpu`` is of LoongArch."""
    return any(tree.number(f"{prefix}CRMD") is not None for prefix in _SYSTEM)


def read_loongarch(vcpu: Vcpu) -> CpuRegisters:
    """Read the registers from a vCPU's section; CorruptError if some are missing."""
    tree = vcpu.tree
    general = need_all(tree, "env.gpr", 32)
    system: dict[str, int] = {}
    for field in tree.fields:
        if field.name.startswith(_SYSTEM):
            name = field.name.rpartition("CSR_")[2].lower()
            values = tree.numbers(field.name)
            many = isinstance(field.value, tuple)
            names = [f"{name}{number}" for number in range(len(values))] if many else [name]
            system |= dict(zip(names, values, strict=False))
    for name in ("crmd", "era", "badv"):
        if name not in system:
            raise CorruptError(f"the vCPU's section has no {_SYSTEM[-1]}{name.upper()}")
    system["fcsr0"] = tree.number("env.fcsr0") or 0
    system["fcc"] = sum(bit << 8 * number for number, bit in enumerate(tree.numbers("env.cf")[:8]))
    quads = [_quads(tree, f"UD[{part}]") for part in range(4)]
    return CpuRegisters(
        architecture="loongarch64",
        cpu=vcpu.cpu,
        bits=64,
        general={f"r{number}": value for number, value in enumerate(general)},
        pc=need(tree, "env.pc"),
        vectors={
            f"f{number}": sum(part[number] << 64 * place for place, part in enumerate(quads))
            for number in range(32)
        },
        system=system,
        halted=vcpu.halted,
    )


def _quads(tree: Struct, name: str) -> list[int]:
    found = [value for part in tree.structs("env.fpr") for value in part.numbers(name)]
    return (found + [0] * 32)[:32]


def form(registers: CpuRegisters) -> CoreForm:
    """Return how QEMU marks a core."""
    return CoreForm(EM_LOONGARCH, 64, "little")


def notes(registers: CpuRegisters) -> Sequence[CoreNote]:
    """Return NT_PRSTATUS, which has ERA and BADV but no program counter, and NT_FPREGSET."""
    system = registers.system
    status = struct.pack("<32xI76x", registers.cpu + 1) + struct.pack(
        "<32Q8x2Q80xI4x", *registers.general.values(), system["era"], system["badv"], 1
    )
    low = (1 << 64) - 1
    floating = struct.pack(
        "<32QQI", *(v & low for v in registers.vectors.values()), system["fcc"], system["fcsr0"]
    )
    return [CoreNote(b"CORE", NT_PRSTATUS, status), CoreNote(b"CORE", NT_FPREGSET, floating)]


class LoongarchPageTables(PageTables):
    """Paging by PGDL and PGDH; other content of the TLB is ignored.

    Parameters
    ----------
    registers : CpuRegisters
        The vCPU.
    read : callable
        Reads guest-physical memory.
    root : int, optional
        Another PGDL than its own.
    """

    present = (0, 0)  # an entry that is not a page has no valid bit

    def __init__(self, registers: CpuRegisters, read: Read, root: int | None) -> None:
        system = registers.system
        direct = not system["crmd"] & _PAGING
        super().__init__("none" if direct else "paging", read)
        self._direct = direct
        low, high = system.get("pwcl", 0), system.get("pwch", 0)
        fields = [(low, 0), (low, 10), (low, 20), (high, 0), (high, 12)]
        mask = 0x1F
        self._levels: list[tuple[int, int]] = []
        for number, (value, at) in enumerate(fields):
            wide = 0x3F if number >= 3 else mask
            step = 6 if number >= 3 else 5
            shift, bits = value >> at & wide, value >> at + step & wide
            if bits or not number:
                self._levels.append((shift, bits))
        self._roots = (system.get("pgdl", 0) if root is None else root, system.get("pgdh", 0))
        level = system["crmd"] & 3
        self._windows = [
            window >> 60
            for number in range(4)
            if (window := system.get(f"dmw{number}", 0)) >> level & 1
        ]

    def enter(self, address: int) -> PageTable | Page:
        """Take a direct window, or begin at the table of the half."""
        check_width(address, 64)
        if self._direct or address >> 60 in self._windows:
            return Page(0, 1 << _ADDRESS_BITS)
        check_canonical(address, _ADDRESS_BITS, "LoongArch")
        return self._top(address >> 63)

    def roots(self) -> Iterator[Root]:
        """Yield what is mapped directly, then both halves."""
        if self._direct:
            yield Root(0, Page(0, 1 << _ADDRESS_BITS), range(0))
            return
        for window in sorted(set(self._windows)):
            yield Root(window << 60, Page(0, 1 << _ADDRESS_BITS), range(0))
        for half in (0, 1):
            top = self._top(half)
            count = min(1 << top.bits, 1 << max(_ADDRESS_BITS - 1 - top.shift, 0))
            first = (1 << top.bits) - count if half else 0
            # The highest bits of the upper half are ones, as far as the tables reach.
            virtual = half * ((1 << 64) - (count << top.shift))
            yield Root(virtual, top, range(first, first + count), kernel=bool(half))

    def decode(self, table: PageTable, entry: int) -> PageTable | Page | None:
        """Read an entry: an entry for a table has no flags, except that of a large page."""
        if table.level and not entry & _HUGE:
            following = entry & _PAGE
            return self._table(table.level - 1, following) if following else None
        if not entry & _VALID:
            return None
        granted = rights(bool(entry & _DIRTY), entry >> 2 & 3 == 3, not entry & _NO_EXECUTE)
        length = 1 << table.shift
        return Page(entry & _PAGE & -length, length, granted)

    def _top(self, half: int) -> PageTable:
        return self._table(len(self._levels) - 1, self._roots[half] & _PHYSICAL)

    def _table(self, level: int, address: int) -> PageTable:
        shift, bits = self._levels[level]
        name = f"directory {level} entry" if level else "PTE"
        return PageTable(name, address, shift, bits, level)


def tables(registers: CpuRegisters, read: Read, root: int | None = None) -> PageTables:
    """Return the paging of a vCPU, `root` being another PGDL than its own."""
    direct = registers.system["crmd"] & (_DIRECT | _PAGING) != _PAGING
    if direct and root is not None:
        raise UnsupportedError(
            f"vCPU {registers.cpu} does not use paging, so it does not show the kind of the "
            "page tables; choose another vCPU"
        )
    if registers.system.get("pwcl", 0) >> 30:
        raise UnsupportedError(
            "savefmt does not read page tables with entries of more than 8 bytes"
        )
    return LoongarchPageTables(registers, read, root)
