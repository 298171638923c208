"""Page tables read backwards: what they map, also where they are made to confuse."""

from __future__ import annotations

import time

import pytest

from savefmt.errors import AddressError
from savefmt.guest import mappings
from savefmt.guest.arch.x86_paging import X86PageTables
from savefmt.guest.blockaddresses import BlockAddresses
from savefmt.guest.mappings import ReverseMap
from savefmt.guest.space import AddressSpace
from savefmt.model import PhysicalRange

MEMORY_LENGTH = 1 << 20


class Tables:
    """Page tables in a memory of 1 MiB, one entry at a time."""

    def __init__(self, mode: str) -> None:
        self.memory = bytearray(MEMORY_LENGTH)
        self.size = 4 if mode == "32-bit" else 8
        self.tables = X86PageTables(mode, 0x1000, self.read)

    def read(self, address: int, length: int) -> bytes:
        if address + length > MEMORY_LENGTH:
            raise AddressError("nothing there")
        return bytes(self.memory[address : address + length])

    def set(self, table: int, number: int, entry: int) -> None:
        at = table + number * self.size
        self.memory[at : at + self.size] = entry.to_bytes(self.size, "little")

    def reverse(self) -> ReverseMap:
        return ReverseMap(AddressSpace(self.tables, self.read))


def test_small_and_large_pages_of_long_mode() -> None:
    tables = Tables("4-level")
    tables.set(0x1000, 511, 0x2003)
    tables.set(0x2000, 510, 0x3003)
    tables.set(0x3000, 1, 0x4003)
    tables.set(0x3000, 2, 0x4000_0083)  # 2 MiB
    tables.set(0x2000, 511, 0x4000_0083)  # 1 GiB, the same memory once more
    tables.set(0x4000, 7, 0x5_5003)

    reverse = tables.reverse()

    kernel = 0xFFFF_FFFF_8000_0000
    assert reverse.addresses(0x5_5123) == (kernel + 0x20_7123,)
    assert reverse.addresses(0x4010_0001) == (kernel + 0x50_0001, kernel + 0x4010_0001)
    assert reverse.addresses(0x6000) == ()
    for virtual in (*reverse.addresses(0x5_5123), *reverse.addresses(0x4010_0001)):
        assert tables.tables.translate(virtual).physical in (0x5_5123, 0x4010_0001)


def test_legacy_and_pae() -> None:
    legacy = Tables("32-bit")
    legacy.set(0x1000, 3, 0x2003)
    legacy.set(0x2000, 5, 0x9003)
    legacy.set(0x1000, 4, 0x0080_0083)
    assert legacy.reverse().addresses(0x9010) == (3 << 22 | 5 << 12 | 0x10,)
    assert legacy.reverse().addresses(0x0080_0001) == (4 << 22 | 1,)
    pae = Tables("PAE")
    pae.set(0x1000, 2, 0x2001)
    pae.set(0x2000, 1, 0x3003)
    pae.set(0x3000, 9, 0x9003)
    assert pae.reverse().addresses(0x9010) == (2 << 30 | 1 << 21 | 9 << 12 | 0x10,)


def test_without_paging_addresses_are_the_same() -> None:
    assert Tables("none").reverse().addresses(0x1234) == (0x1234,)


def test_tables_that_lead_to_themselves_end() -> None:
    tables = Tables("4-level")
    for number in range(512):
        tables.set(0x1000, number, 0x1003)
    began = time.process_time()

    reverse = tables.reverse()

    assert not reverse.complete
    assert len(reverse.addresses(0x1234)) == mappings.ADDRESSES_LIMIT
    assert time.process_time() - began < 20


def test_one_entry_that_leads_back_is_followed_to_the_end() -> None:
    """So Windows reaches its tables: the fourth time, a table is a page."""
    tables = Tables("4-level")
    tables.set(0x1000, 0x1ED, 0x1003)
    tables.set(0x1000, 0, 0x2003)

    reverse = tables.reverse()

    assert reverse.complete
    base = 0xFFFF_F680_0000_0000
    itself = base | 0x1ED << 30 | 0x1ED << 21 | 0x1ED << 12
    assert reverse.addresses(0x1008) == (itself + 8,)
    assert reverse.addresses(0x2000) == (itself - (0x1ED << 12),)


def test_tables_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = Tables("4-level")
    for table in (0x1000, 0x2000, 0x3000):
        tables.set(table, 0, table + 0x1003)
    tables.set(0x4000, 0, 0x5003)
    assert tables.reverse().complete
    monkeypatch.setattr(mappings, "TABLES_LIMIT", 3)
    assert not tables.reverse().complete
    monkeypatch.undo()
    monkeypatch.setattr(mappings, "MAPPINGS_LIMIT", 1)
    assert not tables.reverse().complete


def test_tables_outside_of_memory_are_passed_over() -> None:
    tables = Tables("4-level")
    tables.set(0x1000, 0, 0x7FFF_F000_0003)
    tables.set(0x1000, 1, 0x2083)  # no large page at this level: a table, and an empty one

    reverse = tables.reverse()

    assert reverse.complete
    assert reverse.addresses(0) == ()


def test_placement_of_blocks_seen_twice() -> None:
    def piece(start: int, length: int, offset: int, block: str = "ram") -> PhysicalRange:
        return PhysicalRange(start, length, block, offset, "ram", "rule")

    placement = BlockAddresses(
        [piece(0, 0x8000, 0), piece(0x10_0000, 0x1000, 0x2000), piece(0x20_0000, 0x4000, 0x8000)]
    )

    assert placement.addresses("ram", 0x1FFF) == (0x1FFF,)
    assert placement.addresses("ram", 0x2010) == (0x2010, 0x10_0010)
    assert placement.addresses("ram", 0x8001) == (0x20_0001,)
    assert placement.addresses("ram", 0xC000) == ()
    assert placement.addresses("rom", 0) == ()
