"""Debian's kernel of each architecture: where memory lies and what the vCPUs hold, against QEMU."""

from __future__ import annotations

import hashlib
import random
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import drgn
import pytest
from gdbstub import GdbStub
from interop import planted
from interop.qemu import Guest, wait_for
from monitor import Span, map_spans, memory_spans, physical_address

import savefmt
from savefmt.guest.mappings import Walk
from savefmt.scan.system import identify

pytestmark = pytest.mark.forensics

BOOT_TIMEOUT = 120.0
SAMPLES = 50


@dataclass(frozen=True)
class Kernel:
    """A kernel, and the guest that boots it; `paging` is how QEMU shows that it uses its tables."""

    name: str
    program: str
    machine: tuple[str, ...]
    console: str
    mode: str
    paging: str = ""

    def __str__(self) -> str:
        return self.name


KERNELS = (
    Kernel("arm64", "aarch64", ("virt", "-cpu", "cortex-a57"), "ttyAMA0", "4K, 48-bit"),
    Kernel("ppc64el", "ppc64", ("pseries,x-vof=on",), "hvc0", "radix"),
    Kernel("s390x", "s390x", ("s390-ccw-virtio",), "ttysclp0", "region third", "PSW=mask 0[4-7]"),
    Kernel("riscv64", "riscv64", ("virt",), "ttyS0", "Sv57"),
)


@dataclass(frozen=True)
class Saved:
    """The guest, its image, and what QEMU said of it and wrote."""

    kernel: Kernel
    guest: Guest
    folder: Path
    registers: str
    spans: list[Span]

    @property
    def image(self) -> Path:
        """The stream."""
        return self.folder / "image"


@pytest.fixture(scope="module", params=KERNELS, ids=str)
def saved(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Saved]:
    """A guest of each architecture; its QEMU stays to be asked."""
    kernel: Kernel = request.param
    program = f"qemu-system-{kernel.program}"
    path = planted.KERNELS / kernel.name / "vmlinuz"
    if not path.exists() or shutil.which(program) is None:
        pytest.skip(f"no {path} or no {program}; tools/install-forensics gets them on Debian")
    folder = tmp_path_factory.mktemp(kernel.name)
    arguments = [
        *("-machine", *kernel.machine, "-m", "512M", "-smp", "2", "-kernel", str(path)),
        *("-append", f"console={kernel.console}"),
    ]
    with Guest(folder, arguments, program=program) as guest:
        guest.cont()
        guest.wait_console("NET: Registered PF_INET protocol", BOOT_TIMEOUT)
        wait_for(lambda: stopped_while_paging(guest, kernel), "vCPU that pages", 20)
        guest.qmp("dump-guest-memory", paging=False, protocol=f"file:{folder}/core")
        spans = memory_spans(guest.hmp("info mtree -f"))
        registers = guest.registers()
        guest.migrate_to(f"file:{folder}/image")
        yield Saved(kernel, guest, folder, registers, spans)
    shutil.rmtree(folder)


def stopped_while_paging(guest: Guest, kernel: Kernel) -> bool:
    """Stop the guest; let it go on where its first vCPU does not page at the moment."""
    guest.stop()
    if re.search(kernel.paging, guest.hmp("info registers")):
        return True
    guest.cont()
    return False


def test_memory_map(saved: Saved) -> None:
    with savefmt.open(saved.image) as image:
        memory_map = image.guest.physical.map

    assert map_spans(memory_map.ranges) == saved.spans
    assert not memory_map.findings


def test_registers(saved: Saved) -> None:
    """Program counter and general registers of every vCPU are numbers that QEMU shows of it."""
    listings = re.split(r"(?m)^cpu#", saved.registers.lower())[1:]
    with savefmt.open(saved.image) as image:
        cpus = image.guest.cpus
    assert len(cpus) == len(listings) == 2
    for cpu, listing in zip(cpus, listings, strict=True):
        numbers = {int(word, 16) for word in re.findall(r"\b[0-9a-f]+\b", listing)}
        assert {cpu.pc, *cpu.general.values()} <= numbers  # type: ignore[union-attr]


@pytest.mark.parametrize("saved", KERNELS[:1], indirect=True, ids=str)
def test_system_registers_of_arm(saved: Saved) -> None:
    """`info registers` has none of them; QEMU's gdb stub has, some without their level."""
    with GdbStub(saved.guest, saved.folder / "gdb") as stub:
        told = stub.system_registers()
    with savefmt.open(saved.image) as image:
        ours = image.guest.cpus[0].system  # type: ignore[union-attr]
    names = {name: name if name in told else name.removesuffix("_EL1") for name in ours}
    both = {name: value for name, value in ours.items() if names[name] in told}

    assert both == {name: told[names[name]] for name in both}
    assert {"SCTLR_EL1", "TTBR0_EL1", "TTBR1_EL1", "TCR_EL1", "MAIR_EL1", "VBAR_EL1"} <= both.keys()
    assert sum(map(bool, both.values())) > 10


def test_translations(saved: Saved) -> None:
    """The kernel's own page tables: first and last byte of ranges, and the bytes there."""
    with savefmt.open(saved.image) as image:
        space = image.guest.space(0)
        mappings = list(islice(Walk(space.tables).mappings(), 5000))
        chosen = random.Random(15).sample(mappings, min(SAMPLES, len(mappings)))
        assert space.tables.mode == saved.kernel.mode
        assert len(chosen) > 10
        for item in chosen:
            for virtual in (item.virtual, item.virtual + item.length - 1):
                told = physical_address(saved.guest.hmp(f"gva2gpa {virtual:#x}"))
                assert space.translate(virtual).physical == told, hex(virtual)
            if image.guest.physical.find(item.physical) is not None:
                assert space.read(item.virtual, 64) == saved.guest.pmem(item.physical, 64)


def test_the_core_is_qemus_own(saved: Saved) -> None:
    target = saved.folder / "ours"

    savefmt.export(saved.image, target, compat="qemu", overwrite=True)

    digests = []
    for path in (target, saved.folder / "core"):
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    assert digests[0] == digests[1]


def test_drgn_opens_the_core_of_all_tools(saved: Saved) -> None:
    target = saved.folder / "universal"
    report = savefmt.export(saved.image, target, overwrite=True)
    program = drgn.Program()
    program.set_core_dump(target)
    start = saved.spans[-1][0]

    with savefmt.open(saved.image) as image:
        expected = image.guest.physical.read(start, 4096)
    assert program.read(start, 4096, physical=True) == expected
    assert program.platform is not None
    assert report.cpus == 2


def test_the_kernels_release(saved: Saved) -> None:
    (release,) = set(re.findall(r"Linux version (\S+)", saved.guest.console_text()))
    with savefmt.open(saved.image) as image:
        assert identify(image).version == release
