"""What QEMU dumps and saves of a guest's memory is what we export from its image."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from monitor import dimm_places, memory_spans
from sparse import first_difference

import savefmt
from interop import linux
from interop.conftest import HINT, need_machine
from interop.qemu import Guest

pytestmark = [pytest.mark.interop, pytest.mark.usefixtures("qemu")]

MAPPED = {"mapped-ram": True}
NODES = (
    *("-object", "memory-backend-ram,id=ram-node0,size=24M"),
    *("-object", "memory-backend-ram,id=ram-node1,size=40M"),
    *("-numa", "node,nodeid=0,cpus=0,memdev=ram-node0"),
    *("-numa", "node,nodeid=1,memdev=ram-node1"),
    *("-object", "memory-backend-ram,id=memdimm0,size=16M"),
    *("-device", "pc-dimm,id=dimm0,memdev=memdimm0"),
)
FLASH = ("-drive", "if=pflash,unit=0,format=raw,readonly=on,file={flash}")


@dataclass(frozen=True)
class Machine:
    """A guest of the matrix; `seconds` is how long its firmware runs."""

    name: str
    machine: str
    memory: str
    arguments: tuple[str, ...] = ()
    seconds: float = 0.7


# A hole below 4 GiB needs little memory where one says so; the golden guests have 3 GiB.
MACHINES = (
    Machine("q35-smp", "pc-q35-10.0", "64M", ("-smp", "3", "-device", "vmcoreinfo")),
    Machine("q35-hole-vga", "pc-q35-10.0,max-ram-below-4g=32M", "64M", ("-vga", "std")),
    Machine("i440fx-cirrus", "pc-i440fx-10.0", "32M", ("-vga", "cirrus", "-smp", "2")),
    Machine("i440fx-hole", "pc-i440fx-9.2,max-ram-below-4g=24M", "40M"),
    Machine("q35-numa-dimm", "pc-q35-9.2,max-ram-below-4g=32M", "64M,slots=2,maxmem=1G", NODES),
    Machine("before-the-bios", "pc-q35-10.0", "16M", seconds=0),
    Machine("isapc", "isapc", "16M"),
    Machine("flash-32-bit", "pc-q35-10.0", "64M", FLASH, seconds=0),
)


@dataclass(frozen=True)
class Saved:
    """Both images of one guest, and what QEMU wrote and said of it."""

    folder: Path
    registers: str
    listing: str
    dump: Path

    @property
    def images(self) -> tuple[Path, Path]:
        return self.folder / "sequential", self.folder / "mapped"


@pytest.fixture(scope="module", params=MACHINES, ids=lambda machine: machine.name)
def saved(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Saved]:
    """A guest of the matrix, saved in both layouts and dumped."""
    machine: Machine = request.param
    need_machine(machine.machine.partition(",")[0])
    folder = tmp_path_factory.mktemp(machine.name)
    (folder / "flash").write_bytes(b"\xf4" * (4 << 20))
    words = [word.format(flash=folder / "flash") for word in machine.arguments]
    arguments = ["-machine", machine.machine, "-m", machine.memory, *words]
    with Guest(folder, arguments) as guest:
        if machine.seconds:
            guest.cont()
            time.sleep(machine.seconds)
            guest.stop()
        guest.qmp("dump-guest-memory", paging=False, protocol=f"file:{folder}/dump")
        registers, listing = guest.registers(), guest.hmp("info mtree -f")
        for start, end, name, _ in memory_spans(listing):
            if is_ram(name):
                where = f"{folder}/{start:#x}.pmem"
                guest.qmp("pmemsave", val=start, size=end - start, filename=where)
        guest.migrate_to(f"file:{folder}/sequential")
    with Guest(folder, arguments, name="second", incoming=True) as guest:
        guest.load(f"file:{folder}/sequential")
        guest.migrate_to(f"file:{folder}/mapped", MAPPED)
    yield Saved(folder, registers, listing, folder / "dump")
    shutil.rmtree(folder)


def is_ram(name: str) -> bool:
    """Whether a region of QEMU's listing is RAM rather than firmware or a device's."""
    return name == "pc.ram" or name.startswith(("ram-node", "memdimm"))


def test_everything_that_qemu_writes(saved: Saved) -> None:
    """One guest, three formats, both forms of its image."""
    for image in saved.images:
        core, raw = saved.folder / "core", saved.folder / "raw"
        places = dimm_places(memory_spans(saved.listing))
        report = savefmt.export(image, core, compat="qemu", places=places)
        savefmt.export(image, raw, format="raw", places=places)

        doubts = {finding.code for finding in report.findings}
        assert doubts == ({"memmap.said"} if places else set())
        assert first_difference(core, saved.dump) is None
        assert_ram_agrees(saved, raw)
        core.unlink()
        raw.unlink()
    assert_gdb_agrees(saved)


def assert_ram_agrees(saved: Saved, raw: Path) -> None:
    """Hold each stretch of RAM in a raw export against what ``pmemsave`` wrote of it."""
    parts = sorted(saved.folder.glob("*.pmem"), key=lambda path: int(path.stem, 16))
    last = int(parts[-1].stem, 16) + parts[-1].stat().st_size
    assert raw.stat().st_size == last
    with raw.open("rb") as file:
        for part in parts:
            file.seek(int(part.stem, 16))
            expected = part.read_bytes()
            assert file.read(len(expected)) == expected


def need(program: str) -> None:
    """Skip where a reader of cores is missing."""
    if shutil.which(program) is None:
        pytest.skip(f"no {program}; {HINT}")


def said_by(*command: object) -> str:
    """Return what a program prints."""
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def assert_gdb_agrees(saved: Saved) -> None:
    """Let gdb read registers and memory of the universal core."""
    need("gdb")
    core = saved.folder / "core"
    report = savefmt.export(saved.images[0], core)
    blocks = saved.registers.split("CPU#")[1:]
    joined = "".join(blocks)
    assert report.cpus == len(blocks)
    # QEMU names them by the mode, gdb by the core, which always has all 64 bits.
    names = {"rip": "[RE]IP", "rsp": "[RE]SP", "rax": "[RE]AX", "rdx": "[RE]DX"}
    ask = [f"info registers {name}" for name in names] + ["x/2gx 0x7c00"]
    commands = ["set architecture i386:x86-64", f"core-file {core}"]
    for number in range(len(blocks)):
        commands += [f"thread {number + 1}", *ask]
    said = said_by("gdb", "-nx", "-batch", *(word for line in commands for word in ("-ex", line)))
    with savefmt.open(saved.images[1]) as image:
        memory = image.guest.physical.read(0x7C00, 16)
    words = [f"{int.from_bytes(memory[at : at + 8], 'little'):#018x}" for at in (0, 8)]
    assert re.findall(r"^0x7c00:\s+(\S+)\s+(\S+)$", said, re.M) == [tuple(words)] * len(blocks)
    for name, theirs in names.items():
        expected = [int(value, 16) for value in re.findall(rf"{theirs}=([0-9a-f]+)", joined)]
        found = [int(value, 16) for value in re.findall(rf"^{name}\s+(0x[0-9a-f]+)", said, re.M)]
        assert found == expected, name
    core.unlink()


def test_the_vmcoreinfo_device(tmp_path: Path) -> None:
    """QEMU and we find the note where the guest told the device that it lies.

    No guest here talks to that device, so what it was told is written into the image.
    """
    note = struct.pack("<III", 11, 23, 0) + b"VMCOREINFO\0\0" + b"OSRELEASE=1\nPAGESIZE=4\0"
    (tmp_path / "note").write_bytes(note)
    arguments = ["-machine", "pc-q35-10.0", "-m", "16M", "-device", "vmcoreinfo"]
    arguments += ["-device", f"loader,file={tmp_path}/note,addr=0x200010,force-raw=on"]
    told = tmp_path / "told"
    with Guest(tmp_path, arguments) as guest:
        guest.migrate_to(f"file:{told}")
    with savefmt.open(told) as image:
        section = image.devices.find("vmcoreinfo")
        assert section is not None
        assert section.length == 17
        place = section.offset
    with told.open("r+b") as file:
        file.seek(place or 0)
        file.write(struct.pack(">?HHIQ", True, 1, 1, 256, 0x200010))
    with Guest(tmp_path, arguments, name="second", incoming=True) as guest:
        guest.load(f"file:{told}")
        guest.qmp("dump-guest-memory", paging=False, protocol=f"file:{tmp_path}/dump")

    report = savefmt.export(told, tmp_path / "core")
    savefmt.export(told, tmp_path / "qemu", compat="qemu")
    savefmt.export(told, tmp_path / "text", format="vmcoreinfo")

    assert report.vmcoreinfo == "device"
    assert first_difference(tmp_path / "qemu", tmp_path / "dump") is None
    assert b"OSRELEASE=1\n" in (tmp_path / "dump").read_bytes()
    assert (tmp_path / "text").read_bytes() == note[24:47]


@pytest.fixture(scope="module")
def linux_saved(tmp_path_factory: pytest.TempPathFactory, linux_guest: Path) -> Path:
    """A folder with a Linux guest, saved in both layouts and dumped."""
    folder = tmp_path_factory.mktemp("linux-export")
    arguments = ["-machine", "pc-q35-10.0", "-cpu", "max", "-m", "192M", "-smp", "2"]
    arguments += ["-kernel", str(linux_guest / "vmlinuz"), "-append", linux.APPEND]
    arguments += ["-initrd", str(linux_guest / "initramfs.cpio")]
    with Guest(folder, arguments) as guest:
        guest.cont()
        guest.wait_console("tick 2")
        guest.stop()
        guest.qmp("dump-guest-memory", paging=False, protocol=f"file:{folder}/dump")
        (folder / "registers").write_text(guest.registers())
        guest.migrate_to(f"file:{folder}/sequential")
    savefmt.convert(folder / "sequential", folder / "mapped", layout=savefmt.Layout.MAPPED_RAM)
    return folder


@pytest.mark.parametrize("form", ["sequential", "mapped"])
def test_a_linux_guest(form: str, linux_saved: Path, tmp_path: Path) -> None:
    """Long mode, VMCOREINFO and makedumpfile, which finds the kernel's log in the core."""
    need("makedumpfile")
    source, core = linux_saved / form, tmp_path / "core"
    report = savefmt.export(source, core)
    savefmt.export(source, tmp_path / "qemu", compat="qemu")
    savefmt.export(source, tmp_path / "kdump", format="kdump")
    savefmt.export(source, tmp_path / "text", format="vmcoreinfo")

    assert (report.cpus, report.vmcoreinfo, report.findings) == (2, "memory", ())
    assert first_difference(tmp_path / "qemu", linux_saved / "dump") is None
    said_by("makedumpfile", "--dump-dmesg", core, tmp_path / "log")
    log = (tmp_path / "log").read_text()
    assert "Linux version" in log
    assert "Run /init as init process" in log
    said_by("makedumpfile", "--dump-dmesg", tmp_path / "kdump", tmp_path / "log2")
    assert (tmp_path / "log2").read_text() == log
    text = (tmp_path / "text").read_text()
    assert re.search(r"^OSRELEASE=\S+$", text, re.M)
    notes = said_by("readelf", "-nW", core)
    assert re.findall(r"^  (CORE|QEMU|VMCOREINFO) ", notes, re.M) == (
        ["CORE"] * 2 + ["QEMU"] * 2 + ["VMCOREINFO"]
    )


def test_the_kernels_own_addresses(linux_saved: Path, tmp_path: Path) -> None:
    """With --kernel-va gdb reads at the kernel's addresses what its program counter runs."""
    need("gdb")
    core = tmp_path / "core"
    savefmt.export(linux_saved / "mapped", core, kernel_va=True)
    blocks = (linux_saved / "registers").read_text().split("CPU#")[1:]
    counters = [int(re.search(r"RIP=([0-9a-f]+)", block)[1], 16) for block in blocks]  # type: ignore[index]
    kernel = [address for address in counters if address >> 63]
    assert kernel, "one vCPU at least is in the kernel"
    with savefmt.open(linux_saved / "mapped") as image:
        expected = [image.guest.space().read(address, 8) for address in kernel]
    ask = [word for address in kernel for word in ("-ex", f"x/gx {address:#x}")]
    found = said_by("gdb", "-nx", "-batch", "-ex", f"core-file {core}", *ask)

    words = [int(word, 16) for word in re.findall(r"^0x[0-9a-f]+:\s+(0x[0-9a-f]+)$", found, re.M)]
    assert words == [int.from_bytes(data, "little") for data in expected]
