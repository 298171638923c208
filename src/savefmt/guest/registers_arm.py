"""Registers of AArch64 vCPUs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from savefmt.errors import CorruptError
from savefmt.format.devicetree import Struct
from savefmt.frozen import dataclass

# (op0, op1, CRn, CRm, op2) of the system registers that analysts ask for.
_NAMES = {
    (2, 0, 0, 2, 2): "MDSCR_EL1",
    (3, 0, 0, 0, 0): "MIDR_EL1",
    (3, 0, 0, 0, 5): "MPIDR_EL1",
    (3, 0, 0, 4, 0): "ID_AA64PFR0_EL1",
    (3, 0, 0, 6, 0): "ID_AA64ISAR0_EL1",
    (3, 0, 0, 7, 0): "ID_AA64MMFR0_EL1",
    (3, 0, 0, 7, 1): "ID_AA64MMFR1_EL1",
    (3, 0, 0, 7, 2): "ID_AA64MMFR2_EL1",
    (3, 0, 1, 0, 0): "SCTLR_EL1",
    (3, 0, 1, 0, 1): "ACTLR_EL1",
    (3, 0, 1, 0, 2): "CPACR_EL1",
    (3, 0, 2, 0, 0): "TTBR0_EL1",
    (3, 0, 2, 0, 1): "TTBR1_EL1",
    (3, 0, 2, 0, 2): "TCR_EL1",
    (3, 0, 2, 0, 3): "TCR2_EL1",
    (3, 0, 5, 1, 0): "AFSR0_EL1",
    (3, 0, 5, 1, 1): "AFSR1_EL1",
    (3, 0, 5, 2, 0): "ESR_EL1",
    (3, 0, 6, 0, 0): "FAR_EL1",
    (3, 0, 7, 4, 0): "PAR_EL1",
    (3, 0, 10, 2, 0): "MAIR_EL1",
    (3, 0, 10, 3, 0): "AMAIR_EL1",
    (3, 0, 12, 0, 0): "VBAR_EL1",
    (3, 0, 13, 0, 1): "CONTEXTIDR_EL1",
    (3, 0, 13, 0, 4): "TPIDR_EL1",
    (3, 0, 14, 1, 0): "CNTKCTL_EL1",
    (3, 3, 13, 0, 2): "TPIDR_EL0",
    (3, 3, 13, 0, 3): "TPIDRRO_EL0",
    (3, 3, 14, 0, 0): "CNTFRQ_EL0",
    (3, 3, 14, 2, 1): "CNTP_CTL_EL0",
    (3, 3, 14, 2, 2): "CNTP_CVAL_EL0",
    (3, 3, 14, 3, 1): "CNTV_CTL_EL0",
    (3, 3, 14, 3, 2): "CNTV_CVAL_EL0",
    (3, 4, 1, 0, 0): "SCTLR_EL2",
    (3, 4, 1, 1, 0): "HCR_EL2",
    (3, 4, 2, 0, 0): "TTBR0_EL2",
    (3, 4, 2, 0, 1): "TTBR1_EL2",
    (3, 4, 2, 0, 2): "TCR_EL2",
    (3, 4, 2, 1, 0): "VTTBR_EL2",
    (3, 4, 2, 1, 2): "VTCR_EL2",
    (3, 4, 5, 2, 0): "ESR_EL2",
    (3, 4, 6, 0, 0): "FAR_EL2",
    (3, 4, 10, 2, 0): "MAIR_EL2",
    (3, 4, 12, 0, 0): "VBAR_EL2",
    (3, 4, 13, 0, 2): "TPIDR_EL2",
    (3, 6, 1, 0, 0): "SCTLR_EL3",
    (3, 6, 1, 1, 0): "SCR_EL3",
    (3, 6, 2, 0, 0): "TTBR0_EL3",
    (3, 6, 2, 0, 2): "TCR_EL3",
    (3, 6, 12, 0, 0): "VBAR_EL3",
}

# KVM's number of a 64-bit system register: architecture, size and class in the upper bits.
_SYSTEM_REGISTER = 0x6030_0000_0013

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


def read_arm64(cpu: int, tree: Struct, halted: bool | None) -> Arm64Registers:
    """Read the registers from a vCPU's section.

    Parameters
    ----------
    cpu : int
        Its index.
    tree : Struct
        The section, taken apart.
    halted : bool or None
        From the section beside it.

    Returns
    -------
    Arm64Registers
        As far as the stream names them.

    Raises
    ------
    CorruptError
        If the general registers are missing.
    """
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
        cpu=cpu,
        general=dict(zip([*names, "sp"], general, strict=True)),
        pc=pc,
        pstate=int.from_bytes(tree.data("cpsr") or b"", "big"),
        elr=_by_level(tree.numbers("env.elr_el")),
        sp_el=_by_level(tree.numbers("env.sp_el")),
        spsr={level: spsr[bank] for level, bank in banks.items() if bank < len(spsr)},
        system=_read_system(tree),
        vectors=_read_vectors(tree),
        fpcr=status & _FPCR_BITS if control[0] is None else control[0],
        fpsr=status & _FPSR_BITS if control[1] is None else control[1],
        halted=halted,
    )


def _by_level(values: tuple[int, ...]) -> dict[str, int]:
    return {f"el{level}": value for level, value in enumerate(values)}


def _read_system(tree: Struct) -> dict[str, int]:
    numbers = tree.numbers("cpreg_vmstate_indexes")
    values = tree.numbers("cpreg_vmstate_values")
    return {
        _name(number & 0xFFFF): value
        for number, value in zip(numbers, values, strict=False)
        if number >> 16 == _SYSTEM_REGISTER
    }


def _name(code: int) -> str:
    key = (code >> 14 & 3, code >> 11 & 7, code >> 7 & 15, code >> 3 & 15, code & 7)
    op0, op1, crn, crm, op2 = key
    return _NAMES.get(key, f"S{op0}_{op1}_C{crn}_C{crm}_{op2}")


def _read_vectors(tree: Struct) -> tuple[int, ...]:
    found = []
    for number in range(32):
        low, high = (*tree.numbers(f"env.vfp.zregs[{number}].d"), 0, 0)[:2]
        found.append(high << 64 | low)
    return tuple(found)
