"""Machines and devices that bring RAM blocks: each is placed where QEMU has it, or not at all."""

from __future__ import annotations

import shutil
import time
from collections.abc import Set
from pathlib import Path
from typing import NamedTuple

import pytest
from monitor import map_spans, memory_spans

import savefmt
from interop.qemu import Guest, wait_for

pytestmark = [pytest.mark.interop, pytest.mark.usefixtures("qemu")]

Q35 = ("-machine", "q35", "-m", "64M")
PLUGGABLE = ("-machine", "q35", "-m", "64M,slots=2,maxmem=1G")


def backend(name: str, size: str) -> tuple[str, str]:
    """Return the options for a memory backend."""
    return "-object", f"memory-backend-ram,id={name},size={size}"


def nodes() -> tuple[str, ...]:
    """Return the options for two NUMA nodes of 512 MiB."""
    names = ("ram-node0", "ram-node1")
    numa = [("-numa", f"node,nodeid={n},memdev={name}") for n, name in enumerate(names)]
    return tuple(w for pair in (*(backend(n, "512M") for n in names), *numa) for w in pair)


def shared(name: str, size: str) -> tuple[str, str]:
    """Return the options for memory of a file, which is left out of the image."""
    path = "{folder}/" + name
    return "-object", f"memory-backend-file,id={name},size={size},mem-path={path},share=on"


class Row(NamedTuple):
    """A guest, and the blocks that must not be placed; None: the machine is not known.

    With `left_out`, shared memory is not in the image, and its addresses are.  The guest's
    firmware runs until `until` is in QEMU's listing of memory.
    """

    program: str
    arguments: tuple[str, ...]
    absent: Set[str] | None = frozenset()
    left_out: bool = False
    until: str = ""

    def __str__(self) -> str:
        return f"{self.program}-{' '.join(self.arguments)[:60]}"


PLUGGED = (*shared("d0", "512M"), "-device", "pc-dimm,memdev=d0")
NVDIMMS = (
    *(*backend("n0", "66M"), "-device", "nvdimm,memdev=n0,label-size=2M"),
    *(*backend("n1", "128M"), "-device", "nvdimm,memdev=n1"),
)
DISPLAYS = (
    *("-device", "VGA", "-device", "secondary-vga", "-device", "bochs-display"),
    *("-device", "virtio-vga", "-device", "pcie-root-port,id=p1", "-device", "e1000e,bus=p1"),
    *("-device", "pcie-root-port,id=p2,chassis=2", "-device", "bochs-display,bus=p2"),
    *(*backend("shared", "1M"), "-device", "ivshmem-plain,memdev=shared,master=on"),
)
CXL = (
    *backend("c0", "256M"),
    *("-device", "pxb-cxl,bus_nr=12,bus=pcie.0,id=cxl.1"),
    *("-device", "cxl-rp,port=0,bus=cxl.1,id=rp0,chassis=0,slot=2"),
    *("-device", "cxl-type3,bus=rp0,volatile-memdev=c0"),
    *("-M", "cxl-fmw.0.targets.0=cxl.1,cxl-fmw.0.size=4G"),
)

PSERIES_VGA = "pci@800000020000000:00.0/vga.vram"

GUESTS = (
    Row("x86_64", (*Q35, "-vga", "vmware"), until="vmsvga.fifo"),
    Row("x86_64", (*Q35, "-vga", "cirrus"), until="vga.vram"),
    Row("x86_64", (*Q35, *DISPLAYS), until="shared"),
    Row("x86_64", ("-machine", "q35,cxl=on", "-m", "64M,slots=2,maxmem=1G", *CXL)),
    Row("x86_64", (*PLUGGABLE, *backend("er", "1M"), "-device", "acpi-erst,memdev=er"), {"er"}),
    Row(
        "x86_64",
        (
            *PLUGGABLE,
            *(*backend("er", "1M"), "-device", "acpi-erst,memdev=er"),
            *(*backend("d0", "16M"), "-device", "pc-dimm,memdev=d0"),
        ),
        {"er", "d0"},  # one of them is a DIMM, and nothing tells which
    ),
    Row("x86_64", (*PLUGGABLE, *backend("d0", "16M"), "-device", "pc-dimm,memdev=d0"), {"d0"}),
    Row("x86_64", ("-machine", "q35,nvdimm=on", *PLUGGABLE[2:], *NVDIMMS)),
    Row("x86_64", (*PLUGGABLE, *PLUGGED), left_out=True),
    Row("x86_64", ("-machine", "pc", "-m", "64M", "-device", "isa-vga"), {"vga.vram"}),
    Row("i386", ("-machine", "q35", "-m", "64M")),
    Row("loongarch64", ("-machine", "virt", "-m", "1G")),
    Row("loongarch64", ("-machine", "virt", "-m", "1G", "-smp", "2", *nodes())),
    Row(
        "loongarch64", ("-machine", "virt", "-m", "515M,slots=1,maxmem=4G", *PLUGGED), left_out=True
    ),
    Row("riscv64", ("-machine", "virt", "-m", "3G", "-device", "VGA")),
    Row("riscv64", ("-machine", "virt", "-m", "1G", "-smp", "2", *nodes())),
    Row("riscv64", ("-machine", "spike", "-m", "64M"), None),
    Row("s390x", ("-machine", "s390-ccw-virtio", "-m", "3G")),
    Row("ppc64", ("-machine", "pseries", "-m", "1G", "-smp", "2", *nodes())),
    Row("ppc64", ("-machine", "pseries", "-m", "512M,slots=1,maxmem=4G", *PLUGGED), {"d0"}, True),
    Row("ppc64", ("-machine", "pseries", "-m", "512M", "-device", "VGA"), {PSERIES_VGA}),
    Row("ppc64", ("-machine", "powernv8", "-m", "1G")),
    Row("ppc64", ("-machine", "powernv9", "-m", "1G", "-smp", "2,sockets=2")),
    Row("ppc64", ("-machine", "powernv10", "-m", "1G")),
    Row("ppc64", ("-machine", "mac99", "-m", "64M"), None),
    Row(
        "aarch64",
        ("-machine", "virt,secure=on,mte=on", "-cpu", "max", "-m", "64M"),
        {"virt.secure-ram", "virt.flash0", "mach-virt.tag", "mach-virt.secure-tag"},
    ),
    Row(
        "aarch64",
        (
            *("-machine", "virt,memory-backend=m", "-cpu", "cortex-a57", "-m", "300G"),
            *shared("m", "300G"),
        ),
        left_out=True,
    ),
    Row(
        "aarch64",
        (
            *("-machine", "virt", "-cpu", "cortex-a57", "-m", "64M,slots=1,maxmem=4G"),
            *("-bios", "{folder}/empty", *PLUGGED),
        ),
        left_out=True,
    ),
    Row(
        "aarch64",
        (
            *("-machine", "virt,nvdimm=on", "-cpu", "cortex-a57", "-m", "64M,slots=2,maxmem=2G"),
            *("-bios", "{folder}/empty", *NVDIMMS),
        ),
    ),
    Row("aarch64", ("-machine", "sbsa-ref", "-m", "64M"), {"sbsa-ref.secure-ram", "sbsa.flash0"}),
    Row("arm", ("-machine", "virt,highmem=off", "-cpu", "cortex-a15", "-m", "2G")),
    Row("m68k", ("-machine", "virt"), None),
    Row("or1k", ("-machine", "virt"), None),
)


def _at_rest(guest: Guest) -> bool:
    """Whether memory stays as it is: firmware opens and closes windows while it sets up."""
    before = guest.hmp("info mtree -f")
    time.sleep(0.5)
    return guest.hmp("info mtree -f") == before


@pytest.mark.parametrize("row", GUESTS, ids=str)
def test_nothing_is_placed_wrongly(row: Row, tmp_path: Path) -> None:
    emulator = f"qemu-system-{row.program}"
    if shutil.which(emulator) is None:
        pytest.skip(f"no {emulator} (qemu-system-misc, -arm, -ppc or -s390x)")
    (tmp_path / "empty").write_bytes(bytes(65536))
    arguments = [word.format(folder=tmp_path) for word in row.arguments]
    with Guest(tmp_path, arguments, program=emulator) as guest:
        if row.until:
            guest.cont()
            wait_for(lambda: row.until in guest.hmp("info mtree -f"), row.until, 30)
            wait_for(lambda: _at_rest(guest), "firmware at rest", 30)
            guest.stop()
        spans = memory_spans(guest.hmp("info mtree -f"))
        guest.migrate_to(f"file:{tmp_path}/image", {"x-ignore-shared": row.left_out})

    with savefmt.open(tmp_path / "image") as image:
        if row.absent is None:
            with pytest.raises(savefmt.UnsupportedError, match=r"does not know.*--place"):
                _ = image.guest.physical.map
            return
        memory_map = image.guest.physical.map
    ours = map_spans(memory_map.ranges)
    assert [span for span in ours if span not in spans] == []
    assert row.absent <= memory_map.unplaced.keys()
    known = {idstr.rpartition("/")[2] for idstr in (*memory_map.unknown, *row.absent)}
    missing = [span for span in spans if span not in ours]
    assert {name for *_, name, _ in missing} <= known, "it is placed, or said to be unknown"
