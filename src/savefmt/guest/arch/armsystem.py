"""Arm's system registers, which the stream lists by KVM's numbers."""

from __future__ import annotations

from savefmt.format.devicetree import Struct

# (op0, op1, CRn, CRm, op2) of the system registers that analysts ask for.
_NAMES_64 = {
    (2, 0, 0, 2, 2): "MDSCR_EL1",
    (3, 0, 0, 0, 0): "MIDR_EL1",
    (3, 0, 0, 0, 5): "MPIDR_EL1",
    (3, 0, 0, 4, 0): "ID_AA64PFR0_EL1",
    (3, 0, 0, 5, 0): "ID_AA64DFR0_EL1",
    (3, 0, 0, 6, 0): "ID_AA64ISAR0_EL1",
    (3, 0, 0, 7, 0): "ID_AA64MMFR0_EL1",
    (3, 0, 0, 7, 1): "ID_AA64MMFR1_EL1",
    (3, 0, 0, 7, 2): "ID_AA64MMFR2_EL1",
    (3, 0, 1, 0, 0): "SCTLR_EL1",
    (3, 0, 1, 0, 1): "ACTLR_EL1",
    (3, 0, 1, 0, 2): "CPACR_EL1",
    (3, 0, 1, 2, 0): "ZCR_EL1",
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

# (CRn, opc1, CRm, opc2) of those of 32 bits.
_NAMES_32 = {
    (0, 0, 0, 0): "MIDR",
    (0, 0, 0, 5): "MPIDR",
    (1, 0, 0, 0): "SCTLR",
    (1, 0, 0, 1): "ACTLR",
    (1, 0, 0, 2): "CPACR",
    (2, 0, 0, 0): "TTBR0",
    (2, 0, 0, 1): "TTBR1",
    (2, 0, 0, 2): "TTBCR",
    (3, 0, 0, 0): "DACR",
    (5, 0, 0, 0): "DFSR",
    (5, 0, 0, 1): "IFSR",
    (6, 0, 0, 0): "DFAR",
    (6, 0, 0, 2): "IFAR",
    (7, 0, 4, 0): "PAR",
    (10, 0, 2, 0): "MAIR0",
    (10, 0, 2, 1): "MAIR1",
    (12, 0, 0, 0): "VBAR",
    (13, 0, 0, 1): "CONTEXTIDR",
    (13, 0, 0, 2): "TPIDRURW",
    (13, 0, 0, 3): "TPIDRURO",
    (13, 0, 0, 4): "TPIDRPRW",
}

# Banked registers, and those with a name in AArch64, have that name here.
_SAME = {
    "SCTLR": "SCTLR_EL1",
    "TTBR0": "TTBR0_EL1",
    "TTBR1": "TTBR1_EL1",
    "TTBCR": "TCR_EL1",
}
_KIND_32 = (0x4020_0000, 0x4030_0000)
_NOT_SECURE = 1 << 29


def read_system_64(tree: Struct) -> dict[str, int]:
    """Return AArch64's registers by name, those without one here as ``S3_0_C1_C0_0``."""
    return {
        _name_64(number & 0xFFFF): value
        for number, value in _listed(tree)
        if number >> 16 == _SYSTEM_REGISTER
    }


def read_system_32(tree: Struct) -> dict[str, int]:
    """Return AArch32's registers by name, ``_S`` behind those of the secure world.

    Those that a processor has in common with AArch64 are told as its own ones only.
    """
    found = read_system_64(tree)
    for number, value in _listed(tree):
        if number >> 32 in _KIND_32:
            name = _name_32(number & 0xFFFF, number >> 16 & 15)
            found[name if number & _NOT_SECURE else f"{name}_S"] = value
    for name, other in _SAME.items():
        if other in found:
            found.setdefault(name, found[other])
    return found


def _listed(tree: Struct) -> list[tuple[int, int]]:
    numbers = tree.numbers("cpreg_vmstate_indexes")
    return list(zip(numbers, tree.numbers("cpreg_vmstate_values"), strict=False))


def _name_64(code: int) -> str:
    key = (code >> 14 & 3, code >> 11 & 7, code >> 7 & 15, code >> 3 & 15, code & 7)
    op0, op1, crn, crm, op2 = key
    return _NAMES_64.get(key, f"S{op0}_{op1}_C{crn}_C{crm}_{op2}")


def _name_32(code: int, coprocessor: int) -> str:
    key = (code >> 11 & 15, code >> 3 & 15, code >> 7 & 15, code & 7)
    if coprocessor == 15 and key in _NAMES_32:
        return _NAMES_32[key]
    crn, opc1, crm, opc2 = key
    return f"P{coprocessor}_{opc1}_C{crn}_C{crm}_{opc2}"
