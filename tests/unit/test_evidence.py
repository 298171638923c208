"""Which architecture and machine a guest is: several clues, none of them against another."""

from __future__ import annotations

from typing import Any

import pytest
from fakeguest import GIB, FakeGuest, Tree, pci, struct
from monitor import map_spans

from savefmt.errors import CorruptError, UnsupportedError
from savefmt.format.devicetree import Field, Struct
from savefmt.guest.evidence import MachineEvidence, weigh
from savefmt.guest.memorymap import build_map
from savefmt.guest.needs import read_hardware
from savefmt.guest.registers import find_arch

SHADOWED = pci(b"")
VCPU_ARM64 = struct(
    env__xregs=(0,) * 32, env__regs=(0,) * 16, cpsr=bytes(4), cpreg_vmstate_indexes=()
)
VCPU_RISCV = Struct(
    "cpu",
    1,
    (
        Field("env.gpr", "uint64", 0, 256, (0,) * 32),
        Field("env.misa_ext", "uint32", 256, 4, 0x141105),
    ),
)
VCPU_ALIEN = struct(env__dregs=(0,) * 8, env__aregs=(0,) * 8)


def evidence(**more: Any) -> MachineEvidence:
    guest = FakeGuest(**more)
    return weigh(guest, read_hardware(guest, []), [])


@pytest.mark.parametrize(
    ("trees", "blocks", "name", "architectures"),
    [
        ({"0000:00:00.0/mch": SHADOWED}, {"pc.ram": GIB}, "q35", ("x86_64",)),
        ({"0000:00:00.0/I440FX": SHADOWED}, {"pc.ram": GIB}, "i440fx", ("x86_64",)),
        ({"cpu": VCPU_ARM64}, {"mach-virt.ram": GIB}, "virt", ("aarch64", "arm")),
        ({"cpu": VCPU_RISCV}, {"riscv_virt_board.ram": GIB}, "virt", ("riscv64", "riscv32")),
    ],
)
def test_a_machine_without_a_name(
    trees: dict[str, Tree], blocks: dict[str, int], name: str, architectures: tuple[str, ...]
) -> None:
    rules, _ = evidence(machine="", trees=trees, blocks=blocks).machine_rules()

    assert (rules.name, rules.architectures) == (name, architectures)


@pytest.mark.parametrize("machine", ["", "raspi3b", "pseries-10.0", "virt"])
def test_one_clue_is_not_enough(machine: str) -> None:
    with pytest.raises(UnsupportedError, match="does not know.*--place"):
        evidence(machine=machine, blocks={"mem0": GIB}).machine_rules()


@pytest.mark.parametrize(
    ("block", "start", "architecture"),
    [("mach-virt.ram", GIB, "aarch64"), ("riscv_virt_board.ram", 2 * GIB, "riscv64")],
)
def test_a_machine_called_virt_is_told_by_what_else_there_is(
    block: str, start: int, architecture: str
) -> None:
    vcpu = VCPU_ARM64 if start == GIB else VCPU_RISCV

    memory_map = build_map(FakeGuest({block: GIB}, machine="virt", trees={"cpu": vcpu}))

    assert map_spans(memory_map.ranges) == [(start, start + GIB, block, 0)]
    assert memory_map.ranges[0].detail == f"virt of {architecture}, by vCPUs, machine type, names"


@pytest.mark.parametrize(
    ("machine", "block", "vcpu", "said"),
    [
        (
            "virt",
            "mach-virt.ram",
            VCPU_RISCV,
            "the vCPUs are riscv64; .*mach-virt.ram is of aarch64",
        ),
        ("pc-q35-10.0", "pc.ram", VCPU_ARM64, "the vCPUs are aarch64; machine type pc-q35-10.0"),
        ("s390-ccw-virtio-10.0", "pc.ram", None, "s390x; pc.ram is of x86_64"),
    ],
)
def test_contradictions_are_errors(
    machine: str, block: str, vcpu: Struct | None, said: str
) -> None:
    trees: dict[str, Tree] = {"cpu": vcpu} if vcpu else {}
    with pytest.raises(CorruptError, match=said):
        build_map(FakeGuest({block: GIB}, machine=machine, trees=trees))


def test_an_xml_of_another_architecture_is_a_contradiction() -> None:
    xml = b"<domain><os><type arch='aarch64' machine='virt-10.0'>hvm</type></os></domain>"
    guest = FakeGuest(
        {"riscv_virt_board.ram": GIB}, machine="virt", trees={"cpu": VCPU_RISCV}, xml=xml
    )

    for ask in (build_map, find_arch):
        with pytest.raises(CorruptError, match="riscv64.*the domain XML says aarch64"):
            ask(guest)


def test_an_architecture_that_nobody_knows_is_not_taken_for_another() -> None:
    guest = FakeGuest({"m68k_virt.ram": GIB}, machine="virt-10.0", trees={"cpu": VCPU_ALIEN})

    for ask in (build_map, find_arch):
        with pytest.raises(
            UnsupportedError, match=r"env\.dregs, env\.aregs.*savefmt does not know"
        ):
            ask(guest)


VCPU_LOONGARCH = struct(env__CSR_CRMD=8)


@pytest.mark.parametrize("flash", [True, False])
def test_loongarch_of_other_releases_of_qemu_has_another_map(flash: bool) -> None:
    blocks = {"loongarch.ram": GIB, **({"virt.flash1": 4096} if flash else {})}
    guest = FakeGuest(blocks, machine="virt", trees={"cpu": VCPU_LOONGARCH})

    if not flash:
        with pytest.raises(UnsupportedError, match="does not know"):
            build_map(guest)
        return
    ram = [span for span in map_spans(build_map(guest).ranges) if span[2] == "loongarch.ram"]
    assert ram == [
        (0, 256 << 20, "loongarch.ram", 0),
        (0x8000_0000, 0x8000_0000 + GIB - (256 << 20), "loongarch.ram", 256 << 20),
    ]
