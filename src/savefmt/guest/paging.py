"""Page tables: from a virtual address to a guest-physical one (format.md 8.4)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from savefmt.errors import AddressError, UnsupportedError
from savefmt.frozen import dataclass
from savefmt.guest.registers import CR0_PG, CR4_LA57, CR4_PAE, CR4_PSE, X86Registers

Read = Callable[[int, int], bytes]
"""``read(address, length)`` returns guest-physical memory or raises AddressError."""

_ADDRESS = 0x000F_FFFF_FFFF_F000
_PRESENT = 1 << 0
_WRITABLE = 1 << 1
_USER = 1 << 2
_LARGE = 1 << 7
_NO_EXECUTE = 1 << 63


@dataclass(frozen=True, slots=True)
class Step:
    """A table entry on the way: what it is called, where it lies, what it holds."""

    name: str
    address: int
    entry: int


@dataclass(frozen=True, slots=True)
class Translation:
    """Where a virtual address leads.

    Attributes
    ----------
    virtual, physical : int
        The two addresses.
    page_size : int
        Bytes of the page that both lie in, 0 where there is no paging.
    writable, user, executable : bool
        What all entries on the way allow together.
    steps : tuple of Step
        These entries.
    """

    virtual: int
    physical: int
    page_size: int
    writable: bool
    user: bool
    executable: bool
    steps: tuple[Step, ...] = ()

    @property
    def left(self) -> int:
        """Bytes from here to the end of the page."""
        if not self.page_size:
            return (1 << 64) - self.virtual
        return self.page_size - self.virtual % self.page_size


@dataclass(frozen=True, slots=True)
class Level:
    """One level of tables.

    Attributes
    ----------
    name : str
        Of its entries.
    shift : int
        The lowest bit of an address that selects an entry.
    bits : int
        How many bits do.
    large : bool
        Whether an entry may be a page by itself.
    """

    name: str
    shift: int
    bits: int
    large: bool = False


_LONG = (
    Level("PML5E", 48, 9),
    Level("PML4E", 39, 9),
    Level("PDPTE", 30, 9, large=True),
    Level("PDE", 21, 9, large=True),
    Level("PTE", 12, 9),
)
_PAE = (Level("PDPTE", 30, 2), Level("PDE", 21, 9, large=True), Level("PTE", 12, 9))
_LEGACY = (Level("PDE", 22, 10, large=True), Level("PTE", 12, 10))


@dataclass(frozen=True, slots=True)
class X86PageTables:
    """Paging as an x86 vCPU does it.

    Attributes
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

    mode: str
    root: int
    read: Read
    large_pages: bool = True

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
                    f"vCPU {registers.cpu} does not page, so it cannot tell what kind of tables "
                    "these are; choose another one"
                )
            return cls("none", 0, read)
        if registers.long_mode:
            mode = "5-level" if control["cr4"] & CR4_LA57 else "4-level"
        else:
            mode = "PAE" if control["cr4"] & CR4_PAE else "32-bit"
        top = control["cr3"] if root is None else root
        return cls(mode, top, read, bool(control["cr4"] & CR4_PSE))

    @property
    def levels(self) -> tuple[Level, ...]:
        """From the root down."""
        return {
            "5-level": _LONG,
            "4-level": _LONG[1:],
            "PAE": _PAE,
            "32-bit": _LEGACY,
            "none": (),
        }[self.mode]

    def translate(self, address: int) -> Translation:
        """Walk to the page of an address.

        Parameters
        ----------
        address : int
            Linear: without the base of a segment.

        Returns
        -------
        Translation
            With the entries on the way.

        Raises
        ------
        AddressError
            If no page is mapped there, or a table lies outside of memory.
        """
        self._check_range(address)
        if not self.levels:
            return Translation(address, address, 0, True, True, True)
        walked = list(self._walk(address))
        level = walked[-1][0]
        # The first entries of PAE have no such bits.
        entries = [step.entry for at, step in walked if at is not _PAE[0]]
        page = 1 << level.shift
        base = entries[-1] & _ADDRESS & -page
        if level is _LEGACY[0]:  # PSE-36: address bits 32 to 39 in bits 13 to 20
            base |= (entries[-1] >> 13 & 0xFF) << 32
        return Translation(
            address,
            base | address & page - 1,
            page,
            all(entry & _WRITABLE for entry in entries),
            all(entry & _USER for entry in entries),
            not any(entry & _NO_EXECUTE for entry in entries),
            tuple(step for _, step in walked),
        )

    def _walk(self, address: int) -> Iterator[tuple[Level, Step]]:
        """Yield the entries on the way down to the one that is the page's."""
        legacy = self.mode == "32-bit"
        size = 4 if legacy else 8
        table = self.root & {"PAE": 0xFFFF_FFE0, "32-bit": 0xFFFF_F000}.get(self.mode, _ADDRESS)
        for level in self.levels:
            at = table + (address >> level.shift & (1 << level.bits) - 1) * size
            entry = read_entry(self.read, at, size, level.name, address)
            step = Step(level.name, at, entry)
            if not entry & _PRESENT:
                raise not_mapped(address, step)
            yield level, step
            if level.large and entry & _LARGE and (self.large_pages or not legacy):
                return
            table = entry & _ADDRESS

    def _check_range(self, address: int) -> None:
        if self.mode in ("4-level", "5-level"):
            top = address >> (56 if self.mode == "5-level" else 47)
            if top not in (0, (1 << 64) - 1 >> (56 if self.mode == "5-level" else 47)):
                raise AddressError(f"{address:#x} is no canonical address in {self.mode} paging")
        elif not 0 <= address < 1 << 32:
            raise AddressError(f"{address:#x} needs more than 32 bits")


def read_entry(read: Read, at: int, size: int, name: str, address: int) -> int:
    """Read the table entry at `at`, which is on the way to `address`."""
    try:
        return int.from_bytes(read(at, size), "little")
    except AddressError as error:
        raise AddressError(
            f"the {name} of {address:#x} would lie at {at:#x}, where no memory is"
        ) from error


def not_mapped(address: int, last: Step) -> AddressError:
    """Return the error for a walk that ended at an entry without a page."""
    return AddressError(
        f"{address:#x} is not mapped: the {last.name} at {last.address:#x} is {last.entry:#x}"
    )
