"""Page tables made at random, and the slowest walk through them that could work."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

PAGE = 4096
X86_MODES = ("32-bit", "PAE", "4-level", "5-level")
X86_LEVELS = {"32-bit": 2, "PAE": 3, "4-level": 4, "5-level": 5}
ARM_GRANULES = (12, 14, 16)

Random = random.Random


@dataclass
class Memory:
    """Some physical memory between `start` and `end`, zero but for what was stored."""

    start: int
    end: int
    pieces: dict[int, bytes] = field(default_factory=dict)

    def store(
        self, address: int, entry: int, size: int, order: Literal["little", "big"] = "little"
    ) -> None:
        """Put an entry into a table."""
        page, offset = divmod(address, PAGE)
        old = self.pieces.get(page, bytes(PAGE))
        new = entry.to_bytes(size, order)
        self.pieces[page] = old[:offset] + new + old[offset + size :]

    def load(self, address: int, size: int) -> int | None:
        """Read an entry, None outside of memory."""
        if not self.start <= address <= self.end - size:
            return None
        page, offset = divmod(address, PAGE)
        data = self.pieces.get(page, bytes(PAGE))[offset : offset + size]
        return int.from_bytes(data, "little")


@dataclass(frozen=True)
class Tables:
    """Tables at random: memory, root, and addresses that lead somewhere interesting."""

    memory: Memory
    root: int
    addresses: Sequence[int]


def make_x86(rng: Random, mode: str, *, start: int = 0x100000, end: int = 0x800000) -> Tables:
    """Make tables for an x86 mode, loops and dead ends included."""
    size, bits = (4, 10) if mode == "32-bit" else (8, 9)
    highest = 1 << (32 if mode == "32-bit" else 40)
    memory = Memory(start, end)
    tables = [page * PAGE for page in rng.sample(range(start // PAGE, end // PAGE), 10)]
    indices = [0, 1, 2, 3, (1 << bits) // 2, (1 << bits) - 1, *rng.sample(range(1 << bits), 3)]
    for table in tables:
        for index in indices:
            memory.store(table + index * size, _x86_entry(rng, tables, highest, size), size)

    def address() -> int:
        if mode in ("32-bit", "PAE"):
            shifts = (22, 12) if mode == "32-bit" else (30, 21, 12)
            value = sum((rng.choice(indices) & (1 << bits) - 1) << shift for shift in shifts)
            return (value | rng.randrange(PAGE)) & 0xFFFF_FFFF
        width = 12 + 9 * X86_LEVELS[mode]
        value = sum(rng.choice(indices) << 12 + 9 * n for n in range(X86_LEVELS[mode]))
        value |= rng.randrange(PAGE)
        sign = value >> width - 1 & 1
        return value | ((1 << 64) - (1 << width)) * (sign ^ (rng.random() < 0.05))

    return Tables(memory, tables[0] | rng.choice([0, 0x18]), [address() for _ in range(40)])


def _x86_entry(rng: Random, tables: Sequence[int], highest: int, size: int) -> int:
    flags = rng.getrandbits(12) & ~0x81 | (0x80 if rng.random() < 0.15 else 0)
    present = rng.random() < 0.85
    where = rng.choice(tables) if rng.random() < 0.7 else rng.randrange(highest) & -PAGE
    never = rng.getrandbits(1) << 63 if size == 8 else 0
    return where | flags | present | never


def walk_x86(mode: str, memory: Memory, root: int, address: int) -> int | None:
    """Find where an address leads, None if nowhere: the manuals, word for word."""
    if mode == "32-bit":
        return _walk_legacy(memory, root, address)
    if mode == "PAE":
        first = memory.load((root & 0xFFFFFFE0) + 8 * (address >> 30), 8)
        if first is None or first % 2 == 0:
            return None
        return _walk_long(memory, first, address, 2)
    levels = X86_LEVELS[mode]
    width = 12 + 9 * levels
    digits = f"{address:064b}"
    if len(set(digits[: 64 - width + 1])) > 1:
        return None
    return _walk_long(memory, root, address, levels)


def _walk_long(memory: Memory, above: int, address: int, levels: int) -> int | None:
    digits = f"{address:064b}"[::-1]
    for level in range(levels, 0, -1):
        low = 12 + 9 * (level - 1)
        index = int(digits[low : low + 9][::-1], 2)
        table = (above % (1 << 52)) // PAGE * PAGE
        entry = memory.load(table + 8 * index, 8)
        if entry is None or entry % 2 == 0:
            return None
        if level == 1 or (level in (2, 3) and entry & 0x80 and not (levels == 2 and level == 3)):
            span = 1 << low
            return entry % (1 << 52) // span * span + address % span
        above = entry
    raise AssertionError("no last level")


def _walk_legacy(memory: Memory, root: int, address: int) -> int | None:
    directory = memory.load((root & 0xFFFFF000) + 4 * (address >> 22), 4)
    if directory is None or directory % 2 == 0:
        return None
    if directory & 0x80:
        high = directory >> 13 & 0xFF
        return (high << 32) + (directory & 0xFFC00000) + address % (1 << 22)
    entry = memory.load((directory & 0xFFFFF000) + 4 * (address >> 12 & 0x3FF), 4)
    if entry is None or entry % 2 == 0:
        return None
    return (entry & 0xFFFFF000) + address % PAGE


def make_arm(
    rng: Random, granule: int, bits: int, *, start: int = 0x40200000, end: int = 0x41000000
) -> Tables:
    """Make tables for the lower half of AArch64's addresses."""
    memory = Memory(start, end)
    size = 1 << granule
    stride = granule - 3
    tables = [page * size for page in rng.sample(range(start // size, end // size), 8)]
    indices = [0, 1, 2, (1 << stride) - 1, *rng.sample(range(1 << stride), 4)]
    for table in tables:
        for index in indices:
            where = rng.choice(tables) if rng.random() < 0.7 else rng.randrange(1 << 40) & -size
            kind = rng.choices([0, 1, 3], [0.1, 0.2, 0.7])[0]
            memory.store(table + 8 * index, where | kind | 0x400 | rng.getrandbits(1) << 7, 8)

    def address() -> int:
        shifts = range(granule, bits, stride)
        value = sum(rng.choice(indices) << shift for shift in shifts) | rng.randrange(size)
        return value & (1 << bits) - 1

    return Tables(memory, tables[0], [address() for _ in range(40)])


def walk_arm(granule: int, bits: int, memory: Memory, root: int, address: int) -> int | None:
    """Find where an address of the lower half leads, None if nowhere."""
    if address >> bits:
        return None
    stride = granule - 3
    lows = list(range(granule, bits, stride))  # level 3 first
    table = root
    high = bits
    for low in reversed(lows):
        level = 3 - lows.index(low)
        index = address % (1 << high) >> low
        entry = memory.load(table + 8 * index, 8)
        if entry is None or entry & 1 == 0:
            return None
        place = entry % (1 << 48) >> granule << granule
        if entry & 2 == 0:
            if level not in {12: (1, 2), 14: (2,), 16: (2,)}[granule]:
                return None
            return (place >> low << low) + address % (1 << low)
        if level == 3:
            return place + address % (1 << low)
        table, high = place, low
    raise AssertionError("no last level")


def packed_changes(memory: Memory) -> Mapping[int, bytes]:
    """Return the pages to write into an image, by address."""
    return {page * PAGE: data for page, data in memory.pieces.items()}
