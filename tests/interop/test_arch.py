"""Guests of each architecture: map, registers and cores are what QEMU says of them."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from archguests import ARRIVED, GUESTS, ArchGuest, check_registers
from gdbstub import GdbStub
from monitor import Span, map_spans, memory_spans

import savefmt
from interop.conftest import version_of
from interop.qemu import Guest, wait_for
from savefmt.compat.armregisters import saved_registers, unknown_registers
from savefmt.compat.releases import Release
from savefmt.guest.arch.base import CpuRegisters

pytestmark = pytest.mark.interop

EMULATED = {"riscv64": 243, "arm": 40, "s390x": 22, "ppc64": 21, "loongarch64": 258}


class Saved(NamedTuple):
    """A guest as it was saved, and QEMU's words and core."""

    arch: ArchGuest
    folder: Path
    registers: str
    system: dict[str, int]
    spans: list[Span]

    @property
    def image(self) -> Path:
        """The stream."""
        return self.folder / "image"


@pytest.fixture(scope="module", params=GUESTS)
def saved(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Saved]:
    """A guest of each architecture, which has set registers that are known."""
    arch = GUESTS[request.param]
    if shutil.which(arch.program) is None:
        pytest.skip(f"no {arch.program} (package {arch.package})")
    folder = tmp_path_factory.mktemp(arch.name)
    with Guest(folder, arch.arguments(folder), program=arch.program) as guest:
        guest.cont()
        wait_for(lambda: ARRIVED[arch.name] in guest.hmp("info registers"), "end of the code", 30)
        guest.stop()
        registers = guest.registers()
        system = {}
        if arch.name == "arm":
            with GdbStub(guest, folder / "gdb") as stub:
                system = stub.system_registers()
        spans = memory_spans(guest.hmp("info mtree -f"))
        guest.qmp("dump-guest-memory", paging=False, protocol=f"file:{folder}/core")
        guest.migrate_to(f"file:{folder}/image")
    yield Saved(arch, folder, registers, system, spans)
    for path in folder.iterdir():
        path.unlink()


def test_memory_map(saved: Saved) -> None:
    with savefmt.open(saved.image) as image:
        memory_map = image.guest.physical.map
    assert map_spans(memory_map.ranges) == saved.spans
    assert all(
        item.source == "rule" and saved.arch.name in item.detail for item in memory_map.ranges
    )
    assert not memory_map.findings


def test_registers(saved: Saved) -> None:
    """Every number that we show is one that QEMU shows of that vCPU."""
    with savefmt.open(saved.image) as image:
        check_registers(saved.arch, image.guest.cpus, saved.registers)


@pytest.mark.parametrize("saved", ["arm"], indirect=True)
def test_system_registers_of_arm(saved: Saved) -> None:
    """`info registers` has none of them; QEMU's gdb stub has the not secure ones."""
    with savefmt.open(saved.image) as image:
        first = image.guest.cpus[0]
    assert isinstance(first, CpuRegisters)
    both = {name: value for name, value in first.system.items() if name in saved.system}

    assert both == {name: saved.system[name] for name in both}
    assert {"TTBR0", "TTBR1", "TTBCR", "DACR", "MIDR"} <= both.keys()
    assert {"SCTLR", "SCTLR_EL1"} & both.keys()  # the stub's name for it, which changed


def test_core_of_qemu(saved: Saved) -> None:
    target = saved.folder / "ours"

    savefmt.export(saved.image, target, format="elf", compat="qemu", overwrite=True)

    assert digest(target) == digest(saved.folder / "core")


def test_core_of_all_tools(saved: Saved) -> None:
    """The notes are QEMU's, and gdb finds registers and memory in it."""
    target = saved.folder / "universal"

    report = savefmt.export(saved.image, target, format="elf", overwrite=True)

    assert report.cpus == saved.arch.cpus
    order = "big" if saved.arch.order == "big" else "little"
    with target.open("rb") as file:
        head = file.read(20)
    assert int.from_bytes(head[18:20], order) == EMULATED[saved.arch.name]  # type: ignore[arg-type]
    if shutil.which("gdb-multiarch") is None:
        pytest.skip("no gdb-multiarch (package gdb-multiarch)")
    commands = ["info threads", f"x/2xg {saved.spans[-1][0]:#x}"]
    answer = subprocess.run(
        ["gdb-multiarch", "-nx", "-batch", *gdb(f"core-file {target}"), *gdb(*commands)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    with savefmt.open(saved.image) as image:
        expected = image.guest.physical.read(saved.spans[-1][0], 16)
    words = [int.from_bytes(expected[at : at + 8], order) for at in (0, 8)]  # type: ignore[arg-type]
    for word in words:
        assert f"0x{word:016x}" in answer.stdout, answer


def gdb(*commands: str) -> list[str]:
    """Return the options that run commands."""
    return [word for command in commands for word in ("-ex", command)]


def digest(path: Path) -> str:
    """Hash a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        ("aarch64", ("-machine", "virt", "-cpu", "cortex-a57", "-m", "16M", "-smp", "2")),
        ("riscv32", ("-machine", "virt", "-m", "16M", "-smp", "2", "-bios", "none")),
        ("i386", ("-machine", "q35", "-m", "16M", "-smp", "2")),
    ],
)
def test_core_of_a_guest_that_has_not_begun(
    program: str, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    emulator = f"qemu-system-{program}"
    if shutil.which(emulator) is None:
        pytest.skip(f"no {emulator}")
    with Guest(tmp_path, arguments, program=emulator) as guest:
        guest.qmp("dump-guest-memory", paging=False, protocol=f"file:{tmp_path}/core")
        guest.migrate_to(f"file:{tmp_path}/image")

    savefmt.export(tmp_path / "image", tmp_path / "ours", format="elf", compat="qemu")

    assert digest(tmp_path / "ours") == digest(tmp_path / "core")


@pytest.mark.parametrize("cpu", ["cortex-a57", "max"])
def test_a_qemu_knows_the_registers_that_it_saves(cpu: str, tmp_path: Path) -> None:
    emulator = "qemu-system-aarch64"
    release = version_of(emulator)
    if release is None:
        pytest.skip(f"no {emulator} (package qemu-system-arm)")
    with Guest(tmp_path, ["-machine", "virt", "-cpu", cpu, "-m", "16M"], program=emulator) as guest:
        guest.migrate_to(f"file:{tmp_path}/image")

    with savefmt.open(tmp_path / "image") as image:
        registers = saved_registers(image)
    assert len(registers) > 200
    assert unknown_registers(registers, Release(*release))[0] == []


def test_a_core_that_the_stream_cannot_tell(tmp_path: Path) -> None:
    """QEMU writes how long SVE's vectors may be; without that the core would differ."""
    emulator = "qemu-system-aarch64"
    if shutil.which(emulator) is None:
        pytest.skip(f"no {emulator} (package qemu-system-arm)")
    arguments = ["-machine", "virt", "-cpu", "max", "-m", "16M"]
    with Guest(tmp_path, arguments, program=emulator) as guest:
        guest.migrate_to(f"file:{tmp_path}/image")

    with pytest.raises(savefmt.UnsupportedError, match="SVE"):
        savefmt.export(tmp_path / "image", tmp_path / "ours", compat="qemu")
    assert savefmt.export(tmp_path / "image", tmp_path / "ours").cpus == 1
