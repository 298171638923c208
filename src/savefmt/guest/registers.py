"""Registers of the vCPUs, by the names that the vmdescription gives them (format.md 8)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar, Literal

from savefmt.errors import CorruptError, UnsupportedError
from savefmt.format.devicetree import Struct
from savefmt.frozen import dataclass
from savefmt.guest.arch import ARCHES, GuestArch
from savefmt.guest.needs import GuestSource
from savefmt.guest.registers_arm import Arm64Registers, read_arm64
from savefmt.model import Section

_GENERAL = (
    "rax",
    "rcx",
    "rdx",
    "rbx",
    "rsp",
    "rbp",
    "rsi",
    "rdi",
    *(f"r{n}" for n in range(8, 16)),
)
_SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs")
_TABLES = ("ldt", "tr", "gdt", "idt")
_QUAD = re.compile(r"_q_ZMMReg\[(\d)\]")

_MSRS = {
    "sysenter_cs": "env.sysenter_cs",
    "sysenter_esp": "env.sysenter_esp",
    "sysenter_eip": "env.sysenter_eip",
    "star": "env.star",
    "lstar": "env.lstar",
    "cstar": "env.cstar",
    "fmask": "env.fmask",
    "kernel_gs_base": "env.kernelgsbase",
    "tsc": "env.tsc",
    "tsc_aux": "env.tsc_aux",
    "tsc_adjust": "env.tsc_adjust",
    "tsc_deadline": "env.tsc_deadline",
    "pat": "env.pat",
    "misc_enable": "env.msr_ia32_misc_enable",
    "feature_control": "env.msr_ia32_feature_control",
    "mtrr_deftype": "env.mtrr_deftype",
    "mcg_cap": "env.mcg_cap",
    "mcg_status": "env.mcg_status",
    "spec_ctrl": "env.spec_ctrl",
    "xss": "env.xss",
    "kvm_system_time": "env.system_time_msr",
    "kvm_wall_clock": "env.wall_clock_msr",
}

HFLAGS_INHIBIT_IRQ = 1 << 3
HFLAGS_PROTECTED = 1 << 7
HFLAGS_LONG_MODE = 1 << 14
HFLAGS_CODE_64 = 1 << 15
HFLAGS_SMM = 1 << 19

CR0_PG = 1 << 31
CR4_PSE = 1 << 4
CR4_PAE = 1 << 5
CR4_LA57 = 1 << 12
EFER_LMA = 1 << 10

_XCR0_AVX = 0x04
_XCR0_AVX512 = 0xE6


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment register with its hidden part; `flags` as in a descriptor's second word."""

    selector: int
    base: int
    limit: int
    flags: int


@dataclass(frozen=True, slots=True)
class FloatingPoint:
    """x87 and SSE control, and the x87 stack as (mantissa, sign and exponent)."""

    control: int
    status: int
    tag: int
    mxcsr: int
    stack: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class X86Registers:
    """One x86 vCPU.

    Attributes
    ----------
    cpu : int
        Its index.
    bits : int
        64, or 32 where the emulator knows no long mode at all.
    general : dict of str to int
        ``rax`` to ``r15``; eight of them with 32 bits.
    rip, rflags : int
        Program counter and flags.
    segments : dict of str to Segment
        ``es cs ss ds fs gs``, then ``ldt tr gdt idt``.
    control : dict of str to int
        ``cr0 cr2 cr3 cr4``, ``cr8`` where there is an APIC, ``xcr0`` and ``efer``.
    debug : tuple of int
        DR0 to DR7.
    msrs : dict of str to int
        Model-specific registers that the stream holds.
    fpu : FloatingPoint
        x87 and SSE state.
    vectors : tuple of tuple of int
        XMM, YMM or ZMM registers in 64-bit parts, the lowest first.
    opmasks : tuple of int
        K0 to K7, with AVX-512 only.
    hflags, hflags2 : int
        QEMU's own summary of the mode.
    a20 : bool
        Whether address line 20 is on.
    halted : bool or None
        Whether it waits for an interrupt.
    apic_id : int or None
        Of its local APIC.
    """

    cpu: int
    bits: int
    general: Mapping[str, int]
    rip: int
    rflags: int
    segments: Mapping[str, Segment]
    control: Mapping[str, int]
    debug: tuple[int, ...]
    msrs: Mapping[str, int]
    fpu: FloatingPoint
    vectors: tuple[tuple[int, ...], ...]
    opmasks: tuple[int, ...]
    hflags: int
    hflags2: int
    a20: bool
    halted: bool | None
    apic_id: int | None

    COMPUTED: ClassVar = ("architecture",)

    @property
    def architecture(self) -> Literal["x86_64"]:
        """As QEMU calls it."""
        return "x86_64"

    @property
    def long_mode(self) -> bool:
        """Whether long mode is active, be it in a 32-bit segment."""
        return bool(self.hflags & HFLAGS_LONG_MODE or self.control.get("efer", 0) & EFER_LMA)

    @property
    def code_64(self) -> bool:
        """Whether it runs 64-bit code."""
        return bool(self.hflags & HFLAGS_CODE_64)

    @property
    def privilege(self) -> int:
        """Current privilege level, 0 to 3."""
        return self.hflags & 3

    @property
    def vector_bits(self) -> int:
        """How wide the vector registers are that the guest has switched on."""
        xcr0 = self.control.get("xcr0", 0)
        if xcr0 & _XCR0_AVX512 == _XCR0_AVX512:
            return 512
        return 256 if xcr0 & _XCR0_AVX else 128


Registers = X86Registers | Arm64Registers


def find_arch(source: GuestSource) -> GuestArch:
    """Tell the guest's architecture from its vCPUs.

    Parameters
    ----------
    source : GuestSource
        The image.

    Returns
    -------
    GuestArch
        A row of the table.

    Raises
    ------
    UnsupportedError
        If the stream has no vCPU, or one of another architecture.
    """
    cpus = _sections(source, "cpu")
    if not cpus:
        raise UnsupportedError("the stream holds no vCPU that could be told apart")
    tree = source.devices.tree(cpus[0])
    for arch in ARCHES.values():
        if tree.values(arch.witness):
            return arch
    raise UnsupportedError("the vCPUs are of an architecture that this release does not know")


def read_registers(source: GuestSource) -> tuple[Registers, ...]:
    """Read the registers of all vCPUs.

    Parameters
    ----------
    source : GuestSource
        The image.

    Returns
    -------
    tuple of X86Registers or Arm64Registers
        In the order of the stream.

    Raises
    ------
    UnsupportedError
        If the stream has no vCPU, or one of another architecture.
    CorruptError
        If registers are missing.
    """
    arch = find_arch(source)
    apics: list[Section | None] = list(_sections(source, "apic"))
    cpus = _sections(source, "cpu")
    if len(apics) != len(cpus):
        apics = [None] * len(cpus)
    return tuple(
        read_arm64(cpu.instance_id, source.devices.tree(cpu), _halted(source, cpu))
        if arch.name == "aarch64"
        else _read_x86(source, cpu, apic)
        for cpu, apic in zip(cpus, apics, strict=True)
    )


def _sections(source: GuestSource, idstr: str) -> list[Section]:
    return [section for section in source.devices.sections if section.idstr == idstr]


def _halted(source: GuestSource, cpu: Section) -> bool | None:
    common = source.devices.find("cpu_common", cpu.instance_id)
    halted = source.devices.tree(common).number("halted") if common else None
    return None if halted is None else bool(halted)


def _read_x86(source: GuestSource, section: Section, apic_section: Section | None) -> X86Registers:
    tree = source.devices.tree(section)
    apic = source.devices.tree(apic_section) if apic_section else None
    general = tree.numbers("env.regs")
    return X86Registers(
        cpu=section.instance_id,
        bits=64 if len(general) > 8 else 32,
        general=dict(zip(_GENERAL, general, strict=False)),
        rip=_need(tree, "env.eip"),
        rflags=_need(tree, "env.eflags"),
        segments=_read_segments(tree),
        control=_read_control(tree, apic),
        debug=tree.numbers("env.dr"),
        msrs=_read_msrs(tree, apic),
        fpu=_read_fpu(tree),
        vectors=_read_vectors(tree),
        opmasks=tree.numbers("env.opmask_regs"),
        hflags=_need(tree, "env.hflags"),
        hflags2=tree.number("env.hflags2") or 0,
        a20=bool((tree.number("env.a20_mask") or 0) & 1 << 20),
        halted=_halted(source, section),
        apic_id=apic.number("id") if apic else None,
    )


def _need(tree: Struct, name: str) -> int:
    value = tree.number(name)
    if value is None:
        raise CorruptError(f"the vCPU's section has no {name!r}")
    return value


def _read_segments(tree: Struct) -> dict[str, Segment]:
    found = dict(zip(_SEGMENTS, tree.structs("env.segs"), strict=False))
    for name in _TABLES:
        found |= dict(zip([name], tree.structs(f"env.{name}"), strict=False))
    if len(found) < len(_SEGMENTS) + len(_TABLES):
        raise CorruptError("the vCPU's section lacks segment registers")
    return {
        name: Segment(*(part.number(key) or 0 for key in ("selector", "base", "limit", "flags")))
        for name, part in found.items()
    }


def _read_control(tree: Struct, apic: Struct | None) -> dict[str, int]:
    control = {f"cr{number}": _need(tree, f"env.cr[{number}]") for number in (0, 2, 3, 4)}
    priority = apic.number("tpr") if apic else None
    if priority is not None:
        control["cr8"] = priority >> 4
    for name in ("xcr0", "efer"):
        value = tree.number(f"env.{name}")
        if value is not None:
            control[name] = value
    return control


def _read_msrs(tree: Struct, apic: Struct | None) -> dict[str, int]:
    found = {name: tree.number(field) for name, field in _MSRS.items()}
    found["apic_base"] = apic.number("apicbase") if apic else None
    return {name: value for name, value in found.items() if value is not None}


def _read_fpu(tree: Struct) -> FloatingPoint:
    def number(name: str) -> int:
        return tree.number(f"env.{name}") or 0

    stack = []
    for register in tree.structs("env.fpregs"):
        part = next(iter(register.structs("tmp")), register)
        stack.append((part.number("tmp_mant") or 0, part.number("tmp_exp") or 0))
    return FloatingPoint(
        number("fpuc"),
        number("fpus_vmstate"),
        number("fptag_vmstate"),
        number("mxcsr"),
        tuple(stack),
    )


def _read_vectors(tree: Struct) -> tuple[tuple[int, ...], ...]:
    """Put the parts of the vector registers together, which lie in several arrays.

    Each array holds certain 64-bit parts of registers 0 to 15, but the one with all eight
    parts is of registers 16 to 31.
    """
    parts: dict[tuple[int, int], int] = {}
    for field in _vector_fields(tree):
        values = field if isinstance(field, tuple) else (field,)
        for number, register in enumerate(values):
            if not isinstance(register, Struct):
                continue
            quads = [
                (int(match[1]), inner.value)
                for inner in register.fields
                if (match := _QUAD.fullmatch(inner.name))
            ]
            first = 16 if len(quads) == 8 else 0
            for quad, value in quads:
                if isinstance(value, int):
                    parts[first + number, quad] = value
    count = 1 + max((number for number, _ in parts), default=-1)
    width = 1 + max((quad for _, quad in parts), default=-1)
    return tuple(
        tuple(parts.get((number, quad), 0) for quad in range(width)) for number in range(count)
    )


def _vector_fields(tree: Struct) -> list[object]:
    own = [field.value for field in tree.fields if field.name.startswith("env.xmm_regs")]
    return [*own, *(value for sub in tree.subsections for value in _vector_fields(sub))]
