"""What QEMU's own monitor says of a guest is what we read in its image."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from monitor import Span, dimm_places, map_spans, memory_spans, register_blocks

import savefmt
from interop.conftest import need_machine
from interop.qemu import Guest
from savefmt.cli.render.regs import registers_lines

pytestmark = [pytest.mark.interop, pytest.mark.usefixtures("qemu")]

MAPPED = {"mapped-ram": True}
NODES = (
    *("-object", "memory-backend-ram,id=ram-node0,size=1G"),
    *("-object", "memory-backend-ram,id=ram-node1,size=2G"),
    *("-numa", "node,nodeid=0,cpus=0,memdev=ram-node0"),
    *("-numa", "node,nodeid=1,memdev=ram-node1"),
)
DIMMS = (
    *("-object", "memory-backend-ram,id=memdimm0,size=64M"),
    *("-object", "memory-backend-ram,id=memdimm1,size=128M"),
    *("-device", "pc-dimm,id=dimm0,memdev=memdimm0"),
    *("-device", "pc-dimm,id=dimm1,memdev=memdimm1"),
)
VIRTIO_MEM = (
    *("-object", "memory-backend-ram,id=vmem0,size=256M"),
    *("-device", "virtio-mem-pci,memdev=vmem0,block-size=2M,requested-size=0"),
)


@dataclass(frozen=True)
class Machine:
    """A guest of the matrix; `firmware` lets its BIOS run for a while."""

    machine: str
    memory: str
    arguments: tuple[str, ...] = ()
    firmware: bool = True

    def __str__(self) -> str:
        extra = "-".join(word for word in self.arguments if not word.startswith("-"))[:40]
        return f"{self.machine}-{self.memory}-{extra or 'plain'}-{self.firmware}"


MACHINES = (
    Machine("pc-q35-10.0", "16M", ("-smp", "3")),
    Machine("pc-q35-10.0", "16M", (), firmware=False),
    Machine("pc-i440fx-10.0", "8M", (), firmware=False),
    Machine("pc-i440fx-10.0", "32M", ("-vga", "std")),
    Machine("pc-i440fx-10.0", "64M", ("-vga", "cirrus", "-device", "secondary-vga")),
    Machine("pc-q35-10.0", "64M", ("-vga", "virtio")),
    Machine("pc-q35-10.0", "64M", ("-device", "bochs-display")),
    Machine("pc-q35-10.0", "2815M"),
    Machine("pc-q35-10.0", "2816M", ("-vga", "std")),
    Machine("pc-i440fx-10.0", "3583M"),
    Machine("pc-i440fx-10.0", "3584M"),
    Machine("pc-q35-10.0,max-ram-below-4g=1G", "3G"),
    Machine("pc-i440fx-10.0,max-ram-below-4g=3500M", "3550M"),
    Machine("pc-i440fx-2.4", "4G"),
    Machine("pc-q35-2.4", "4G"),
    Machine("pc-q35-10.0", "3072M,slots=4,maxmem=6G", (*NODES, *DIMMS)),
    Machine("pc-i440fx-10.0", "512M,slots=4,maxmem=6G", DIMMS),
    Machine("pc-q35-10.0", "4G,slots=4,maxmem=8G", (*DIMMS, *VIRTIO_MEM)),
    Machine("pc-q35-10.0", "8G,slots=4,maxmem=1100G", ("-cpu", "EPYC,phys-bits=44")),
    Machine("pc-q35-10.0", "8G,slots=4,maxmem=1100G", ("-cpu", "Skylake-Server,phys-bits=44")),
    Machine("pc-q35-7.0", "8G,slots=4,maxmem=1100G", ("-cpu", "EPYC,phys-bits=44")),
    Machine("microvm", "64M"),
    Machine("microvm", "3073M"),
    Machine("isapc", "16M"),
)


@pytest.fixture(params=MACHINES, ids=str)
def machine(request: pytest.FixtureRequest) -> Machine:
    """A guest of the matrix."""
    chosen: Machine = request.param
    need_machine(chosen.machine.partition(",")[0])
    return chosen


def vendor_matters(machine: Machine) -> bool:
    """Whether the map depends on the CPU's vendor, which only the domain XML tells."""
    return "EPYC" in str(machine) and "7.0" not in machine.machine


@pytest.mark.parametrize(
    "machine", [each for each in MACHINES if not vendor_matters(each)], indirect=True, ids=str
)
def test_registers_and_memory_map(machine: Machine, tmp_path: Path) -> None:
    """QEMU's words about the saved guest, against ours about each form of its image."""
    arguments = ["-machine", machine.machine, "-m", machine.memory, *machine.arguments]
    with Guest(tmp_path, arguments) as guest:
        if machine.firmware:
            guest.cont()
            time.sleep(1)
            guest.stop()
        registers = register_blocks(guest.registers())
        spans = plugged(memory_spans(guest.hmp("info mtree -f")))
        guest.migrate_to(f"file:{tmp_path}/sequential")
    with Guest(tmp_path, arguments, name="second", incoming=True) as guest:
        guest.load(f"file:{tmp_path}/sequential")
        guest.migrate_to(f"file:{tmp_path}/mapped", MAPPED)

    for name in ("sequential", "mapped"):
        with savefmt.open(tmp_path / name, places=dimm_places(spans)) as image:
            assert map_spans(image.guest.physical.map.ranges) == spans
            for cpu, expected in zip(image.guest.cpus, registers, strict=True):
                lines = [line.rstrip() for line in registers_lines(cpu)]
                assert lines[: len(expected)] == expected


def plugged(spans: list[Span]) -> list[Span]:
    """Leave out virtio-mem, of which QEMU maps all and the guest has plugged nothing."""
    return [span for span in spans if span[2] != "vmem0"]


@pytest.mark.parametrize("devices", [(), VIRTIO_MEM], ids=["nothing else", "virtio-mem"])
def test_memory_beyond_1_tib(devices: tuple[str, ...], tmp_path: Path) -> None:
    """AMD guests that could grow to 1 TiB have their high memory above it."""
    memory = "8G,slots=4,maxmem=1100G"
    arguments = ["-machine", "pc-q35-10.0", "-m", memory, "-cpu", "EPYC,phys-bits=44", *devices]
    with Guest(tmp_path, arguments) as guest:
        guest.cont()
        time.sleep(1)
        guest.stop()
        spans = plugged(memory_spans(guest.hmp("info mtree -f")))
        guest.migrate_to(f"file:{tmp_path}/mapped", MAPPED)

    assert any(start == 1 << 40 for start, *_ in spans)
    with savefmt.open(tmp_path / "mapped") as image:
        assert map_spans(image.guest.physical.map.ranges) == spans
