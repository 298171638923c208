"""s390x: registers, ELF notes, dynamic address translation with all its tables."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from savefmt.errors import UnsupportedError
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
from savefmt.guest.paging import Page, PageTable, PageTables, Read, Root, check_width, rights

EM_S390 = 22

_NT_TIMER = 0x301
_NT_TODCMP = 0x302
_NT_TODPREG = 0x303
_NT_CTRS = 0x304
_NT_PREFIX = 0x305
_NT_VXRS_LOW = 0x309
_NT_VXRS_HIGH = 0x30A
_NT_GS_CB = 0x30B

_SYSTEM = {
    "fpc": "env.fpc",
    "todpr": "env.todpr",
    "cputm": "env.cputm",
    "ckc": "env.ckc",
    "gbea": "env.gbea",
    "pp": "env.pp",
    "cpu_state": "env.cpu_state",
}
_TRANSLATION = 1 << 58  # of the PSW, as are these two
_SPACE_SHIFT = 46
_ADDRESSES_64 = 3 << 31
_SPACES = {0: "c1", 2: "c7", 3: "c13"}
_LARGE_SEGMENTS = 1 << 23  # of control register 0
_REAL_SPACE = 1 << 5
_TYPE_SHIFT = 2
_INVALID = 1 << 5
_PAGE_INVALID = 1 << 10
_PAGE_RESERVED = 1 << 11
_PROTECTED = 1 << 9
_LARGE = 1 << 10
_PREFIX_LENGTH = 0x2000

_NAMES = ("page", "segment", "region third", "region second", "region first")
_SHIFTS = (12, 20, 31, 42, 53)


def fits(tree: Struct) -> bool:
    """Whether a section ``cpu`` is of s390x."""
    return tree.number("env.psw.mask") is not None


def read_s390x(vcpu: Vcpu) -> CpuRegisters:
    """Read the registers from a vCPU's section; CorruptError if some are missing."""
    tree = vcpu.tree
    general = need_all(tree, "env.regs", 16)
    access = need_all(tree, "env.aregs", 16)
    control = need_all(tree, "env.cregs", 16)
    system = {"psw_mask": need(tree, "env.psw.mask"), "prefix": need(tree, "env.psa")}
    found = {name: tree.number(field) for name, field in _SYSTEM.items()}
    system |= {name: value for name, value in found.items() if value is not None}
    system |= {f"c{number}": value for number, value in enumerate(control)}
    system |= {f"a{number}": value for number, value in enumerate(access)}
    system |= {f"gs{number}": value for number, value in enumerate(tree.numbers("env.gscb"))}
    return CpuRegisters(
        architecture="s390x",
        cpu=vcpu.cpu,
        bits=64,
        general={f"r{number}": value for number, value in enumerate(general)},
        pc=need(tree, "env.psw.addr"),
        vectors={f"v{number}": _vector(tree, number) for number in range(32)},
        system=system,
        halted=vcpu.halted,
    )


def _vector(tree: Struct, number: int) -> int:
    high, low = (tree.number(f"env.vregs[{number}][{half}]") or 0 for half in (0, 1))
    return high << 64 | low


def form(registers: CpuRegisters) -> CoreForm:
    """Return how QEMU marks a core."""
    return CoreForm(EM_S390, 64, "big")


def notes(registers: CpuRegisters) -> Sequence[CoreNote]:
    """Return the ten notes of Linux, in QEMU's order."""
    system, vectors = registers.system, list(registers.vectors.values())
    low = (1 << 64) - 1
    status = (
        struct.pack(">32xI76x", registers.cpu + 1)
        + struct.pack(">2Q16Q", system["psw_mask"], registers.pc, *registers.general.values())
        + struct.pack(">16I16x", *(system[f"a{number}"] for number in range(16)))
    )
    floating = struct.pack(
        ">I4x16Q", system.get("fpc", 0), *(value >> 64 for value in vectors[:16])
    )
    upper = [half for value in vectors[16:] for half in (value >> 64, value & low)]
    return [
        CoreNote(b"CORE", NT_PRSTATUS, status),
        CoreNote(b"CORE", NT_FPREGSET, floating),
        _linux(_NT_PREFIX, ">I", system["prefix"] & 0xFFFF_FFFF),
        _linux(_NT_CTRS, ">16Q", *(system[f"c{number}"] for number in range(16))),
        _linux(_NT_TIMER, ">Q", system.get("cputm", 0)),
        _linux(_NT_TODCMP, ">Q", system.get("ckc", 0)),
        _linux(_NT_TODPREG, ">I", system.get("todpr", 0)),
        _linux(_NT_VXRS_LOW, ">16Q", *(value & low for value in vectors[:16])),
        _linux(_NT_VXRS_HIGH, ">32Q", *upper),
        _linux(_NT_GS_CB, ">4Q", *(system.get(f"gs{number}", 0) for number in range(4))),
    ]


def _linux(kind: int, layout: str, *values: int) -> CoreNote:
    return CoreNote(b"LINUX", kind, struct.pack(layout, *values))


class S390PageTables(PageTables):
    """Dynamic address translation by an address-space control element.

    What the tables say are real addresses; the vCPU's prefix turns them into absolute ones,
    which are those of the memory map.

    Parameters
    ----------
    mode : str
        The topmost kind of table, ``real`` or ``none``.
    root : int
        The control element.
    read : callable
        Reads memory by absolute address.
    prefix : int
        Of the vCPU.
    large : bool
        Whether segments and regions may be pages.
    bits : int
        Of an address.
    """

    byte_order = "big"
    present = (0, 0)  # pages and tables have different bits for it

    def __init__(
        self, mode: str, root: int, read: Read, *, prefix: int, large: bool, bits: int
    ) -> None:
        super().__init__(mode, read)
        self._root = root
        self._prefix = prefix & -_PREFIX_LENGTH
        self._large = large
        self._bits = bits

    def enter(self, address: int) -> PageTable | Page:
        """Begin at the table of the control element."""
        check_width(address, self._bits)
        if self.mode in ("none", "real"):
            return self._page(address & -4096, 4096, rights())
        level = (self._root >> _TYPE_SHIFT & 3) + 1
        top = self._table(level, self._root, 0, self._root & 3)
        check_width(address, min(top.shift + top.bits, 64))
        return top

    def roots(self) -> Iterator[Root]:
        """Yield the one table that there is, or memory itself."""
        if self.mode in ("none", "real"):
            if self._prefix:
                yield Root(0, Page(self._prefix, _PREFIX_LENGTH), range(0))
            yield Root(0, Page(0, 0), range(0))
            return
        level = (self._root >> _TYPE_SHIFT & 3) + 1
        top = self._table(level, self._root, 0, self._root & 3)
        yield Root(0, top, range(1 << top.bits))

    def decode(self, table: PageTable, entry: int) -> PageTable | Page | None:
        """Read an entry of any level."""
        level = table.level
        if level == 0:
            if entry & (_PAGE_INVALID | _PAGE_RESERVED):
                return None
            return self._page(entry & -4096, 4096, self._rights(entry, table))
        if entry & _INVALID or entry >> _TYPE_SHIFT & 3 != level - 1:
            return None
        if self._large and level in (1, 2) and entry & _LARGE:
            length = 1 << _SHIFTS[level]
            return self._page(entry & -length, length, self._rights(entry, table))
        if level == 1:
            granted = self._rights(entry, table)
            return PageTable(_NAMES[0] + " table entry", entry & -2048, 12, 8, 0, granted)
        granted = self._rights(entry, table) if self._large else table.rights
        below = self._table(level - 1, entry, entry >> 6 & 3, entry & 3)
        return below._replace(rights=granted)

    def _rights(self, entry: int, table: PageTable) -> int:
        return rights(not entry & _PROTECTED) & table.rights

    def _table(self, level: int, origin: int, first: int, last: int) -> PageTable:
        """Return a table whose entries are there by quarters."""
        return PageTable(
            *(f"{_NAMES[level]} table entry", origin & -4096, _SHIFTS[level], 11, level),
            first=first * 512,
            last=last * 512 + 511,
        )

    def _page(self, address: int, length: int, granted: int) -> Page:
        """Turn a real address into an absolute one: two pages change places with two others."""
        if length == 4096:
            if address < _PREFIX_LENGTH:
                address += self._prefix
            elif self._prefix <= address < self._prefix + _PREFIX_LENGTH:
                address -= self._prefix
        return Page(address, length, granted)


def tables(registers: CpuRegisters, read: Read, root: int | None = None) -> PageTables:
    """Return the translation of a vCPU, `root` being another control element than its own."""
    system = registers.system
    mask = system["psw_mask"]
    bits = 64 if mask & _ADDRESSES_64 == _ADDRESSES_64 else 31
    if not mask & _TRANSLATION and root is None:
        return S390PageTables("none", 0, read, prefix=system["prefix"], large=False, bits=bits)
    space = mask >> _SPACE_SHIFT & 3
    if root is None and space not in _SPACES:
        raise UnsupportedError(
            f"vCPU {registers.cpu} finds its page tables by access registers, which savefmt "
            "does not follow"
        )
    control = system[_SPACES[space]] if root is None else root
    mode = "real" if control & _REAL_SPACE else _NAMES[(control >> _TYPE_SHIFT & 3) + 1]
    large = bool(system["c0"] & _LARGE_SEGMENTS)
    return S390PageTables(mode, control, read, prefix=system["prefix"], large=large, bits=bits)
