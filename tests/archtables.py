"""Page tables made at random for each architecture, which a real QEMU is asked to walk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pagetables import Memory, Random, Tables

RISCV_MODES = {"Sv39": (8, 3), "Sv48": (9, 4), "Sv57": (10, 5)}
S390_KINDS = ("segment", "region third", "region second", "region first")

Order = Literal["little", "big"]


class Pool:
    """Memory for tables of one size, and indices that the addresses will use."""

    def __init__(
        self, rng: Random, start: int, end: int, length: int, entries: int, count: int = 8
    ) -> None:
        self.rng = rng
        self.memory = Memory(start, end)
        pages = range(start // length, end // length)
        self.tables = [page * length for page in rng.sample(pages, count)]
        self.indices = [0, 1, 2, entries // 2, entries - 1, *rng.sample(range(entries), 3)]

    def target(self, align: int) -> int:
        """Return where a page may lie: anywhere below 1 TiB."""
        return self.rng.randrange(1 << 40) & -align

    def addresses(self, shifts: Sequence[int], width: int, *, signed: bool) -> list[int]:
        """Return addresses that use the indices."""
        found = []
        for _ in range(60):
            value = self.rng.randrange(4096)
            for shift in shifts:
                value |= self.rng.choice(self.indices) << shift
            value &= (1 << width) - 1
            if signed and value >> width - 1 & 1:
                value |= (1 << 64) - (1 << width)
            found.append(value)
        return found


def make_riscv(rng: Random, mode: str, code: int = 0x8000_0000) -> Tables:
    """Make tables of which the code's page is one of 1 GiB."""
    _, levels = RISCV_MODES[mode]
    pool = Pool(rng, 0x8020_0000, 0x80E0_0000, 4096, 512)
    for table in pool.tables:
        for index in pool.indices:
            pool.memory.store(table + 8 * index, _riscv_entry(rng, pool), 8)
    root = 0x8010_0000
    pool.memory.start = root
    for index in pool.indices:
        pool.memory.store(root + 8 * index, _riscv_entry(rng, pool), 8)
    chain = root
    for level in range(levels - 1, 2, -1):
        below = chain + 0x1000
        pool.memory.store(chain + 8 * (code >> 12 + 9 * level & 511), below >> 2 | 1, 8)
        chain = below
    pool.memory.store(chain + 8 * (code >> 30), code >> 2 | 0xCF, 8)
    shifts = [12 + 9 * level for level in range(levels)]
    return Tables(pool.memory, root, pool.addresses(shifts, 12 + 9 * levels, signed=True))


def _riscv_entry(rng: Random, pool: Pool) -> int:
    if rng.random() < 0.1:
        return rng.getrandbits(54) & ~1
    if rng.random() < 0.6:
        return rng.choice(pool.tables) >> 2 | 1
    align = rng.choice([1 << 12, 1 << 21, 1 << 30, 1 << 39])
    return pool.target(align) >> 2 | 0xC3 | rng.choice([0, 4, 8, 12])


def make_s390(rng: Random, kind: str, code: int = 0x10000) -> Tables:
    """Make region, segment and page tables; the control element is the root."""
    top = S390_KINDS.index(kind) + 1
    pool = Pool(rng, 0x20_0000, 0xF0_0000, 0x4000, 2048)
    for table in pool.tables:
        for index in pool.indices:
            level = rng.randrange(0, 5)
            _store(pool, table + 8 * index, _s390_entry(rng, pool, level))
    root = 0x10_0000
    pool.memory.start = root
    for index in pool.indices:
        _store(pool, root + 8 * index, _s390_entry(rng, pool, top))
    chain = root
    for level in range(top, 0, -1):
        below = chain + 0x4000
        flags = (level - 1) << 2 | 3 if level > 1 else 0
        _store(pool, chain, below | flags)
        chain = below
    for page in range(32):
        _store(pool, chain + 8 * page, page << 12)
    shifts = [12, *([20, 31, 42, 53][:top])]
    addresses = pool.addresses(shifts[1:], min(20 + 11 * top, 64), signed=False)
    addresses = [a & ~0xFF000 | rng.choice(pool.indices) % 256 << 12 for a in addresses]
    return Tables(pool.memory, root | (top - 1) << 2 | 3, addresses + list(range(0, 0x8000, 4096)))


def _s390_entry(rng: Random, pool: Pool, level: int) -> int:
    invalid = rng.random() < 0.08
    if level == 0:
        return pool.target(4096) | 0x400 * invalid | 0x800 * (rng.random() < 0.05)
    if level in (1, 2) and rng.random() < 0.3:
        return pool.target(1 << 20) | 0x400 | (level - 1) << 2 | 0x20 * invalid
    quarter = rng.choice([0, 0, 0, 1]) << 6 | rng.choice([3, 3, 3, 2])
    return rng.choice(pool.tables) | (level - 1) << 2 | 0x20 * invalid | quarter * (level > 1)


def make_radix(rng: Random) -> Tables:
    """Make a process table and radix trees; both processes 0, of kernel and program, share one."""
    pool = Pool(rng, 0x40_0000, 0x100_0000, 0x10000, 512)
    sizes = {table: rng.choice([5, 9, 9, 9, 13]) for table in pool.tables}
    for table, bits in sizes.items():
        for index in pool.indices:
            if index < 1 << bits:
                _store(pool, table + 8 * index, _radix_entry(rng, pool, sizes))
    root, process_table = 0x20_0000, 0x10_0000
    pool.memory.start = process_table
    _store(pool, process_table, 5 << 5 | 2 << 61 | root | 13)
    for index in pool.indices:
        _store(pool, root + 8 * index, _radix_entry(rng, pool, sizes))
    chain = root
    for number, bits in enumerate((9, 9, 9)):
        below = root + 0x10000 * (number + 1)
        _store(pool, chain, 1 << 63 | below | bits)
        chain = below
    _store(pool, chain, 3 << 62 | 0x18F)
    addresses = pool.addresses([12, 21, 30, 39], 52, signed=False)
    addresses = [address | rng.choice([0, 3, 3, 1]) << 62 for address in addresses]
    return Tables(pool.memory, process_table, addresses)


def _radix_entry(rng: Random, pool: Pool, sizes: dict[int, int]) -> int:
    if rng.random() < 0.08:
        return rng.getrandbits(62)
    if rng.random() < 0.65:
        table = rng.choice(pool.tables)
        return 1 << 63 | table | sizes[table]
    return 3 << 62 | pool.target(4096) | 0x18F


def make_loongarch(rng: Random) -> Tables:
    """Make tables of four levels for both halves, at 16 MiB and 64 KiB behind."""
    pool = Pool(rng, 0x200_0000, 0x800_0000, 4096, 512)
    levels = [pool.tables[:3], pool.tables[3:6], pool.tables[6:], [0x100_0000, 0x101_0000]]
    pool.memory.start = 0x100_0000
    for level, tables in enumerate(levels):
        for table in tables:
            for index in pool.indices:
                entry = _loongarch_entry(rng, pool, level, levels)
                _store(pool, table + 8 * index, entry, "little")
    return Tables(pool.memory, 0x100_0000, pool.addresses([12, 21, 30, 39], 48, signed=True))


def _loongarch_entry(rng: Random, pool: Pool, level: int, levels: list[list[int]]) -> int:
    if rng.random() < 0.1:
        return 0
    # QEMU 10.0 takes pages of 512 GiB for small ones.
    if level == 3 or (level and rng.random() < 0.7):
        return rng.choice(levels[level - 1])
    return pool.target(1 << 12 + 9 * level) | 0x40 | 0x181 | rng.choice([0, 2])


def make_arm_short(rng: Random, part: int, code: int = 0x4020_0000) -> Tables:
    """Make short descriptors, the lowest 1/2^`part` of the addresses by TTBR0."""
    pool = Pool(rng, 0x4040_0000, 0x40E0_0000, 1024, 256)
    for table in pool.tables:
        for index in pool.indices:
            kind = rng.choice([0, 1, 2, 2, 3])
            pool.memory.store(table + 4 * index, pool.target(4096) & 0xFFFF_F000 | kind | 0x30, 4)
    pool.indices += [index << 4 | rng.randrange(16) for index in pool.indices]
    for root in (0x4030_0000, 0x4031_0000):
        pool.memory.start = min(pool.memory.start, root)
        for index in pool.indices:
            if root == 0x4031_0000 or index < 1 << 12 - part:
                pool.memory.store(root + 4 * index, _arm_section(rng, pool), 4)
    for root in (0x4030_0000, 0x4031_0000):
        if root == 0x4031_0000 or code >> 20 < 1 << 12 - part:
            pool.memory.store(root + 4 * (code >> 20), code | 0xC02, 4)
    addresses = pool.addresses([12, 20], 32, signed=False)
    return Tables(pool.memory, 0x4030_0000, addresses)


def _arm_section(rng: Random, pool: Pool) -> int:
    kind = rng.choice([0, 1, 1, 1, 2, 2])
    if kind == 1:
        return rng.choice(pool.tables) | 1
    big = rng.random() < 0.3
    base = rng.getrandbits(32) & (0xFFF0_01E0 if big else 0xFFF0_0000)
    return base | kind | 0xC00 * bool(kind) | big << 18


def make_arm_long(rng: Random, code: int = 0x4020_0000) -> Tables:
    """Make long descriptors for all 4 GiB by TTBR0."""
    pool = Pool(rng, 0x4040_0000, 0x40E0_0000, 4096, 512)
    last, middle = pool.tables[:4], pool.tables[4:]
    for table in pool.tables:
        for index in pool.indices:
            kind = rng.choice([0, 1, 1, 3, 3, 3])
            inner = kind == 3 and table in middle
            where = rng.choice(last) if inner else pool.target(4096)
            pool.memory.store(table + 8 * index, where | kind | 0x440, 8)
    root = 0x4030_0000
    pool.memory.start = root
    for index in range(4):
        entry = rng.choice(middle) | 3 if rng.random() < 0.7 else pool.target(1 << 30) | 0x401
        pool.memory.store(root + 8 * index, code & -(1 << 30) | 0x401 if index == 1 else entry, 8)
    return Tables(pool.memory, root, pool.addresses([12, 21, 30], 32, signed=False))


def _store(pool: Pool, address: int, entry: int, order: Order = "big") -> None:
    pool.memory.store(address, entry & (1 << 64) - 1, 8, order)
