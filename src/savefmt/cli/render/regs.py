"""Registers as text, laid out as by QEMU's ``info registers``, and as values for JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any

from savefmt.cli.render.document import Hexadecimal, values
from savefmt.guest.arch.arm64 import Arm64Registers
from savefmt.guest.arch.base import CpuRegisters
from savefmt.guest.arch.table import Registers
from savefmt.guest.arch.x86 import (
    HFLAGS_INHIBIT_IRQ,
    HFLAGS_PROTECTED,
    HFLAGS_SMM,
    FloatingPoint,
    SegmentRegister,
    X86Registers,
)

_DECIMAL = ("cpu", "bits", "apic_id")
Printed = Annotated[X86Registers | Arm64Registers | CpuRegisters, Hexadecimal(*_DECIMAL)]
"""The type of `registers_values`."""

_SYSTEM_32 = (
    *("Reserved", "TSS16-avl", "LDT", "TSS16-busy", "CallGate16", "TaskGate", "IntGate16"),
    *("TrapGate16", "Reserved", "TSS32-avl", "Reserved", "TSS32-busy", "CallGate32", "Reserved"),
    *("IntGate32", "TrapGate32"),
)
_SYSTEM_64 = (
    *("<hiword>", "Reserved", "LDT", *["Reserved"] * 6, "TSS64-avl", "Reserved", "TSS64-busy"),
    *("CallGate64", "Reserved", "IntGate64", "TrapGate64"),
)


def registers_lines(registers: Registers) -> Iterator[str]:
    """Tell a vCPU's registers.

    Parameters
    ----------
    registers : X86Registers, Arm64Registers or CpuRegisters
        One vCPU.

    Yields
    ------
    str
        First the lines of QEMU's monitor, then what that leaves out.
    """
    if isinstance(registers, Arm64Registers):
        yield from _arm64_lines(registers)
    elif isinstance(registers, X86Registers):
        yield from _x86_lines(registers)
    else:
        yield from _plain_lines(registers)


def registers_values(registers: Registers) -> dict[str, Any]:
    """Turn a vCPU's registers into what JSON can hold.

    Parameters
    ----------
    registers : X86Registers, Arm64Registers or CpuRegisters
        One vCPU.

    Returns
    -------
    dict
        Numbers that may exceed 53 bits are hexadecimal text, as ``0x1f``.
    """
    return {
        name: value if name in _DECIMAL else _hexadecimal(value)
        for name, value in values(registers).items()
    }


def _hexadecimal(value: Any) -> Any:
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return hex(value)
    if isinstance(value, Mapping):
        return {key: _hexadecimal(item) for key, item in value.items()}
    return [_hexadecimal(item) for item in value]


# x86


def _x86_lines(registers: X86Registers) -> Iterator[str]:
    wide = registers.code_64
    width = 16 if wide else 8

    def number(value: int) -> str:
        return f"{value & (1 << 4 * width) - 1:0{width}x}"

    yield f"CPU#{registers.cpu}"
    yield from _x86_general(registers, wide, width)
    for name in ("es", "cs", "ss", "ds", "fs", "gs", "ldt", "tr"):
        yield _segment_line(name, registers, width)
    for name in ("gdt", "idt"):
        table = registers.segments[name]
        yield f"{name.upper()}=     {number(table.base)} {table.limit:08x}"
    control = registers.control
    yield (
        f"CR0={control['cr0']:08x} CR2={number(control['cr2'])} "
        f"CR3={number(control['cr3'])} CR4={control['cr4']:08x}"
    )
    debug = [f"DR{n}={value:0{registers.bits // 4}x}" for n, value in enumerate(registers.debug)]
    if debug:
        yield " ".join(debug[:4]) + " "
        yield " ".join(debug[6:])
    if "efer" in control:
        yield f"EFER={control['efer']:016x}"
    if registers.fpu is not None:
        yield from _x86_fpu(registers, registers.fpu, wide)
    extra = [f"{name.upper()}={control[name]:x}" for name in ("cr8", "xcr0") if name in control]
    if registers.apic_id is not None:
        extra.append(f"APIC_ID={registers.apic_id}")
    if extra:
        yield " ".join(extra)
    yield from _in_columns(_named(registers.msrs, 16))


def _x86_general(registers: X86Registers, wide: bool, width: int) -> Iterator[str]:
    """Give general registers, program counter and flags."""
    order = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp")
    names = [*order, *(f"r{n}" for n in range(8, 16))] if wide else list(order)
    for at in range(0, len(names), 4):
        row = names[at : at + 4]
        words = []
        for name in row:
            shown = name.upper() if wide else f"E{name[1:].upper()}"
            value = registers.general.get(name, 0) & (1 << 4 * width) - 1
            words.append(f"{shown:<3}={value:0{width}x}")
        yield " ".join(words)
    flags = registers.rflags
    letters = zip("DOSZAPC", (10, 11, 7, 6, 4, 2, 0), strict=True)
    shown = "".join(letter if flags >> bit & 1 else "-" for letter, bit in letters)
    halted, a20 = ("?" if told is None else int(told) for told in (registers.halted, registers.a20))
    inhibit, smm = (
        "?" if registers.fpu is None else int(bool(registers.hflags & bit))  # of a dump's note
        for bit in (HFLAGS_INHIBIT_IRQ, HFLAGS_SMM)
    )
    yield (
        f"{'RIP' if wide else 'EIP'}={registers.rip & (1 << 4 * width) - 1:0{width}x} "
        f"{'RFL' if wide else 'EFL'}={flags & 0xFFFFFFFF:08x} [{shown}] "
        f"CPL={registers.privilege} II={inhibit} A20={a20} SMM={smm} HLT={halted}"
    )


def _segment_line(name: str, registers: X86Registers, width: int) -> str:
    segment = registers.segments[name]
    base = segment.base & (1 << 4 * width) - 1
    line = (
        f"{name.upper():<3}={segment.selector:04x} {base:0{width}x} {segment.limit:08x} "
        f"{segment.flags & 0x00FFFF00:08x}"
    )
    present = segment.flags >> 15 & 1
    if not registers.hflags & HFLAGS_PROTECTED or not present:
        return line
    return f"{line} DPL={segment.flags >> 13 & 3} {_segment_kind(segment, registers.long_mode)}"


def _segment_kind(segment: SegmentRegister, long_mode: bool) -> str:
    """Name what a descriptor describes, as in ``CS64 [-RA]``."""
    flags = segment.flags

    def letter(bit: int, sign: str) -> str:
        return sign if flags >> bit & 1 else "-"

    if not flags >> 12 & 1:
        return (_SYSTEM_64 if long_mode else _SYSTEM_32)[flags >> 8 & 15]
    accessed = letter(8, "A")
    if flags >> 11 & 1:
        size = "64" if flags >> 21 & 1 else "32" if flags >> 22 & 1 else "16"
        return f"CS{size} [{letter(10, 'C')}{letter(9, 'R')}{accessed}]"
    size = "  " if flags >> 22 & 1 or long_mode else "16"
    return f"DS{size} [{letter(10, 'E')}{letter(9, 'W')}{accessed}]"


def _x86_fpu(registers: X86Registers, fpu: FloatingPoint, wide: bool) -> Iterator[str]:
    yield (
        f"FCW={fpu.control:04x} FSW={fpu.status:04x} [ST={fpu.status >> 11 & 7}] "
        f"FTW={fpu.tag:02x} MXCSR={fpu.mxcsr:08x}"
    )
    stack = [f"FPR{n}={mantissa:016x} {high:04x}" for n, (mantissa, high) in enumerate(fpu.stack)]
    yield from _pairs(stack)
    bits = registers.vector_bits
    if bits == 512:
        yield from _pairs([f"K{n}={value:016x}" for n, value in enumerate(registers.opmasks)])
    letter = {128: "X", 256: "Y", 512: "Z"}[bits]
    count = (32 if bits == 512 else 16) if wide else 8
    lines = []
    for n, parts in enumerate(registers.vectors[:count]):
        words = (*parts, *(0,) * 8)[: bits // 64]
        lines.append(f"{letter}MM{n:02}=" + " ".join(f"{word:016x}" for word in reversed(words)))
    yield from _pairs(lines) if bits == 128 else lines


# AArch64


def _arm64_lines(registers: Arm64Registers) -> Iterator[str]:
    yield f"CPU#{registers.cpu}"
    words = [f" PC={registers.pc:016x}"]
    for n in range(31):
        words.append(f"X{n:02}={registers.general[f'x{n}']:016x}")
    words.append(f" SP={registers.general['sp']:016x}")
    yield " ".join(words[:3])
    for at in range(3, len(words), 3):
        yield " ".join(words[at : at + 3])
    state = registers.pstate
    letters = zip("NZCV", (31, 30, 29, 28), strict=True)
    flags = "".join(letter if state >> bit & 1 else "-" for letter, bit in letters)
    level = f"EL{registers.exception_level}{'h' if state & 1 else 't'}"
    floating = f" FPCR={registers.fpcr:08x} FPSR={registers.fpsr:08x}"
    yield (
        f"PSTATE={state:08x} {flags} {level}    "
        + (floating if registers.floating_point else "FPU disabled")
    )
    yield from _pairs(
        [
            f"Q{n:02}={value >> 64:016x}:{value & (1 << 64) - 1:016x}"
            for n, value in enumerate(registers.vectors)
        ]
    )
    for kind, banked in (
        ("ELR", registers.elr),
        ("SP", registers.sp_el),
        ("SPSR", registers.spsr),
    ):
        yield " ".join(f"{kind}_{level.upper()}={value:x}" for level, value in banked.items())
    yield from _in_columns(_named(registers.system, 16))


# all others


def _plain_lines(registers: CpuRegisters) -> Iterator[str]:
    """Give each register by its name, four or two to a line."""
    digits = registers.bits // 4
    yield f"CPU#{registers.cpu} {registers.architecture}"
    words = [f"PC={registers.pc:0{digits}x}"]
    words += [f"{name.upper()}={value:0{digits}x}" for name, value in registers.general.items()]
    yield from _in_columns(words, 4)
    yield from _in_columns(_named(registers.system, digits), 4 if digits == 8 else 2)
    width = 16 if max(registers.vectors.values(), default=0) < 1 << 64 else 32
    yield from _in_columns(_named(registers.vectors, width), 4 if width == 16 else 2)


def _named(values: Mapping[str, int], digits: int) -> list[str]:
    return [f"{name.upper()}={value:0{digits}x}" for name, value in values.items()]


def _pairs(words: list[str]) -> Iterator[str]:
    for at in range(0, len(words), 2):
        yield " ".join(words[at : at + 2])


def _in_columns(words: list[str], count: int = 2) -> Iterator[str]:
    """Yield so many to a line, in columns."""
    width = max(map(len, words), default=0)
    for at in range(0, len(words), count):
        yield " ".join(f"{word:<{width}}" for word in words[at : at + count]).rstrip()


def all_lines(cpus: Iterable[Registers]) -> Iterator[str]:
    """Tell the registers of several vCPUs, an empty line between them."""
    for number, registers in enumerate(cpus):
        if number:
            yield ""
        yield from registers_lines(registers)
