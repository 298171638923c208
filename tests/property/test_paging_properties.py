"""The page walk agrees with a slow reference, on tables of any shape."""

from __future__ import annotations

import random
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pagetables import (
    ARM_GRANULES,
    X86_MODES,
    Memory,
    make_arm,
    make_x86,
    walk_arm,
    walk_x86,
)

from savefmt.errors import AddressError
from savefmt.guest.arch.arm64 import Arm64Registers
from savefmt.guest.arch.arm64_paging import Arm64PageTables
from savefmt.guest.arch.x86_paging import X86PageTables
from savefmt.guest.mappings import Walk
from savefmt.guest.space import AddressSpace

SEEDS = st.integers(0, 1 << 32)


def shortcut_changes_nothing(tables: X86PageTables | Arm64PageTables) -> None:
    """Walk tables of pages at a stroke, and entry by entry."""
    at_a_stroke = list(islice(Walk(tables).mappings(), 2000))
    tables.leaf = lambda table: None  # type: ignore[method-assign]
    assert at_a_stroke == list(islice(Walk(tables).mappings(), 2000))


def reader(memory: Memory):  # type: ignore[no-untyped-def]
    def read(address: int, length: int) -> bytes:
        value = memory.load(address, length)
        if value is None:
            raise AddressError("outside")
        return value.to_bytes(length, "little")

    return read


def lead(tables: X86PageTables | Arm64PageTables, address: int) -> int | None:
    """Return where an address leads, None if nowhere."""
    try:
        return tables.translate(address).physical
    except AddressError:
        return None


@pytest.mark.parametrize("mode", X86_MODES)
@given(seed=SEEDS)
def test_x86(mode: str, seed: int) -> None:
    made = make_x86(random.Random(seed), mode)
    tables = X86PageTables(mode, made.root, reader(made.memory))

    for address in made.addresses:
        assert lead(tables, address) == walk_x86(mode, made.memory, made.root, address)
    shortcut_changes_nothing(tables)


def arm_registers(granule: int, bits: int, root: int) -> Arm64Registers:
    """Return a vCPU at EL1 whose lower half is translated by these tables."""
    code = {12: 0, 14: 2, 16: 1}[granule]
    system = {
        "SCTLR_EL1": 1,
        "TCR_EL1": 64 - bits | code << 14 | 16 << 16 | 2 << 30,
        "TTBR0_EL1": root | 0x12 << 48,  # with an address space's number
    }
    return Arm64Registers(0, {}, 0, 0x5, {}, {}, {}, system, (), 0, 0, False)


@pytest.mark.parametrize("granule", ARM_GRANULES)
@given(seed=SEEDS, bits=st.integers(25, 48))
def test_arm(granule: int, seed: int, bits: int) -> None:
    made = make_arm(random.Random(seed), granule, bits)
    tables = Arm64PageTables.of(arm_registers(granule, bits, made.root), reader(made.memory))

    for address in made.addresses:
        assert lead(tables, address) == walk_arm(granule, bits, made.memory, made.root, address)
    shortcut_changes_nothing(tables)


@given(seed=SEEDS, length=st.integers(0, 3 * 4096))
def test_a_virtual_read_is_its_pages(seed: int, length: int) -> None:
    rng = random.Random(seed)
    memory = Memory(0, 1 << 20)
    for page in range(256):
        memory.pieces[page] = bytes([page]) * 4096
    frames = rng.sample(range(16, 250), 4)
    memory.store(0x1000, 0x2000 | 3, 4)
    for number, frame in enumerate(frames):
        memory.store(0x2000 + 4 * number, frame << 12 | 3, 4)
    space = AddressSpace(X86PageTables("32-bit", 0x1000, reader(memory)), reader(memory))
    start = rng.randrange(4096)

    expected = b"".join(bytes([frame]) * 4096 for frame in frames)[start : start + length]

    assert space.read(start, length) == expected
