"""QEMU of each architecture walks page tables made at random, and so do we."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from archguests import GUESTS, ArchGuest, load_tables
from archtables import (
    RISCV_MODES,
    S390_KINDS,
    make_arm_long,
    make_arm_short,
    make_loongarch,
    make_radix,
    make_riscv,
    make_s390,
)
from monitor import physical_address
from pagetables import Tables

import savefmt
from interop.qemu import Guest, wait_for
from savefmt.errors import AddressError
from savefmt.guest.mappings import Walk

pytestmark = pytest.mark.interop

SEEDS = range(2)


def compare(
    made: Tables, arch: ArchGuest, folder: Path, ready: Callable[[str], bool], **words: int
) -> int:
    """Ask both for every address, and return how many are mapped.

    QEMU's s390x has no answer where a page lies outside of memory.
    """
    limit = 1 << 24 if arch.name == "s390x" else 1 << 64
    arguments = arch.arguments(folder, **words) + load_tables(made.memory, folder)
    expected: dict[int, int | None] = {}
    with Guest(folder, arguments, program=arch.program) as guest:
        guest.cont()
        wait_for(lambda: ready(guest.hmp("info registers")), "the mode asked for", 20)
        guest.stop()
        assert ready(guest.hmp("info registers"))
        for address in made.addresses:
            expected[address] = physical_address(guest.hmp(f"gva2gpa {address:#x}"))
        guest.migrate_to(f"file:{folder}/image")
    with savefmt.open(folder / "image") as image:
        space = image.guest.space()
        for address, wanted in expected.items():
            try:
                found: int | None = space.translate(address).physical
                if found is not None and found >= limit:
                    found = None
                way = str(space.translate(address))
            except AddressError as error:
                found, way = None, error.message
            assert found == wanted, f"{address:#x}: {way}"
        for item in islice(Walk(space.tables).mappings(), 500):
            assert space.translate(item.virtual).physical == item.physical, item
    return sum(value is not None for value in expected.values())


def need(name: str) -> ArchGuest:
    """Return a guest whose QEMU is there."""
    guest = GUESTS[name]
    if shutil.which(guest.program) is None:
        pytest.skip(f"no {guest.program} (package {guest.package})")
    return guest


def several(make: Callable[[random.Random], Tables], check: Callable[[Tables], Any]) -> None:
    """Try some seeds, of which at least one must map something."""
    assert sum(check(make(random.Random(seed))) for seed in SEEDS) > 0


@pytest.mark.parametrize("mode", RISCV_MODES)
def test_riscv(mode: str, tmp_path: Path) -> None:
    arch = need("riscv64")

    def check(made: Tables) -> int:
        satp = RISCV_MODES[mode][0] << 60 | made.root >> 12
        return compare(made, arch, tmp_path, lambda text: "a0   aaaa" in text, satp=satp)

    several(lambda rng: make_riscv(rng, mode), check)


@pytest.mark.parametrize("kind", S390_KINDS)
def test_s390x(kind: str, tmp_path: Path) -> None:
    arch = need("s390x")

    def check(made: Tables) -> int:
        return compare(
            *(made, arch, tmp_path, lambda text: "PSW=mask 04" in text),
            psw=0x0400_0001_8000_0000,
            asce=made.root,
        )

    several(lambda rng: make_s390(rng, kind), check)


def test_radix_of_pseries(tmp_path: Path) -> None:
    arch = need("ppc64")

    def check(made: Tables) -> int:
        return compare(
            *(made, arch, tmp_path, lambda text: "MSR 8000000000003030" in text),
            flags=0x1D,
            process_table=made.root,
            msr=0x8000_0000_0000_3030,
        )

    several(make_radix, check)


def test_loongarch(tmp_path: Path) -> None:
    arch = need("loongarch64")
    low = 12 | 9 << 5 | 21 << 10 | 9 << 15 | 30 << 20 | 9 << 25

    def check(made: Tables) -> int:
        return compare(
            *(made, arch, tmp_path, lambda text: "CRMD   b0" in text),
            pwcl=low,
            pwch=39 | 9 << 6,
            crmd=0xB0,
        )

    several(make_loongarch, check)


@pytest.mark.parametrize("part", [0, 1, 3])
def test_arm_with_short_descriptors(part: int, tmp_path: Path) -> None:
    arch = need("arm")

    def check(made: Tables) -> int:
        return compare(
            *(made, arch, tmp_path, lambda text: "R00=00000012" in text), ttbcr=part, sctlr=1
        )

    several(lambda rng: make_arm_short(rng, part), check)


def test_arm_with_long_descriptors(tmp_path: Path) -> None:
    arch = need("arm")

    def check(made: Tables) -> int:
        ready = lambda text: "R00=00000012" in text  # noqa: E731
        return compare(made, arch, tmp_path, ready, ttbcr=1 << 31, sctlr=1)

    several(make_arm_long, check)
