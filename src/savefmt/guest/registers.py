"""Registers of the vCPUs of any architecture that the table can read."""

from __future__ import annotations

from savefmt.errors import UnsupportedError
from savefmt.guest.arch.base import GuestArch, Vcpu
from savefmt.guest.arch.table import ARCHES, Registers
from savefmt.guest.arch.x86 import read_qemu_note
from savefmt.guest.evidence import evidence_of
from savefmt.guest.needs import GuestSource, read_tree
from savefmt.model import Section


def find_arch(source: GuestSource) -> GuestArch:
    """Tell the guest's architecture from its vCPUs, where nothing contradicts them.

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
    CorruptError
        If parts of the image disagree.
    """
    evidence = evidence_of(source)
    names = evidence.names
    if not any(clue.kind == "vCPUs" for clue in evidence.clues):
        raise UnsupportedError("no vCPU can be found in the stream")
    (name,) = names
    return ARCHES[name]


def read_registers(source: GuestSource) -> tuple[Registers, ...]:
    """Read the registers of all vCPUs.

    Parameters
    ----------
    source : GuestSource
        The image.

    Returns
    -------
    tuple of X86Registers, Arm64Registers or CpuRegisters
        In the order of the stream.

    Raises
    ------
    UnsupportedError
        If the stream has no vCPU, or one of another architecture.
    CorruptError
        If registers are missing, or parts of the image disagree.
    """
    arch = find_arch(source)
    if source.dump is not None and source.dump.vcpus is not None:
        notes, long_mode = source.dump.vcpus.notes, source.dump.vcpus.long_mode
        return tuple(
            read_qemu_note(cpu, note, long_mode=long_mode) for cpu, note in enumerate(notes)
        )
    if arch.read is None:
        raise UnsupportedError(f"savefmt does not read the registers of {arch.name}")
    cpus = _sections(source, "cpu")
    apics: list[Section | None] = list(_sections(source, "apic"))
    if len(apics) != len(cpus):
        apics = [None] * len(cpus)
    found: list[Registers] = []
    for cpu, apic in zip(cpus, apics, strict=True):
        vcpu = Vcpu(
            cpu.instance_id,
            source.devices.tree(cpu),
            _halted(source, cpu),
            source.devices.tree(apic) if apic else None,
            lambda idstr: read_tree(source, idstr),
        )
        found.append(arch.read(vcpu))
    return tuple(found)


def _sections(source: GuestSource, idstr: str) -> list[Section]:
    return [section for section in source.devices.sections if section.idstr == idstr]


def _halted(source: GuestSource, cpu: Section) -> bool | None:
    common = source.devices.find("cpu_common", cpu.instance_id)
    halted = source.devices.tree(common).number("halted") if common else None
    return None if halted is None else bool(halted)
