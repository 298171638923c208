"""All that page tables map, to tell at which virtual addresses physical memory is seen."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from savefmt.errors import AddressError, UnsupportedError
from savefmt.guest.paging import Level, X86PageTables
from savefmt.guest.space import AddressSpace

_ADDRESS = 0x000F_FFFF_FFFF_F000
_PRESENT = 1 << 0
_LARGE = 1 << 7
_TABLE_LENGTH = 4096

TABLES_LIMIT = 1 << 17
"""Tables that are read at most: 512 MiB of them.  Tables that lead back to themselves
would go on for longer than anybody can wait."""


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
        found = sorted(walk.mappings(), key=lambda mapping: mapping.physical)
        self.complete = walk.left >= 0
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
        """Return the virtual addresses that lead to a physical one, ascending."""
        found = []
        for mappings, starts, longest in self._lists:
            number = bisect_right(starts, physical)
            while number > 0 and starts[number - 1] + longest > physical:
                number -= 1
                mapping = mappings[number]
                if physical < mapping.physical + mapping.length:
                    found.append(mapping.virtual + physical - mapping.physical)
        return tuple(sorted(found))


class _Walk:
    """One walk through all tables.

    `left` counts down the tables that may still be read, and is negative where that was
    not enough.
    """

    def __init__(self, tables: X86PageTables) -> None:
        self._tables = tables
        self._entry_length = 4 if tables.mode == "32-bit" else 8
        self._upper = {"4-level": 1 << 47, "5-level": 1 << 56}.get(tables.mode, 0)
        self.left = TABLES_LIMIT

    def mappings(self) -> Iterator[Mapping]:
        """Yield all, ascending by the lower half of the addresses, neighbours joined."""
        levels = self._tables.levels
        if not levels:
            yield Mapping(0, 0, 1 << 52)
            return
        mask = {"PAE": 0xFFFF_FFE0, "32-bit": 0xFFFF_F000}.get(self._tables.mode, _ADDRESS)
        pending: Mapping | None = None
        for page in self._pages(self._tables.root & mask, levels, 0):
            if (
                pending is not None
                and page.virtual == pending.virtual + pending.length
                and page.physical == pending.physical + pending.length
            ):
                length = pending.length + page.length
                pending = Mapping(pending.virtual, pending.physical, length)
                continue
            if pending is not None:
                yield pending
            pending = page
        if pending is not None:
            yield pending

    def _pages(self, table: int, levels: tuple[Level, ...], virtual: int) -> Iterator[Mapping]:
        """Yield the pages below a table.

        A table that maps itself, as Windows has one, is a loop that ends with the levels.
        """
        self.left -= 1
        if self.left < 0:
            return
        level, *rest = levels
        size = self._entry_length
        try:
            data = self._tables.read(table, size << level.bits)
        except (AddressError, UnsupportedError):
            return
        for number in range(1 << level.bits):
            entry = int.from_bytes(data[number * size : number * size + size], "little")
            if not entry & _PRESENT:
                continue
            at = virtual + (number << level.shift)
            if not rest or self._is_page(level, entry):
                yield self._page(level, entry, at)
            else:
                yield from self._pages(entry & _ADDRESS, tuple(rest), at)

    def _is_page(self, level: Level, entry: int) -> bool:
        large = self._tables.large_pages or self._tables.mode != "32-bit"
        return bool(level.large and entry & _LARGE and large)

    def _page(self, level: Level, entry: int, virtual: int) -> Mapping:
        length = 1 << level.shift
        physical = entry & _ADDRESS & -length
        if self._tables.mode == "32-bit" and level.large:
            physical |= (entry >> 13 & 0xFF) << 32
        if self._upper and virtual >= self._upper:
            virtual += (1 << 64) - 2 * self._upper
        return Mapping(virtual, physical, length)
