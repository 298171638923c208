"""QEMU walks page tables made at random, and so do we: both in one patched image."""

from __future__ import annotations

import random
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from golden import load
from monitor import physical_address
from pagetables import X86_MODES, Tables, make_arm, make_x86, packed_changes

import savefmt
from interop.qemu import Guest
from savefmt.errors import AddressError
from savefmt.format.devicetree import Field
from savefmt.guest.arch.x86 import X86Registers
from savefmt.image import SaveImage

pytestmark = [pytest.mark.interop, pytest.mark.usefixtures("qemu")]

MAPPED = {"mapped-ram": True}
SEEDS = range(5)
X86 = ("-machine", "pc-q35-10.0", "-cpu", "qemu64", "-m", "16", "-smp", "2")
ARM_QEMU = "qemu-system-aarch64"
ARM = ("-machine", "virt", "-cpu", "cortex-a57", "-m", "16M")

ARM_REGISTERS = {
    "SCTLR": 0x6030_0000_0013_C080,
    "TTBR0": 0x6030_0000_0013_C100,
    "TCR": 0x6030_0000_0013_C102,
}

# CR0, CR4 and EFER of each mode, with PSE.
CONTROL = {
    "32-bit": (0x8000_0011, 0x10, 0),
    "PAE": (0x8000_0011, 0x30, 0),
    "4-level": (0x8000_0011, 0x30, 0x500),
    "5-level": (0x8000_0011, 0x1030, 0x500),
}
LONG_MODE = 1 << 14 | 1 << 15


def patch_memory(image: SaveImage, path: Path, changes: Mapping[int, bytes]) -> None:
    """Write pages of guest-physical memory into a mapped-ram image."""
    headers = {block.idstr: block.header for block in image.head.blocks.blocks}
    with path.open("r+b") as file:
        for address, data in changes.items():
            place = image.guest.physical.find(address)
            assert place is not None
            header = headers[place.block]
            assert header is not None
            page = (place.offset + address - place.start) // 4096
            file.seek(header.bitmap_offset + page // 8)
            bits = file.read(1)[0] | 1 << page % 8
            file.seek(header.bitmap_offset + page // 8)
            file.write(bytes([bits]))
            file.seek(header.pages_offset + page * 4096)
            file.write(data)


def patch_cpu(image: SaveImage, path: Path, values: Mapping[str, int]) -> None:
    """Write fields of the first vCPU's section, ``name`` or ``name:element``."""
    section = image.devices.find("cpu")
    assert section is not None
    assert section.offset is not None
    fields = {field.name: field for field in image.devices.tree(section).fields}
    with path.open("r+b") as file:
        for key, value in values.items():
            name, _, element = key.partition(":")
            field: Field = fields[name]
            count = len(field.value) if isinstance(field.value, tuple) else 1
            length = field.length // count
            file.seek(section.offset + field.offset + int(element or 0) * length)
            file.write(value.to_bytes(length, "big"))


def compare(path: Path, guest: Guest, made: Tables) -> int:
    """Ask both for every address, and return how many are mapped."""
    guest.load(f"file:{path}", MAPPED)
    mapped = 0
    with savefmt.open(path) as image:
        space = image.guest.space()
        for address in made.addresses:
            expected = physical_address(guest.hmp(f"gva2gpa {address:#x}"))
            try:
                found = space.translate(address).physical
            except AddressError:
                found = None
            assert found == expected, f"{address:#x}: {space.tables.mode}"
            mapped += found is not None
    return mapped


@pytest.mark.parametrize("mode", X86_MODES)
def test_x86(mode: str, tmp_path: Path) -> None:
    assert sum(x86_agrees(mode, seed, tmp_path) for seed in SEEDS) > 0


def x86_agrees(mode: str, seed: int, tmp_path: Path) -> int:
    """Try one set of tables, and return how many of the addresses are mapped."""
    made = make_x86(random.Random(seed), mode)
    path = load.unpack("guest/q35-16m", tmp_path)
    cr0, cr4, efer = CONTROL[mode]
    values = {"env.cr[0]": cr0, "env.cr[4]": cr4, "env.efer": efer, "env.cr[3]": made.root}
    with savefmt.open(path) as image:
        before = image.guest.cpus[0]
        assert isinstance(before, X86Registers)
        values["env.hflags"] = before.hflags & ~LONG_MODE | (LONG_MODE if efer else 0)
        patch_memory(image, path, packed_changes(made.memory))
        patch_cpu(image, path, values)

    with Guest(tmp_path, X86, incoming=True) as guest:
        return compare(path, guest, made)


@pytest.mark.skipif(
    shutil.which(ARM_QEMU) is None, reason=f"no {ARM_QEMU} (package qemu-system-arm)"
)
@pytest.mark.parametrize(("granule", "bits"), [(12, 48), (12, 39), (12, 31), (16, 48), (16, 42)])
def test_arm(granule: int, bits: int, tmp_path: Path) -> None:
    assert sum(arm_agrees(granule, bits, seed, tmp_path) for seed in SEEDS) > 0


def arm_agrees(granule: int, bits: int, seed: int, tmp_path: Path) -> int:
    """Try one set of tables, and return how many of the addresses are mapped."""
    made = make_arm(random.Random(seed), granule, bits)
    firmware = tmp_path / "none.bin"
    firmware.write_bytes(bytes(16))
    arguments = [*ARM, "-bios", str(firmware)]
    path = tmp_path / "image"
    # A guest that has not begun; another QEMU's stream may have registers that this one lacks.
    with Guest(tmp_path, arguments, program=ARM_QEMU) as guest:
        guest.migrate_to(f"file:{path}", MAPPED)
    code = {12: 0, 14: 2, 16: 1}[granule]
    with savefmt.open(path) as image:
        section = image.devices.find("cpu")
        assert section is not None
        tree = image.devices.tree(section)
        numbers = tree.numbers("cpreg_vmstate_indexes")
        values = tree.numbers("cpreg_vmstate_values")
        place = {name: numbers.index(number) for name, number in ARM_REGISTERS.items()}
        registers = {
            "SCTLR": values[place["SCTLR"]] | 1,
            "TTBR0": made.root,
            "TCR": 64 - bits | code << 14 | 16 << 16 | 2 << 30 | 2 << 32,
        }
        patch_memory(image, path, packed_changes(made.memory))
        patch_cpu(
            image,
            path,
            {f"cpreg_vmstate_values:{place[name]}": value for name, value in registers.items()},
        )
    with Guest(tmp_path, arguments, name="second", incoming=True, program=ARM_QEMU) as guest:
        return compare(path, guest, made)
