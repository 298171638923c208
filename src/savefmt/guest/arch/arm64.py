"""AArch64: registers and ELF notes, and what such a vCPU is in 32-bit mode."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from savefmt.errors import CorruptError, UnsupportedError
from savefmt.format.devicetree import Struct
from savefmt.frozen import dataclass
from savefmt.guest.arch import arm32
from savefmt.guest.arch.armsystem import read_system_64
from savefmt.guest.arch.base import (
    NT_FPREGSET,
    NT_PRSTATUS,
    ByteOrder,
    CoreForm,
    CoreNote,
    CpuRegisters,
    Vcpu,
)

EM_AARCH64 = 183

_MODE_32 = 1 << 4
_BIG_ENDIAN = 1 << 25
_FEATURES = ("ID_AA64DFR0_EL1", "ID_AA64ISAR0_EL1", "ID_AA64MMFR0_EL1")

# Which bits of the stream's one word belong to which register.
_FPCR_BITS = 0x07F7_9F00
_FPSR_BITS = 0xF800_009F


@dataclass(frozen=True, slots=True)
class Arm64Registers:
    """One AArch64 vCPU.

    Attributes
    ----------
    cpu : int
        Its index.
    general : dict of str to int
        ``x0`` to ``x30`` and ``sp``.
    pc, pstate : int
        Program counter and processor state.
    elr, sp_el, spsr : dict of str to int
        Banked registers by exception level, such as ``el1``.
    system : dict of str to int
        System registers, those without a name here as ``S3_0_C1_C0_0``.
    vectors : tuple of int
        Q0 to Q31, 128 bits each.
    fpcr, fpsr : int
        Floating-point control and status.
    halted : bool or None
        Whether it waits for an interrupt.
    """

    cpu: int
    general: Mapping[str, int]
    pc: int
    pstate: int
    elr: Mapping[str, int]
    sp_el: Mapping[str, int]
    spsr: Mapping[str, int]
    system: Mapping[str, int]
    vectors: tuple[int, ...]
    fpcr: int
    fpsr: int
    halted: bool | None

    COMPUTED: ClassVar = ("architecture",)

    @property
    def architecture(self) -> Literal["aarch64"]:
        """As QEMU calls it."""
        return "aarch64"

    @property
    def exception_level(self) -> int:
        """0 for programs, 1 for their kernel, 2 for a hypervisor, 3 for firmware."""
        return self.pstate >> 2 & 3

    @property
    def floating_point(self) -> bool:
        """Whether the present exception level may use the vectors (CPACR_EL1.FPEN)."""
        allowed = self.system.get("CPACR_EL1", 0) >> 20 & 3
        return self.exception_level > 1 or allowed == 3 or (allowed == 1 <= self.exception_level)


def fits(tree: Struct) -> bool:
    """Whether a section ``cpu`` is of a processor that knows AArch64."""
    return _is_arm(tree) and _knows_64(tree)


def fits_32(tree: Struct) -> bool:
    """Whether a section ``cpu`` is of an Arm processor with 32 bits only."""
    return _is_arm(tree) and not _knows_64(tree)


def _is_arm(tree: Struct) -> bool:
    return bool(tree.numbers("env.xregs")) and bool(tree.numbers("env.regs"))


def _knows_64(tree: Struct) -> bool:
    """Whether it is in AArch64 state, or has features that only AArch64 has.

    Processors without AArch64 have some of its registers in the stream, too.
    """
    status = int.from_bytes(tree.data("cpsr") or b"", "big")
    microcontroller = any(part.name == "cpu/m" for part in tree.subsections)
    if not status & _MODE_32 and not microcontroller:
        return True
    system = read_system_64(tree)
    return any(system.get(name) for name in _FEATURES)


def read_either(vcpu: Vcpu) -> Arm64Registers | CpuRegisters:
    """Read the registers in the state that the vCPU is in: AArch64, or AArch32."""
    status = int.from_bytes(vcpu.tree.data("cpsr") or b"", "big")
    return arm32.read_arm32(vcpu) if status & _MODE_32 else read_arm64(vcpu)


def read_arm64(vcpu: Vcpu) -> Arm64Registers:
    """Read the registers from a vCPU's section; CorruptError if some are missing."""
    tree = vcpu.tree
    general, pc = tree.numbers("env.xregs"), tree.number("env.pc")
    if len(general) != 32 or pc is None:
        raise CorruptError("the vCPU's section lacks general registers")
    names = [f"x{number}" for number in range(31)]
    # In QEMU's order: the banks of AArch32 modes, of which these are AArch64's.
    spsr = tree.numbers("env.banked_spsr")
    banks = {"el1": 1, "el2": 6, "el3": 7}
    status = int.from_bytes(tree.data("fpscr") or b"", "big")
    control = [tree.number(f"env.vfp.{name}") for name in ("fpcr", "fpsr")]
    return Arm64Registers(
        cpu=vcpu.cpu,
        general=dict(zip([*names, "sp"], general, strict=True)),
        pc=pc,
        pstate=int.from_bytes(tree.data("cpsr") or b"", "big"),
        elr=_by_level(tree.numbers("env.elr_el")),
        sp_el=_by_level(tree.numbers("env.sp_el")),
        spsr={level: spsr[bank] for level, bank in banks.items() if bank < len(spsr)},
        system=read_system_64(tree),
        vectors=_read_vectors(tree),
        fpcr=status & _FPCR_BITS if control[0] is None else control[0],
        fpsr=status & _FPSR_BITS if control[1] is None else control[1],
        halted=vcpu.halted,
    )


def _by_level(values: tuple[int, ...]) -> dict[str, int]:
    return {f"el{level}": value for level, value in enumerate(values)}


def _read_vectors(tree: Struct) -> tuple[int, ...]:
    found = []
    for number in range(32):
        low, high = (*tree.numbers(f"env.vfp.zregs[{number}].d"), 0, 0)[:2]
        found.append(high << 64 | low)
    return tuple(found)


def form(registers: Arm64Registers | CpuRegisters) -> CoreForm:
    """Return how QEMU marks a core; its byte order is that of EL1."""
    if isinstance(registers, CpuRegisters):
        raise UnsupportedError("the first vCPU runs AArch32 on an AArch64 processor")
    order: ByteOrder = "little"
    if registers.system.get("SCTLR_EL1", 0) & _BIG_ENDIAN:
        order = "big"
    return CoreForm(EM_AARCH64, 64, order)


def notes(registers: Arm64Registers) -> Sequence[CoreNote]:
    """Return NT_PRSTATUS and NT_FPREGSET."""
    order = "<" if form(registers).byte_order == "little" else ">"
    status = struct.pack(f"{order}32xI76x", registers.cpu + 1) + struct.pack(
        f"{order}34QI4x", *registers.general.values(), registers.pc, registers.pstate, 1
    )
    low = (1 << 64) - 1
    halves = [half for value in registers.vectors for half in (value & low, value >> 64)]
    if order == ">":
        halves = [half for value in registers.vectors for half in (value >> 64, value & low)]
    floating = struct.pack(f"{order}64QII8x", *halves, registers.fpsr, registers.fpcr)
    return [CoreNote(b"CORE", NT_PRSTATUS, status), CoreNote(b"CORE", NT_FPREGSET, floating)]


def has_scalable_vectors(registers: Arm64Registers) -> bool:
    """Whether the processor has SVE, of which QEMU writes one more note."""
    return "ZCR_EL1" in registers.system
