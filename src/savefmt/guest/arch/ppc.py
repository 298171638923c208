"""POWER with 64 bits: registers, ELF notes, radix tables of a pseries guest."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from savefmt.errors import AddressError, UnsupportedError
from savefmt.format.devicetree import Field, Struct
from savefmt.guest.arch.base import (
    NT_FPREGSET,
    NT_PRSTATUS,
    ByteOrder,
    CoreForm,
    CoreNote,
    CpuRegisters,
    Vcpu,
    field_length,
    need,
    need_all,
)
from savefmt.guest.paging import ALL, Page, PageTable, PageTables, Read, Root, rights

EM_PPC64 = 21

_NT_VMX = 0x100
_NT_SPE = 0x101
_NT_VSX = 0x102

_SPECIAL = {
    "xer": 1,
    "lr": 8,
    "ctr": 9,
    "dsisr": 18,
    "dar": 19,
    "srr0": 26,
    "srr1": 27,
    "cfar": 28,
    "amr": 29,
    "pid": 48,
    "vrsave": 256,
    "sprg0": 272,
    "sprg1": 273,
    "sprg2": 274,
    "sprg3": 275,
    "pvr": 287,
    "hsprg0": 304,
    "hsrr0": 314,
    "hsrr1": 315,
    "lpcr": 318,
    "lpidr": 319,
    "ptcr": 464,
    "hid0": 1008,
}
_EXCEPTIONS_LITTLE = 1 << 25  # of LPCR, as is the next
_HOST_RADIX = 1 << 20
_RELOCATE = 3 << 4  # of MSR: instructions and data
_RELOCATE_DATA = 1 << 4
_HYPERVISOR = 1 << 60
_CARRIES = (31, 30, 29)  # summary overflow, overflow, carry in XER

_RADIX_GUEST = 1 << 63
_TABLE_BASE = 0x0FFF_FFFF_FFFF_F000
_NEXT_BASE = 0x0FFF_FFFF_FFFF_FF00
_VALID = 1 << 63
_LEAF = 1 << 62
_PAGE_BASE = 0x01FF_FFFF_FFFF_F000
_WRITE = 1 << 1
_EXECUTE = 1 << 0
_PRIVILEGED = 1 << 3


def fits(tree: Struct) -> bool:
    """Whether a section ``cpu`` is of POWER with 64 bits."""
    return field_length(tree, "env.gpr") == 256 and bool(tree.numbers("env.crf"))


def fits_32(tree: Struct) -> bool:
    """Whether a section ``cpu`` is of POWER with 32 bits."""
    return field_length(tree, "env.gpr") == 128 and bool(tree.numbers("env.crf"))


def read_ppc(vcpu: Vcpu) -> CpuRegisters:
    """Read the registers from a vCPU's section; CorruptError if some are missing."""
    tree = vcpu.tree
    general = need_all(tree, "env.gpr", 32)
    conditions = need_all(tree, "env.crf", 8)
    special = need_all(tree, "env.spr", 1024)
    system = {"msr": need(tree, "env.msr")}
    system["cr"] = sum((value & 15) << 28 - 4 * n for n, value in enumerate(conditions))
    system |= {name: special[number] for name, number in _SPECIAL.items()}
    system["fpscr"] = tree.number("env.fpscr") or 0
    system["vscr"] = int.from_bytes(tree.data("vscr") or b"", "big")
    board = vcpu.board("spapr")
    process_table = board.number("patb_entry") if board else None
    if process_table is not None:
        system["process_table"] = process_table
    elif board is not None:
        system["process_table"] = 0
    return CpuRegisters(
        architecture="ppc64",
        cpu=vcpu.cpu,
        bits=64,
        general={f"r{number}": value for number, value in enumerate(general)},
        pc=need(tree, "env.nip"),
        vectors=_read_vectors(tree),
        system=system,
        halted=vcpu.halted,
    )


def _read_vectors(tree: Struct) -> dict[str, int]:
    """Put together VS0 to VS63, whose halves are sent by the facility that first had them."""
    floating = [int.from_bytes(value, "big") for value in _typed(tree, "fpr")]
    lower = [int.from_bytes(value, "big") for value in _typed(tree, "vsr")]
    # QEMU sends their halves in its host's order: the lower one first.
    altivec = [int.from_bytes(value[8:] + value[:8], "big") for value in _typed(tree, "avr")]
    pairs = zip((floating + [0] * 32)[:32], (lower + [0] * 32)[:32], strict=True)
    found = [high << 64 | low for high, low in pairs]
    return {f"vs{number}": value for number, value in enumerate([*found, *altivec])}


def _typed(tree: Struct, kind: str) -> list[bytes]:
    fields: list[Field] = [field for part in tree.subsections for field in part.fields]
    values = [field.value for field in fields if field.type == kind]
    return [
        value
        for many in values
        for value in (many if isinstance(many, tuple) else (many,))
        if isinstance(value, bytes)
    ]


def form(registers: CpuRegisters) -> CoreForm:
    """Return how QEMU marks a core: in the byte order that interrupts are taken in."""
    little = registers.system["lpcr"] & _EXCEPTIONS_LITTLE
    order: ByteOrder = "little" if little else "big"
    return CoreForm(EM_PPC64, 64, order)


def notes(registers: CpuRegisters) -> Sequence[CoreNote]:
    """Return the five notes that QEMU writes, the last of which is always empty."""
    little = form(registers).byte_order == "little"
    order = "<" if little else ">"
    system, vectors = registers.system, [*registers.vectors.values(), *[0] * 64][:64]
    low = (1 << 64) - 1
    status = struct.pack(
        f"{order}32xI76x32Q7Q",
        registers.cpu + 1,
        *registers.general.values(),
        *(registers.pc, system["msr"], 0, system["ctr"], system["lr"], system["xer"]),
        system["cr"],
    )
    floating = [value >> 64 for value in vectors[:32]] + [system["fpscr"]]
    altivec = b"".join(value.to_bytes(16, "little" if little else "big") for value in vectors[32:])
    return [
        CoreNote(b"CORE", NT_PRSTATUS, status.ljust(504, b"\0")),
        CoreNote(b"CORE", NT_FPREGSET, struct.pack(f"{order}33Q", *floating)),
        CoreNote(
            *(b"CORE", _NT_VMX),
            altivec + struct.pack(f"{order}12xI16x", system["vscr"]),
        ),
        CoreNote(b"CORE", _NT_VSX, struct.pack(f"{order}32Q", *(v & low for v in vectors[:32]))),
        CoreNote(b"CORE", _NT_SPE, bytes(140)),
    ]


class RadixPageTables(PageTables):
    """Radix tables of a pseries guest, by the process table that it has registered.

    Parameters
    ----------
    mode : str
        ``radix`` or ``none``.
    read : callable
        Reads guest-physical memory.
    trees : dict of int to (int, int, int)
        By quadrant of the address: where the first table lies, bits of an address, bits of
        the first index.
    """

    byte_order = "big"
    present = (_VALID, _VALID)

    def __init__(self, mode: str, read: Read, trees: dict[int, tuple[int, int, int]]) -> None:
        super().__init__(mode, read)
        self._trees = trees

    def enter(self, address: int) -> PageTable | Page:
        """Begin at the tree of the quadrant, the two highest bits."""
        if self.mode == "none":
            return Page(0, 1 << 60)
        tree = self._trees.get(address >> 62)
        if tree is None:
            raise AddressError(f"{address:#x} lies in a quadrant that the guest does not have")
        if (address & (1 << 62) - 1) >> tree[1]:
            raise AddressError(f"{address:#x} needs more than {tree[1]} bits in its quadrant")
        return self._top(*tree)

    def roots(self) -> Iterator[Root]:
        """Yield the trees, that of programs first."""
        if self.mode == "none":
            yield Root(0, Page(0, 1 << 60), range(0))
        for quadrant, tree in self._trees.items():
            top = self._top(*tree)
            yield Root(quadrant << 62, top, range(1 << top.bits), kernel=quadrant == 3)

    def decode(self, table: PageTable, entry: int) -> PageTable | Page | None:
        """Read an entry that is valid; one of a table says how long the next one is."""
        if entry & _LEAF:
            length = 1 << table.shift
            granted = rights(bool(entry & _WRITE), not entry & _PRIVILEGED, bool(entry & _EXECUTE))
            return Page(entry & _PAGE_BASE & -length, length, granted)
        bits = entry & 0x1F
        if not 5 <= bits <= 16 or table.shift - bits < 12:
            return None
        return _table(table.level + 1, entry & _NEXT_BASE, table.shift - bits, bits)

    def _top(self, address: int, width: int, bits: int) -> PageTable:
        return _table(0, address, width - bits, bits)


def _table(level: int, address: int, shift: int, bits: int) -> PageTable:
    return PageTable(f"level {level} entry", address, shift, bits, level, ALL)


def tables(registers: CpuRegisters, read: Read, root: int | None = None) -> PageTables:
    """Return the paging of a pseries vCPU, `root` being another process number than its own."""
    system = registers.system
    entry = system.get("process_table")
    if entry is None or system["msr"] & _HYPERVISOR:
        raise UnsupportedError("savefmt reads the page tables of POWER for pseries guests only")
    if not system["msr"] & _RELOCATE_DATA:
        if root is not None:
            raise UnsupportedError(f"vCPU {registers.cpu} does not translate addresses")
        return RadixPageTables("none", read, {})
    if not system["lpcr"] & _HOST_RADIX or not entry & _RADIX_GUEST:
        raise UnsupportedError(
            "the guest uses a hash table for its pages, which QEMU keeps outside of the "
            "guest's memory; savefmt does not read it"
        )
    process = system["pid"] if root is None else root
    trees = {}
    for quadrant, number in ((0, process), (3, 0)):
        at = (entry & _TABLE_BASE) + 16 * (number & 0xFFFF_FFFF)
        first = int.from_bytes(read(at, 8), "big")
        width = 31 + ((first >> 58 & 0x18) | (first >> 5 & 7))
        bits = first & 0x1F
        if 5 <= bits <= 16 and width - bits >= 12:
            trees[quadrant] = first & _NEXT_BASE, width, bits
    return RadixPageTables("radix", read, trees)
