"""The one page-table walk: from a virtual address to a guest-physical one, and over all of them.

Each architecture defines, in `guest.arch`, where its tables begin and what an entry means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from savefmt.errors import AddressError, LostMemoryError
from savefmt.frozen import dataclass

Read = Callable[[int, int], bytes]
"""``read(address, length)`` returns guest-physical memory or raises AddressError."""


WRITABLE, USER, EXECUTABLE = 1, 2, 4
"""Rights are numbers made of these, so that a million pages are walked in a second or two."""
ALL = WRITABLE | USER | EXECUTABLE


def rights(writable: object = True, user: object = True, executable: object = True) -> int:
    """Return what is granted, each by the truth of its argument."""
    return (WRITABLE if writable else 0) | (USER if user else 0) | (EXECUTABLE if executable else 0)


class PageTable(NamedTuple):
    """A table of entries on the way down.

    Attributes
    ----------
    name : str
        What its entries are called.
    address : int
        Guest-physical.
    shift, bits : int
        The lowest bit of a virtual address that selects an entry, and how many bits do.
    level : int
        The architecture's number for it.
    rights : int
        What the entries above allow.
    first, last : int
        The entries that exist, if those are not all; `last` -1 means the last one.
    state : int
        Further state that the architecture passes down.
    """

    name: str
    address: int
    shift: int
    bits: int
    level: int
    rights: int = ALL
    first: int = 0
    last: int = -1
    state: int = 0


class Page(NamedTuple):
    """A page: its guest-physical address, its length, and what is allowed there.

    A length of 0 says that addresses are guest-physical themselves.
    """

    address: int
    length: int
    rights: int = ALL


class Leaf(NamedTuple):
    """What is true of all entries of a table that leads to pages only, each for one entry.

    An entry is a page where its bits in `mask` are `value`, and nothing else; `address` are
    the bits that are the page's address.
    """

    mask: int
    value: int
    address: int


class Root(NamedTuple):
    """A table, or a page, from which addresses are found, and those which are.

    Attributes
    ----------
    virtual : int
        The address that the first of the entries maps.
    top : PageTable or Page
        Where the walk begins.
    entries : range
        Which entries of the table count.
    kernel : bool
        Whether the architecture's rules keep these addresses from programs.
    """

    virtual: int
    top: PageTable | Page
    entries: range
    kernel: bool = False


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


class PageTables:
    """Paging as a vCPU does it; an architecture says how.

    Parameters
    ----------
    mode : str
        The kind of paging in a word or two; ``none`` without paging.
    read : callable
        Reads guest-physical memory.

    Attributes
    ----------
    byte_order : str
        Of the entries.
    entry_length : int
        Bytes of an entry.
    present : (int, int)
        Mask and value that tell an entry which is worth a look.
    """

    byte_order: Literal["little", "big"] = "little"
    entry_length = 8
    present = (1, 1)

    def __init__(self, mode: str, read: Read) -> None:
        self.mode = mode
        self.read = read

    def enter(self, address: int) -> PageTable | Page:
        """Return where the walk for an address begins.

        Raises
        ------
        AddressError
            If no walk is for it.
        """
        raise NotImplementedError

    def decode(self, table: PageTable, entry: int) -> PageTable | Page | None:
        """Return what an entry leads to, None if it is not in use."""
        raise NotImplementedError

    def leaf(self, table: PageTable) -> Leaf | None:
        """Return what makes `decode` needless for the entries of a table, if it is so simple.

        All its pages have the length that an entry of the table maps.
        """
        return None

    def roots(self) -> Iterator[Root]:
        """Yield where the walk over all addresses begins, ascending."""
        raise NotImplementedError

    def translate(self, address: int) -> Translation:
        """Walk to the page of an address.

        Parameters
        ----------
        address : int
            Virtual; on x86 linear, without the base of a segment.

        Returns
        -------
        Translation
            With the entries on the way.

        Raises
        ------
        AddressError
            If no page is mapped there, or a table lies outside of memory.
        """
        found = self.enter(address)
        steps: list[Step] = []
        while isinstance(found, PageTable):
            table = found
            number = address >> table.shift & (1 << table.bits) - 1
            at = table.address + number * self.entry_length
            step = Step(table.name, at, self._entry(at, table.name, address))
            steps.append(step)
            inside = table.first <= number and (table.last < 0 or number <= table.last)
            mask, value = self.present
            following = None
            if inside and step.entry & mask == value:
                following = self.decode(table, step.entry)
            if following is None:
                raise AddressError(
                    f"{address:#x} is not mapped: the {step.name} at {step.address:#x} "
                    f"is {step.entry:#x}"
                )
            found = following
        physical = found.address | address & found.length - 1 if found.length else address
        return Translation(
            virtual=address,
            physical=physical,
            page_size=found.length,
            writable=bool(found.rights & WRITABLE),
            user=bool(found.rights & USER),
            executable=bool(found.rights & EXECUTABLE),
            steps=tuple(steps),
        )

    def _entry(self, at: int, name: str, address: int) -> int:
        try:
            return int.from_bytes(self.read(at, self.entry_length), self.byte_order)
        except LostMemoryError as error:
            raise LostMemoryError(
                f"the {name} of {address:#x} lies at {at:#x}, on a page that is lost"
            ) from error
        except AddressError as error:
            raise AddressError(
                f"the {name} of {address:#x} would lie at {at:#x}, where no memory is"
            ) from error


def check_width(address: int, bits: int) -> None:
    """Refuse an address that needs more bits; AddressError says so."""
    if not 0 <= address < 1 << bits:
        raise AddressError(f"{address:#x} needs more than {bits} bits")


def check_canonical(address: int, bits: int, mode: str) -> None:
    """Refuse an address of 64 bits whose upper ones do not repeat bit `bits` - 1."""
    top = address >> bits - 1
    if top not in (0, (1 << 65 - bits) - 1):
        raise AddressError(f"{address:#x} is not a canonical address in {mode} paging")


def halves(top: PageTable, bits: int) -> Iterator[Root]:
    """Yield the lower and the upper half of canonical addresses below one table."""
    count = 1 << top.bits
    yield Root(0, top, range(count // 2))
    yield Root((1 << 64) - (1 << bits - 1), top, range(count // 2, count), kernel=True)
