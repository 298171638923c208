"""One small guest for each architecture: which QEMU, what it runs, what its words mean."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pagetables import PAGE, Memory

from savefmt.guest.arch.base import CpuRegisters

CODE = Path(__file__).parent / "golden" / "arch"


@dataclass(frozen=True)
class ArchGuest:
    """A guest: QEMU's name for its architecture, machine, code, and how that is loaded.

    `words` are the places in the code that the tests fill in.
    """

    name: str
    machine: str
    memory: str
    code: str
    load: tuple[str, ...]
    words: Mapping[str, tuple[int, int]]
    package: str
    order: str = "little"
    cpus: int = 2

    @property
    def program(self) -> str:
        """The emulator."""
        return f"qemu-system-{self.name}"

    def arguments(self, folder: Path, **values: int) -> list[str]:
        """Return QEMU's arguments; `values` are for the words, and are written to a file."""
        data = bytearray((CODE / self.code).read_bytes())
        for name, value in values.items():
            at, size = self.words[name]
            data[at : at + size] = value.to_bytes(size, self.order)  # type: ignore[arg-type]
        path = folder / self.code
        path.write_bytes(data)
        load = [word.format(code=path) for word in self.load]
        return ["-machine", self.machine, "-m", self.memory, "-smp", str(self.cpus), *load]


GUESTS = {
    guest.name: guest
    for guest in (
        ArchGuest(
            *("riscv64", "virt", "16M", "riscv64.bin", ("-bios", "{code}")),
            words={"satp": (0x1C0, 8)},
            package="qemu-system-misc",
        ),
        ArchGuest(
            *("arm", "virt", "16M", "arm.bin"),
            (
                *("-cpu", "cortex-a15"),
                *("-device", "loader,file={code},addr=0x40200000,force-raw=on"),
                *("-device", "loader,addr=0x40200000,cpu-num=0"),
            ),
            words={"ttbcr": (0x100, 4), "sctlr": (0x104, 4)},
            package="qemu-system-arm",
        ),
        ArchGuest(
            *("s390x", "s390-ccw-virtio", "16M", "s390x.elf", ("-kernel", "{code}")),
            # The ELF file has 0x78 bytes in front of its text.
            words={"psw": (0xC8, 8), "asce": (0x278, 8)},
            package="qemu-system-s390x",
            order="big",
        ),
        ArchGuest(
            *("ppc64", "pseries", "256M", "ppc64.bin", ("-bios", "{code}")),
            words={"flags": (0x200, 4), "process_table": (0x208, 8), "msr": (0x228, 8)},
            package="qemu-system-ppc",
            order="big",
        ),
        ArchGuest(
            *("loongarch64", "virt", "256M", "loongarch64.bin", ("-bios", "{code}")),
            words={"pwcl": (0x140, 8), "pwch": (0x148, 8), "crmd": (0x150, 8)},
            package="qemu-system-misc",
        ),
    )
}


def load_tables(memory: Memory, folder: Path) -> list[str]:
    """Return QEMU's arguments that put these pages into memory before the guest starts."""
    arguments = []
    pages = sorted(memory.pieces)
    first = pages[0]
    whole = bytearray((pages[-1] - first + 1) * PAGE)
    for page in pages:
        whole[(page - first) * PAGE : (page - first + 1) * PAGE] = memory.pieces[page]
    path = folder / "tables.bin"
    path.write_bytes(whole)
    arguments += ["-device", f"loader,file={path},addr={first * PAGE:#x},force-raw=on"]
    return arguments


# Where each guest's code ends up, by what `info registers` prints.
ARRIVED = {
    "riscv64": "x10/a0   aaaaaaaaaaaaaaaa",
    "arm": "R00=00000012",
    "s390x": "PSW=mask 0000000180000000",
    "ppc64": "3131313131313131",
    "loongarch64": "r31 3131313131313131",
}
# What QEMU prints differently, or not at all.
UNSAID = {
    "riscv64": {"misa", "menvcfg", "senvcfg", "henvcfg", "mstatus", "vsscratch", "priv", "virt"},
    "arm": None,  # no system register
    "s390x": {"prefix", "gbea", "todpr", "cputm", "ckc", "cpu_state", "fpc", "pp"},
    "ppc64": {"amr", "vscr", "dsisr", "lpidr", "pid", "hsprg0", "process_table"},
    "loongarch64": {"fcc"},
}


def check_registers(arch: ArchGuest, cpus: Sequence[object], listing: str) -> None:
    """Hold every number that we show of the first vCPU against those that QEMU shows."""
    assert len(cpus) == arch.cpus
    for cpu in cpus:
        assert isinstance(cpu, CpuRegisters)
        assert cpu.architecture == arch.name
    text = listing.replace("\r", "").lower()
    numbers = {int(word, 16) for word in re.findall(r"\b[0-9a-f]+\b", text)}
    first = cpus[0]
    assert isinstance(first, CpuRegisters)
    assert numbers >= {first.pc, *first.general.values()}
    unsaid = UNSAID[arch.name]
    if unsaid is not None:
        for name, value in first.system.items():
            said = value & (1 << 64) - 1 in numbers or name in unsaid
            assert said or re.fullmatch(r"a\d+|gs\d", name), name
    for value in first.vectors.values():
        assert {value, value >> 64, value & (1 << 64) - 1} & numbers
