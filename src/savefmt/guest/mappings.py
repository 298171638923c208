"""All that page tables map, to tell at which virtual addresses physical memory is seen."""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from operator import attrgetter

from savefmt.errors import AddressError, UnsupportedError
from savefmt.frozen import dataclass
from savefmt.guest.paging import Level, X86PageTables
from savefmt.guest.paging_arm import Arm64PageTables
from savefmt.guest.space import AddressSpace

_ADDRESS = 0x000F_FFFF_FFFF_F000
_PRESENT = 1 << 0
_LARGE = 1 << 7

TABLES_LIMIT = 1 << 15
"""Tables that are read at most: what maps 64 GiB by small pages."""

MAPPINGS_LIMIT = 1 << 19
"""Mappings that are kept at most, neighbours joined."""

ADDRESSES_LIMIT = 64
"""Virtual addresses that are told of one place at most: a page may be mapped everywhere."""

_VISITS_LIMIT = 4
"""How often a table is read as one of the same level.  Tables that lead back to themselves
would go on for longer than anybody can wait; Windows has one such entry, on purpose."""


@dataclass(frozen=True, slots=True)
class Mapping:
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

    Raises
    ------
    UnsupportedError
        If the tables are none of x86.
    """

    def __init__(self, space: AddressSpace) -> None:
        tables = space.tables
        if not isinstance(tables, X86PageTables):
            raise UnsupportedError("virtual addresses can be found by x86 page tables only")
        walk = _Walk(tables)
        found = sorted(islice(walk.mappings(), MAPPINGS_LIMIT), key=attrgetter("physical"))
        self.complete = walk.complete and len(found) < MAPPINGS_LIMIT
        # Long and short ranges apart: a kernel maps all memory by large pages and some
        # of it again by small ones, and each list is searched back by its longest range.
        lists: dict[int, list[Mapping]] = {}
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


def lower_half(tables: X86PageTables | Arm64PageTables) -> Iterator[Mapping]:
    """Yield what page tables map for programs: the lower half of the addresses.

    Parameters
    ----------
    tables : X86PageTables or Arm64PageTables
        Of a process.

    Yields
    ------
    Mapping
        Ascending, neighbours joined; what tables lead back to themselves is left out.
    """
    if isinstance(tables, X86PageTables):
        walk = _Walk(tables)
        for mapping in walk.mappings():
            if mapping.virtual >= 1 << (56 if tables.mode == "5-level" else 47):
                return
            yield mapping
        return
    pending: Mapping | None = None
    for virtual, physical, length in _arm_pages(tables):
        if pending is not None:
            end = pending.virtual + pending.length
            if virtual == end and physical == pending.physical + pending.length:
                pending = Mapping(pending.virtual, pending.physical, pending.length + length)
                continue
            yield pending
        pending = Mapping(virtual, physical, length)
    if pending is not None:
        yield pending


def _arm_pages(tables: Arm64PageTables) -> Iterator[tuple[int, int, int]]:
    """Yield (virtual, physical, length) of each page in the lower half."""
    left, visits = TABLES_LIMIT, Counter[int]()
    stack = list(tables.lower_entries(None, 0, 0))[::-1]
    while stack:
        found = stack.pop()
        if found.page:
            yield found.virtual, found.physical, found.length
            continue
        left -= 1
        visits[found.physical] += 1
        if left < 0 or visits[found.physical] > _VISITS_LIMIT:
            continue
        stack += list(tables.lower_entries(found.physical, found.level + 1, found.virtual))[::-1]


class _Walk:
    """One walk through all tables; not `complete` where it left some out."""

    def __init__(self, tables: X86PageTables) -> None:
        self._tables = tables
        self._entry_length = 4 if tables.mode == "32-bit" else 8
        self._upper = {"4-level": 1 << 47, "5-level": 1 << 56}.get(tables.mode, 0)
        self._visits = Counter[tuple[int, int]]()
        self._left = TABLES_LIMIT
        self.complete = True

    def mappings(self) -> Iterator[Mapping]:
        """Yield all, ascending by the lower half of the addresses, neighbours joined."""
        levels = self._tables.levels
        if not levels:
            yield Mapping(0, 0, 1 << 52)
            return
        mask = {"PAE": 0xFFFF_FFE0, "32-bit": 0xFFFF_F000}.get(self._tables.mode, _ADDRESS)
        start, first, total = 0, 0, 0
        for virtual, physical, length in self._pages(self._tables.root & mask, levels, 0):
            follows = virtual == start + total and physical == first + total
            if follows and virtual != self._upper:
                total += length
                continue
            if total:
                yield self._mapping(start, first, total)
            start, first, total = virtual, physical, length
        if total:
            yield self._mapping(start, first, total)

    def _mapping(self, virtual: int, physical: int, length: int) -> Mapping:
        if self._upper and virtual >= self._upper:
            virtual += (1 << 64) - 2 * self._upper
        return Mapping(virtual, physical, length)

    def _pages(
        self, table: int, levels: tuple[Level, ...], base: int
    ) -> Iterator[tuple[int, int, int]]:
        """Yield (virtual, physical, length) of each page below a table."""
        level, *rest = levels
        length = 1 << level.shift
        for number, entry in self._entries(table, level):
            virtual = base + number * length
            if rest and not self._is_page(level, entry):
                yield from self._pages(entry & _ADDRESS, tuple(rest), virtual)
                continue
            physical = entry & _ADDRESS & -length
            if self._entry_length == 4 and level.large:  # PSE-36
                physical |= (entry >> 13 & 0xFF) << 32
            yield virtual, physical, length

    def _entries(self, table: int, level: Level) -> list[tuple[int, int]]:
        """Return the entries of a table that are present, with their numbers."""
        self._visits[table, level.shift] += 1
        self._left -= 1
        if self._left < 0 or self._visits[table, level.shift] > _VISITS_LIMIT:
            self.complete = False
            return []
        size = self._entry_length
        try:
            data = self._tables.read(table, size << level.bits)
        except (AddressError, UnsupportedError):
            return []
        entries = struct.unpack(f"<{1 << level.bits}{'I' if size == 4 else 'Q'}", data)
        return [(number, entry) for number, entry in enumerate(entries) if entry & _PRESENT]

    def _is_page(self, level: Level, entry: int) -> bool:
        large = self._tables.large_pages or self._tables.mode != "32-bit"
        return bool(level.large and entry & _LARGE and large)
