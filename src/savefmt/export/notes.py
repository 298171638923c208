"""vCPU registers as ELF notes: NT_PRSTATUS of Linux, and QEMU's own."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from savefmt.export.elf import pack_note
from savefmt.guest.registers import Registers, Segment, X86Registers
from savefmt.guest.registers_arm import Arm64Registers

_NT_PRSTATUS = 1
_QEMU_STATE_VERSION = 1
_QEMU_STATE_LENGTH = 440
_ARM64_STATUS_LENGTH = 392

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


def pack_status(cpus: Sequence[Registers], *, wide: bool = True) -> bytes:
    """Return one NT_PRSTATUS for each vCPU.

    Parameters
    ----------
    cpus : sequence of X86Registers or Arm64Registers
        In the order of their notes.
    wide : bool
        Whether an x86 guest's notes are those of 64-bit Linux.

    Returns
    -------
    bytes
        The notes.
    """
    pack = _status_64 if wide else _status_32
    return b"".join(
        pack_note(
            b"CORE",
            _NT_PRSTATUS,
            _status_arm64(cpu) if isinstance(cpu, Arm64Registers) else pack(cpu),
        )
        for cpu in cpus
    )


def pack_qemu_state(cpus: Sequence[Registers]) -> bytes:
    """Return QEMU's own note for each x86 vCPU, which has the control registers.

    Parameters
    ----------
    cpus : sequence of X86Registers or Arm64Registers
        Of others QEMU has no such note.

    Returns
    -------
    bytes
        The notes.
    """
    return b"".join(
        pack_note(b"QEMU", 0, _qemu_state(cpu)) for cpu in cpus if isinstance(cpu, X86Registers)
    )


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


def _status_arm64(cpu: Arm64Registers) -> bytes:
    registers = struct.pack(
        "<34Q",
        *(cpu.general[f"x{number}"] for number in range(31)),
        *(cpu.general["sp"], cpu.pc, cpu.pstate),
    )
    status = struct.pack("<32xI76x", cpu.cpu + 1) + registers
    return status + bytes(_ARM64_STATUS_LENGTH - len(status))


def _qemu_state(cpu: X86Registers) -> bytes:
    control = cpu.control
    return (
        struct.pack("<II", _QEMU_STATE_VERSION, _QEMU_STATE_LENGTH)
        + struct.pack("<16Q", *(cpu.general.get(name, 0) for name in _ORDER_QEMU))
        + struct.pack("<QQ", cpu.rip, cpu.rflags)
        + b"".join(_qemu_segment(cpu.segments[name]) for name in _SEGMENTS_QEMU)
        + struct.pack("<5Q", control["cr0"], 0, control["cr2"], control["cr3"], control["cr4"])
        + struct.pack("<Q", cpu.msrs.get("kernel_gs_base", 0))
    )


def _qemu_segment(segment: Segment) -> bytes:
    return struct.pack("<IIIIQ", segment.selector, segment.limit, segment.flags, 0, segment.base)
