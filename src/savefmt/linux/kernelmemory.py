"""The kernel's own view of memory, and that of a process."""

from __future__ import annotations

import re
from collections.abc import Iterator

from savefmt.errors import AddressError, CorruptError, SavefmtError, UnsupportedError
from savefmt.frozen import dataclass, replace
from savefmt.guest.arch.arm64 import Arm64Registers
from savefmt.guest.arch.base import GuestArch
from savefmt.guest.arch.machinerules import MIB
from savefmt.guest.arch.table import Registers
from savefmt.guest.arch.x86 import X86Registers
from savefmt.guest.paging import Read
from savefmt.guest.space import AddressSpace
from savefmt.image import SaveImage

PAGE = 4096
KERNEL_HALF = 1 << 63
_KEPT = 4096
"""Pages of the kernel that are kept: 16 MiB."""

_X86_KERNEL_MAP = 0xFFFF_FFFF_8000_0000
_X86_ENTRIES = ("lstar", "cstar")
_USER_HALF_OF_CR3 = 0x1000
_BEHIND, _AHEAD = 32 * MIB, 64 * MIB
_KNOWN = re.compile(rb"^SYMBOL\((\w+)\)=([0-9a-f]{1,16})$", re.M)
_NUMBERS = re.compile(rb"^NUMBER\((\w+)\)=(-?(?:0x)?[0-9a-f]{1,16})$", re.M)


@dataclass(frozen=True, slots=True)
class Anchors:
    """What is known of a kernel before its symbols are.

    Attributes
    ----------
    text : bytes
        Its VMCOREINFO, empty if there is none.
    symbols : dict of str to int
        Addresses in it.
    numbers : dict of str to int
        Other numbers in it.
    """

    text: bytes
    symbols: dict[str, int]
    numbers: dict[str, int]

    @classmethod
    def of(cls, text: bytes) -> Anchors:
        """Read a VMCOREINFO."""
        symbols = {name.decode(): int(digits, 16) for name, digits in _KNOWN.findall(text)}
        numbers = {}
        for name, digits in _NUMBERS.findall(text):
            try:
                numbers[name.decode()] = int(digits, 0)
            except ValueError:
                continue
        # Not its own address, but the address that it points to.
        numbers["mem_section"] = symbols.pop("mem_section", 0)
        return cls(text, symbols, numbers)


class KernelMemory:
    """Reads memory by addresses of the kernel.

    Parameters
    ----------
    image : SaveImage
        Of the guest.
    anchors : Anchors
        What its VMCOREINFO tells.

    Raises
    ------
    UnsupportedError
        If no page tables are found that the kernel could use.
    """

    def __init__(self, image: SaveImage, anchors: Anchors) -> None:
        self.image = image
        self._physical = image.guest.physical
        self._arch = image.guest.arch
        self._pages: dict[int, bytes] = {}
        self.anchor, self._cpu, self.root = self._choose(anchors)
        self.space = _kernel_space(self._arch, self._cpu, self._physical.read_known, self.root)

    def _choose(self, anchors: Anchors) -> tuple[int, Registers, int]:
        """Take the first page tables that map the kernel's own text."""
        cpus = self.image.guest.cpus
        if not cpus or not isinstance(cpus[0], X86Registers | Arm64Registers):
            raise UnsupportedError(
                "savefmt reads Linux guests of x86-64 and AArch64 only", path=self.image.path
            )
        told = anchors.symbols.get("_stext")
        for cpu in cpus:
            for anchor in [told] if told else _entries(cpu):
                for root in _roots(cpu, anchors):
                    try:
                        space = _kernel_space(self._arch, cpu, self._physical.read_known, root)
                        space.read(anchor & -PAGE, PAGE)
                    except SavefmtError:
                        continue
                    return anchor, cpu, root
        raise UnsupportedError(
            "no vCPU has page tables that lead to a Linux kernel; does the guest run Linux?",
            path=self.image.path,
        )

    @property
    def arm(self) -> bool:
        """Whether the guest is one of AArch64."""
        return not isinstance(self._cpu, X86Registers)

    def read(self, address: int, length: int) -> bytes:
        """Read memory of the kernel.

        Parameters
        ----------
        address, length : int
            Virtual.

        Returns
        -------
        bytes
            All of it.

        Raises
        ------
        AddressError
            If part of it is not mapped, or mapped to where no memory is.
        """
        offset = address % PAGE
        if offset + length <= PAGE:
            return self._page(address - offset)[offset : offset + length]
        if length > 4 * PAGE:
            return self.space.read(address, length)
        first = address - offset
        count = -(-(offset + length) // PAGE)
        data = b"".join([self._page(first + PAGE * number) for number in range(count)])
        return data[offset : offset + length]

    def _page(self, address: int) -> bytes:
        page = self._pages.get(address)
        if page is None:
            page = self._physical.read_known(self.space.translate(address).physical, PAGE)
            if len(self._pages) >= _KEPT:
                self._pages.clear()
            self._pages[address] = page
        return page

    def read_sparse(self, address: int, length: int) -> bytes:
        """Read memory of the kernel; unmapped memory reads as zeros."""
        parts = []
        end = address + length
        while address < end:
            count = min(end - address, PAGE - address % PAGE)
            try:
                found = self.space.translate(address)
                count = min(end - address, found.left)
                parts.append(self._physical.read_known(found.physical, count))
            except SavefmtError:
                parts.append(bytes(count))
            address += count
        return b"".join(parts)

    def image_pieces(self, length: int, overlap: int) -> Iterator[tuple[int, bytes]]:
        """Yield the kernel's image in pieces, each with its address.

        Parameters
        ----------
        length, overlap : int
            Of a piece, and how much of it the next one repeats.

        Yields
        ------
        (int, bytes)
            Ascending.  Unmapped memory reads as zeros.
        """
        start = self.anchor & -(2 * MIB)
        end = start + _AHEAD
        start = max(start - _BEHIND, KERNEL_HALF if self.arm else _X86_KERNEL_MAP)
        for at in range(start, min(end, 1 << 64), length - overlap):
            yield at, self.read_sparse(at, min(length, end - at))

    def physical_of(self, address: int) -> int:
        """Return the guest-physical address of one of the kernel's."""
        return self.space.translate(address).physical

    def process_space(self, tables: int) -> AddressSpace:
        """Return the memory of a process.

        Parameters
        ----------
        tables : int
            Where the kernel sees its page tables (``mm->pgd``).

        Returns
        -------
        AddressSpace
            Of its lower half.

        Raises
        ------
        AddressError
            If no memory lies there.
        """
        root = self.physical_of(tables)
        return AddressSpace.of(self._arch, self._cpu, self._physical.read_known, root)

    def read_process(self, space: AddressSpace, address: int, length: int) -> bytes:
        """Read memory of a process as far as it is there, from its first byte on.

        Parameters
        ----------
        space : AddressSpace
            Its memory.
        address, length : int
            Virtual.

        Returns
        -------
        bytes
            Shorter where a page is missing.
        """
        parts, end = [], address + length
        try:
            while address < end:
                found = space.translate(address)
                count = min(end - address, found.left)
                parts.append(self._physical.read_known(found.physical, count))
                address += count
        except (AddressError, CorruptError, UnsupportedError):
            pass
        return b"".join(parts)


def _entries(cpu: Registers) -> list[int]:
    """Return addresses of the kernel that the registers of a vCPU hold."""
    if isinstance(cpu, X86Registers):
        found = [cpu.msrs.get(name, 0) for name in _X86_ENTRIES] + [cpu.rip]
    else:
        found = [cpu.system.get(name, 0) for name in ("VBAR_EL1", "VBAR_EL2")]
    return [address for address in found if address >= KERNEL_HALF]


def _roots(cpu: Registers, anchors: Anchors) -> list[int]:
    """Return where the kernel's page tables may lie, the likeliest first."""
    tables = anchors.symbols.get("swapper_pg_dir")
    roots = []
    if isinstance(cpu, X86Registers):
        if tables and "phys_base" in anchors.numbers:
            roots.append(tables - _X86_KERNEL_MAP + anchors.numbers["phys_base"])
        cr3 = cpu.control["cr3"] & -PAGE
        roots += [cr3 & ~_USER_HALF_OF_CR3, cr3]
    else:
        if tables and "kimage_voffset" in anchors.numbers:
            roots.append(tables - anchors.numbers["kimage_voffset"] & (1 << 48) - 1)
        roots += [cpu.system.get(name, 0) for name in ("TTBR1_EL1", "TTBR1_EL2")]
    return [root for root in roots if root > 0]


def _kernel_space(arch: GuestArch, cpu: Registers, read: Read, root: int) -> AddressSpace:
    if isinstance(cpu, X86Registers):
        return AddressSpace.of(arch, cpu, read, root)
    tables = dict.fromkeys(("TTBR1_EL1", "TTBR1_EL2"), root)
    return AddressSpace.of(arch, replace(cpu, system=dict(cpu.system) | tables), read)
