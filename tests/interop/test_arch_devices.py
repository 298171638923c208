"""Machines and devices that bring RAM blocks: each is placed where QEMU has it, or not at all."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from monitor import map_spans, memory_spans

import savefmt
from interop.qemu import Guest

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


# The program, its arguments, and the blocks that must not be placed.
GUESTS: tuple[tuple[str, tuple[str, ...], set[str] | None], ...] = (
    ("x86_64", (*Q35, "-vga", "vmware"), set()),
    ("x86_64", (*Q35, "-vga", "cirrus"), set()),
    ("x86_64", (*Q35, "-device", "e1000", "-device", "virtio-net-pci"), set()),
    ("x86_64", (*PLUGGABLE, *backend("er", "1M"), "-device", "acpi-erst,memdev=er"), {"er"}),
    (
        "x86_64",
        (
            *PLUGGABLE,
            *(*backend("er", "1M"), "-device", "acpi-erst,memdev=er"),
            *(*backend("d0", "16M"), "-device", "pc-dimm,memdev=d0"),
        ),
        {"er", "d0"},  # one of them is a DIMM, and nothing tells which
    ),
    ("x86_64", (*PLUGGABLE, *backend("d0", "16M"), "-device", "pc-dimm,memdev=d0"), set()),
    ("x86_64", ("-machine", "pc", "-m", "64M", "-device", "isa-vga"), {"vga.vram"}),
    ("i386", ("-machine", "q35", "-m", "64M"), set()),
    ("loongarch64", ("-machine", "virt", "-m", "1G"), set()),
    ("loongarch64", ("-machine", "virt", "-m", "1G", "-smp", "2", *nodes()), set()),
    ("riscv64", ("-machine", "virt", "-m", "3G", "-device", "VGA"), set()),
    ("riscv64", ("-machine", "virt", "-m", "1G", "-smp", "2", *nodes()), set()),
    ("riscv64", ("-machine", "spike", "-m", "64M"), None),
    ("s390x", ("-machine", "s390-ccw-virtio", "-m", "3G"), set()),
    ("ppc64", ("-machine", "pseries", "-m", "1G", "-smp", "2", *nodes()), set()),
    ("ppc64", ("-machine", "mac99", "-m", "64M"), None),
    (
        "aarch64",
        ("-machine", "virt,secure=on,mte=on", "-cpu", "max", "-m", "64M"),
        {"virt.secure-ram", "virt.flash0", "mach-virt.tag", "mach-virt.secure-tag"},
    ),
    ("aarch64", ("-machine", "sbsa-ref", "-m", "64M"), {"sbsa-ref.secure-ram", "sbsa.flash0"}),
    ("arm", ("-machine", "virt,highmem=off", "-cpu", "cortex-a15", "-m", "2G"), set()),
    ("m68k", ("-machine", "virt"), None),
    ("or1k", ("-machine", "virt"), None),
)


@pytest.mark.parametrize(
    ("program", "arguments", "absent"),
    GUESTS,
    ids=[f"{g[0]}-{' '.join(g[1])[:50]}" for g in GUESTS],
)
def test_nothing_is_placed_wrongly(
    program: str, arguments: tuple[str, ...], absent: set[str] | None, tmp_path: Path
) -> None:
    emulator = f"qemu-system-{program}"
    if shutil.which(emulator) is None:
        pytest.skip(f"no {emulator} (qemu-system-misc, -arm, -ppc or -s390x)")
    with Guest(tmp_path, arguments, program=emulator) as guest:
        if program == "x86_64":  # the firmware gives the devices their addresses
            guest.cont()
            time.sleep(1)
            guest.stop()
        spans = memory_spans(guest.hmp("info mtree -f"))
        guest.migrate_to(f"file:{tmp_path}/image")

    with savefmt.open(tmp_path / "image") as image:
        if absent is None:
            with pytest.raises(savefmt.UnsupportedError, match=r"not known.*--place"):
                _ = image.guest.physical.map
            return
        memory_map = image.guest.physical.map
    ours = map_spans(memory_map.ranges)
    assert [span for span in ours if span not in spans] == []
    assert absent <= memory_map.unplaced.keys()
    unplaced = {idstr.rpartition("/")[2] for idstr in memory_map.unplaced}
    assert [span for span in spans if span not in ours and span[2] not in unplaced] == []
