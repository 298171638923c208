"""x86: registers by the names that the vmdescription gives them (format.md 8), ELF notes."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from savefmt.errors import CorruptError
from savefmt.format.devicetree import Struct
from savefmt.frozen import dataclass
from savefmt.guest.arch.base import NT_PRSTATUS, CoreForm, CoreNote, Vcpu, need

EM_386 = 3
EM_X86_64 = 62

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
_SEGMENT_FIELDS = ("selector", "base", "limit", "flags")
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
class SegmentRegister:
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
    segments : dict of str to SegmentRegister
        ``es cs ss ds fs gs``, then ``ldt tr gdt idt``.
    control : dict of str to int
        ``cr0 cr2 cr3 cr4``, ``cr8`` where there is an APIC, ``xcr0`` and ``efer``.
    debug : tuple of int
        DR0 to DR7.
    msrs : dict of str to int
        Model-specific registers that the stream holds.
    fpu : FloatingPoint or None
        x87 and SSE state; None where a dump's note tells the rest alone.
    vectors : tuple of tuple of int
        XMM, YMM or ZMM registers in 64-bit parts, the lowest first.
    opmasks : tuple of int
        K0 to K7, with AVX-512 only.
    hflags, hflags2 : int
        QEMU's own summary of the mode.
    a20 : bool or None
        Whether address line 20 is on; None where nothing tells.
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
    segments: Mapping[str, SegmentRegister]
    control: Mapping[str, int]
    debug: tuple[int, ...]
    msrs: Mapping[str, int]
    fpu: FloatingPoint | None
    vectors: tuple[tuple[int, ...], ...]
    opmasks: tuple[int, ...]
    hflags: int
    hflags2: int
    a20: bool | None
    halted: bool | None
    apic_id: int | None

    COMPUTED: ClassVar = ("architecture",)

    @property
    def architecture(self) -> Literal["x86_64"]:
        """As QEMU calls it."""
        return "x86_64"

    @property
    def long_mode(self) -> bool:
        """Whether long mode is active, also in a 32-bit segment."""
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


def read_x86(vcpu: Vcpu) -> X86Registers:
    """Read the registers from a vCPU's section; CorruptError if some are missing."""
    tree, apic = vcpu.tree, vcpu.apic
    general = tree.numbers("env.regs")
    if len(general) not in (8, 16):
        raise CorruptError(f"the vCPU's section has {len(general)} general registers")
    return X86Registers(
        cpu=vcpu.cpu,
        bits=64 if len(general) > 8 else 32,
        general=dict(zip(_GENERAL, general, strict=False)),
        rip=need(tree, "env.eip"),
        rflags=need(tree, "env.eflags"),
        segments=_read_segments(tree),
        control=_read_control(tree, apic),
        debug=tree.numbers("env.dr"),
        msrs=_read_msrs(tree, apic),
        fpu=_read_fpu(tree),
        vectors=_read_vectors(tree),
        opmasks=tree.numbers("env.opmask_regs"),
        hflags=need(tree, "env.hflags"),
        hflags2=tree.number("env.hflags2") or 0,
        a20=bool((tree.number("env.a20_mask") or 0) & 1 << 20),
        halted=vcpu.halted,
        apic_id=apic.number("id") if apic else None,
    )


def _read_segments(tree: Struct) -> dict[str, SegmentRegister]:
    found = dict(zip(_SEGMENTS, tree.structs("env.segs"), strict=False))
    for name in _TABLES:
        found |= dict(zip([name], tree.structs(f"env.{name}"), strict=False))
    if len(found) < len(_SEGMENTS) + len(_TABLES):
        raise CorruptError("the vCPU's section lacks segment registers")
    return {
        name: SegmentRegister(
            *(part.number(key) or 0 for key in ("selector", "base", "limit", "flags"))
        )
        for name, part in found.items()
    }


def _read_control(tree: Struct, apic: Struct | None) -> dict[str, int]:
    control = {f"cr{number}": need(tree, f"env.cr[{number}]") for number in (0, 2, 3, 4)}
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


_QEMU_STATE_VERSION = 1
_QEMU_STATE_LENGTH = 440

# The beginning of Linux' user_regs_struct.
_ORDER_64 = (
    *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10"),
    *("r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi"),
)
_ORDER_32 = ("rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rax")
_ORDER_QEMU = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp"),
    *(f"r{number}" for number in range(8, 16)),
)
_SEGMENTS_QEMU = ("cs", "ds", "es", "fs", "gs", "ss", "ldt", "tr", "gdt", "idt")


def fits(tree: Struct) -> bool:
    """Whether a section ``cpu`` is of x86."""
    return tree.number("env.eip") is not None


def form(registers: X86Registers) -> CoreForm:
    """Return how QEMU marks a core: by the mode of the first vCPU."""
    if registers.hflags & HFLAGS_LONG_MODE:
        return CoreForm(EM_X86_64, 64, "little")
    return CoreForm(EM_386, 32, "little")


def notes(registers: X86Registers) -> Sequence[CoreNote]:
    """Return NT_PRSTATUS of 64-bit Linux, and QEMU's own note with the control registers."""
    return [CoreNote(b"CORE", NT_PRSTATUS, _status_64(registers)), qemu_note(registers)]


def notes_32(registers: X86Registers) -> Sequence[CoreNote]:
    """Return NT_PRSTATUS of 32-bit Linux, and QEMU's own note."""
    return [CoreNote(b"CORE", NT_PRSTATUS, _status_32(registers)), qemu_note(registers)]


def _status_64(cpu: X86Registers) -> bytes:
    segments, general = cpu.segments, cpu.general
    registers = struct.pack(
        "<27Q",
        *(general.get(name, 0) for name in _ORDER_64),
        *(0, cpu.rip, segments["cs"].selector, cpu.rflags),
        *(general["rsp"], segments["ss"].selector, segments["fs"].base, segments["gs"].base),
        *(segments[name].selector for name in ("ds", "es", "fs", "gs")),
    )
    return struct.pack("<32xI76x", cpu.cpu + 1) + registers + bytes(8)


def _status_32(cpu: X86Registers) -> bytes:
    segments, general = cpu.segments, cpu.general
    selectors = {name: segments[name].selector & 0xFFFF for name in segments}
    registers = (
        *(general[name] for name in _ORDER_32),
        *(selectors[name] for name in ("ds", "es", "fs", "gs")),
        *(0, cpu.rip, selectors["cs"], cpu.rflags, general["rsp"], selectors["ss"]),
    )
    words = struct.pack("<17I", *(value & 0xFFFF_FFFF for value in registers))
    return struct.pack("<24xI44x", cpu.cpu + 1) + words + bytes(4)


def qemu_note(cpu: X86Registers) -> CoreNote:
    """Return the note that QEMU has of an x86 vCPU."""
    control = cpu.control
    content = (
        struct.pack("<II", _QEMU_STATE_VERSION, _QEMU_STATE_LENGTH)
        + struct.pack("<16Q", *(cpu.general.get(name, 0) for name in _ORDER_QEMU))
        + struct.pack("<QQ", cpu.rip, cpu.rflags)
        + b"".join(_qemu_segment(cpu.segments[name]) for name in _SEGMENTS_QEMU)
        + struct.pack("<5Q", control["cr0"], 0, control["cr2"], control["cr3"], control["cr4"])
        + struct.pack("<Q", cpu.msrs.get("kernel_gs_base", 0))
    )
    return CoreNote(b"QEMU", 0, content)


def read_qemu_note(cpu: int, content: bytes, *, long_mode: bool) -> X86Registers:
    """Read the registers from the note that QEMU has of a vCPU.

    Parameters
    ----------
    cpu : int
        Its index.
    content : bytes
        Of the note.
    long_mode : bool
        The dump is of a guest in long mode; a vCPU without paging is not.

    Returns
    -------
    X86Registers
        Without what the note does not tell.

    Raises
    ------
    CorruptError
        If the form of the note is not known.
    """
    if len(content) < _QEMU_STATE_LENGTH or content[:4] != _QEMU_STATE_VERSION.to_bytes(
        4, "little"
    ):
        raise CorruptError(f"the QEMU note of vCPU {cpu} has an unknown form")
    general = struct.unpack_from("<16Q", content, 8)
    rip, rflags = struct.unpack_from("<QQ", content, 136)
    parts = struct.iter_unpack("<IIIIQ", content[152:392])
    segments = {
        name: SegmentRegister(selector, base, limit, flags)
        for name, (selector, limit, flags, _, base) in zip(_SEGMENTS_QEMU, parts, strict=True)
    }
    cr0, _, cr2, cr3, cr4, kernel_gs = struct.unpack_from("<6Q", content, 392)
    long_mode = long_mode and bool(cr0 & CR0_PG and cr4 & CR4_PAE)
    hflags = segments["ss"].flags >> 13 & 3
    hflags |= HFLAGS_PROTECTED * (cr0 & 1) | HFLAGS_LONG_MODE * long_mode
    hflags |= HFLAGS_CODE_64 * (long_mode and segments["cs"].flags >> 21 & 1)
    return X86Registers(
        cpu=cpu,
        bits=64,
        general=dict(zip(_ORDER_QEMU, general, strict=True)),
        rip=rip,
        rflags=rflags,
        segments=segments,
        control={"cr0": cr0, "cr2": cr2, "cr3": cr3, "cr4": cr4},
        debug=(),
        msrs={"kernel_gs_base": kernel_gs},
        fpu=None,
        vectors=(),
        opmasks=(),
        hflags=hflags,
        hflags2=0,
        a20=None,
        halted=None,
        apic_id=None,
    )


def _qemu_segment(segment: SegmentRegister) -> bytes:
    return struct.pack("<IIIIQ", segment.selector, segment.limit, segment.flags, 0, segment.base)
