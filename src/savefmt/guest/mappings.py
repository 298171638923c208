"""Everything that page tables map, to find the virtual addresses of physical memory."""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from operator import attrgetter

from savefmt.errors import AddressError, LostMemoryError, UnsupportedError
from savefmt.frozen import dataclass
from savefmt.guest.paging import Leaf, Page, PageTable, PageTables, Root
from savefmt.guest.space import AddressSpace

ADDRESS_SPACE = 1 << 52
"""What is mapped where nothing is translated."""

TABLES_LIMIT = 1 << 16
"""Tables that are read at most: what maps 128 GiB by small pages."""

MAPPINGS_LIMIT = 1 << 20
"""Mappings that are kept at most, neighbours joined."""

ADDRESSES_LIMIT = 64
"""Virtual addresses that are told of one place at most: a page may be mapped everywhere."""

_ENTRIES_LIMIT = 1 << 16
"""Entries of one table at most: no architecture has more, though some may be told so."""

_VISITS_LIMIT = 4
"""How often a table is read as one of the same level.  Tables that lead back to themselves
would go on for longer than anybody can wait; Windows has one such entry, on purpose."""


@dataclass(frozen=True, slots=True)
class VirtualRange:
    """Neighbouring virtual addresses that lead to neighbouring physical ones."""

    virtual: int
    physical: int
    length: int


class ReverseMap:
    """Virtual addresses of physical ones.

    Parameters
    ----------
    space : AddressSpace
        Whose page tables count.

    Attributes
    ----------
    complete : bool
        False where the tables were too many to be read all.
    damaged : int
        Tables that are lost, of a damaged image.
    """

    def __init__(self, space: AddressSpace) -> None:
        walk = Walk(space.tables)
        found = sorted(islice(walk.mappings(), MAPPINGS_LIMIT), key=attrgetter("physical"))
        self.complete = walk.complete and len(found) < MAPPINGS_LIMIT
        self.damaged = walk.damaged
        # Long and short ranges have lists of their own: a kernel maps all memory by large
        # pages, and some of it again by small ones, and each list is searched back by its
        # longest range.
        lists: dict[int, list[VirtualRange]] = {}
        for mapping in found:
            lists.setdefault(mapping.length.bit_length(), []).append(mapping)
        self._lists = [
            (one, [mapping.physical for mapping in one], max(mapping.length for mapping in one))
            for one in lists.values()
        ]

    def addresses(self, physical: int) -> tuple[int, ...]:
        """Return virtual addresses that lead to a physical one, ascending.

        Parameters
        ----------
        physical : int
            Guest-physical.

        Returns
        -------
        tuple of int
            No more than `ADDRESSES_LIMIT` of them.
        """
        return tuple(sorted(islice(self._leading_to(physical), ADDRESSES_LIMIT)))

    def _leading_to(self, physical: int) -> Iterator[int]:
        for mappings, starts, longest in self._lists:
            number = bisect_right(starts, physical)
            while number > 0 and starts[number - 1] + longest > physical:
                number -= 1
                mapping = mappings[number]
                if physical < mapping.physical + mapping.length:
                    yield mapping.virtual + physical - mapping.physical


def lower_half(tables: PageTables) -> Iterator[VirtualRange]:
    """Return what page tables map for programs; see `Walk.lower_half`."""
    return Walk(tables).lower_half()


class Walk:
    """One walk through all tables, or those of the kernel alone.

    Parameters
    ----------
    tables : PageTables
        Of any architecture.
    kernel : bool
        Pass over what programs may map.

    Attributes
    ----------
    complete : bool
        False where the tables were too many, or led back to themselves.
    lost : int
        Tables that cannot be read: no memory is there, or it is lost.
    damaged : int
        Those among them that are lost, of a damaged image.
    """

    def __init__(self, tables: PageTables, *, kernel: bool = False) -> None:
        self._tables = tables
        self._roots = [root for root in tables.roots() if root.kernel or not kernel]
        self._visits = Counter[tuple[int, int]]()
        self._left = TABLES_LIMIT
        self.complete = True
        self.lost = self.damaged = 0

    def lower_half(self) -> Iterator[VirtualRange]:
        """Yield what is mapped for programs: the lower half of the addresses.

        It ascends, neighbours joined; what tables lead back to themselves is left out.
        """
        for mapping in self.mappings():
            if mapping.virtual >> 63:
                return
            yield mapping

    def mappings(self) -> Iterator[VirtualRange]:
        """Yield all, those of each root ascending, neighbours joined."""
        for root in self._roots:
            start, first, total = 0, 0, 0
            for virtual, physical, length in self._pages_of(root):
                if total and virtual == start + total and physical == first + total:
                    total += length
                    continue
                if total:
                    yield VirtualRange(start, first, total)
                start, first, total = virtual, physical, length
            if total:
                yield VirtualRange(start, first, total)

    def _pages_of(self, root: Root) -> Iterator[tuple[int, int, int]]:
        if isinstance(root.top, Page):
            yield root.virtual, root.top.address, root.top.length or ADDRESS_SPACE
        else:
            yield from self._pages(root.top, root.virtual, root.entries)

    def _pages(
        self, table: PageTable, base: int, wanted: range | None = None
    ) -> Iterator[tuple[int, int, int]]:
        """Yield (virtual, physical, length) of what each entry below a table maps.

        Of tables of pages only, neighbours are joined here: nearly all entries are in them.
        """
        begin = wanted.start if wanted else 0
        leaf = self._tables.leaf(table)
        if leaf is not None:
            span, entries = self._entries(table, wanted)
            yield from _joined(
                leaf, entries, base + (span.start - begin << table.shift), table.shift
            )
            return
        decode, length = self._tables.decode, 1 << table.shift
        mask, value = self._tables.present
        for number, entry in zip(*self._entries(table, wanted), strict=True):
            if entry & mask != value:
                continue
            found = decode(table, entry)
            virtual = base + (number - begin << table.shift)
            if isinstance(found, Page):
                if found.length <= length:
                    yield virtual, found.address, found.length
                else:  # one page of several entries, each of which shows its part
                    yield virtual, found.address | virtual & found.length - 1, length
            elif found is not None:
                yield from self._pages(found, virtual)

    def _entries(self, table: PageTable, wanted: range | None) -> tuple[range, tuple[int, ...]]:
        """Return the entries of a table that are wanted, and their numbers."""
        key = table.address, table.shift
        self._visits[key] += 1
        self._left -= 1
        if self._left < 0 or self._visits[key] > _VISITS_LIMIT:
            self.complete = False
            return _NO_ENTRIES
        size = self._tables.entry_length
        count = 1 << table.bits
        last = count - 1 if table.last < 0 else min(table.last, count - 1)
        span = range(table.first, last + 1)
        if wanted is not None:
            span = range(max(span.start, wanted.start), min(span.stop, wanted.stop))
        if not span:
            return _NO_ENTRIES
        if len(span) > _ENTRIES_LIMIT:
            self.complete = False
            return _NO_ENTRIES
        try:
            data = self._tables.read(table.address + span.start * size, size * len(span))
        except (AddressError, UnsupportedError) as error:
            self.lost += 1
            self.damaged += isinstance(error, LostMemoryError)
            return _NO_ENTRIES
        order = "<" if self._tables.byte_order == "little" else ">"
        return span, struct.unpack(f"{order}{len(span)}{'I' if size == 4 else 'Q'}", data)


_NO_ENTRIES: tuple[range, tuple[int, ...]] = (range(0), ())


def _joined(
    leaf: Leaf, entries: tuple[int, ...], virtual: int, shift: int
) -> Iterator[tuple[int, int, int]]:
    """Yield the pages of a table, those that follow each other as one."""
    mask, value, address = leaf
    step = 1 << shift
    start = first = total = 0
    following = -1
    for entry in entries:
        if entry & mask == value:
            physical = entry & address
            if physical == following:
                total += step
            else:
                if total:
                    yield start, first, total
                start, first, total = virtual, physical, step
            following = physical + step
        else:
            following = -1
        virtual += step
    if total:
        yield start, first, total
