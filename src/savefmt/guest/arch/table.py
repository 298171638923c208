"""One row for each guest architecture."""

from __future__ import annotations

from collections.abc import Mapping

from savefmt.guest.arch import arm32, arm64, loongarch, ppc, riscv, s390x, x86
from savefmt.guest.arch.arm64 import Arm64Registers
from savefmt.guest.arch.arm64_paging import Arm64PageTables
from savefmt.guest.arch.base import CpuRegisters, GuestArch
from savefmt.guest.arch.x86 import X86Registers
from savefmt.guest.arch.x86_paging import X86PageTables
from savefmt.guest.paging import PageTables, Read

Registers = X86Registers | Arm64Registers | CpuRegisters


def _arm_tables(
    registers: Arm64Registers | CpuRegisters, read: Read, root: int | None
) -> PageTables:
    if isinstance(registers, CpuRegisters):
        return arm32.tables(registers, read, root)
    return Arm64PageTables.of(registers, read, root)


ARCHES: Mapping[str, GuestArch] = {
    arch.name: arch
    for arch in (
        GuestArch(
            name="x86_64",
            spellings=("x86_64", "i686"),
            emulator="x86_64",
            fits=x86.fits,
            read=x86.read_x86,
            tables=X86PageTables.of,
            form=x86.form,
            notes=x86.notes,
        ),
        GuestArch(
            name="aarch64",
            spellings=("aarch64", "armv7l", "armv6l"),
            emulator="aarch64",
            fits=arm64.fits,
            read=arm64.read_either,
            tables=_arm_tables,
            form=arm64.form,
            notes=arm64.notes,
        ),
        GuestArch(
            name="arm",
            spellings=("armv7l", "armv7b", "armv6l"),
            emulator="arm",
            fits=arm64.fits_32,
            read=arm32.read_arm32,
            tables=arm32.tables,
            form=arm32.form,
            notes=arm32.notes,
        ),
        GuestArch(
            name="riscv64",
            spellings=("riscv64",),
            emulator="riscv64",
            fits=riscv.fits,
            read=riscv.read_riscv,
            tables=riscv.tables,
            form=riscv.form,
            notes=riscv.notes,
        ),
        GuestArch(
            name="riscv32",
            spellings=("riscv32",),
            emulator="riscv32",
            fits=riscv.fits_32,
            read=riscv.read_riscv,
            tables=riscv.tables,
            form=riscv.form,
            notes=riscv.notes,
        ),
        GuestArch(
            name="ppc64",
            spellings=("ppc64", "ppc64le"),
            emulator="ppc64",
            fits=ppc.fits,
            read=ppc.read_ppc,
            tables=ppc.tables,
            form=ppc.form,
            notes=ppc.notes,
        ),
        GuestArch(
            name="s390x",
            spellings=("s390x",),
            emulator="s390x",
            fits=s390x.fits,
            read=s390x.read_s390x,
            tables=s390x.tables,
            form=s390x.form,
            notes=s390x.notes,
        ),
        GuestArch(
            name="loongarch64",
            spellings=("loongarch64",),
            emulator="loongarch64",
            fits=loongarch.fits,
            read=loongarch.read_loongarch,
            tables=loongarch.tables,
            form=loongarch.form,
            notes=loongarch.notes,
        ),
        # Known by name, so that they are not taken for another.
        GuestArch(name="ppc", spellings=("ppc",), emulator="ppc", fits=ppc.fits_32),
    )
}
"""By name."""
