"""What the families have in common: a row of the table, a vCPU, an ELF note."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from savefmt.errors import CorruptError
from savefmt.format.devicetree import Struct
from savefmt.frozen import dataclass
from savefmt.guest.paging import PageTables, Read

ByteOrder = Literal["little", "big"]

NT_PRSTATUS = 1
NT_FPREGSET = 2


class Vcpu(NamedTuple):
    """What a stream holds of one vCPU.

    Attributes
    ----------
    cpu : int
        As QEMU counts.
    tree : Struct
        Its section ``cpu``.
    halted : bool or None
        Whether it waits for an interrupt; None if the image does not tell.
    apic : Struct or None
        Its local APIC, on x86.
    board : callable
        Returns a section of the whole machine by its idstr, None if there is no such section.
    """

    cpu: int
    tree: Struct
    halted: bool | None
    apic: Struct | None
    board: Callable[[str], Struct | None]


class CoreNote(NamedTuple):
    """A note of an ELF core: owner, type, content."""

    owner: bytes
    kind: int
    content: bytes


class CoreForm(NamedTuple):
    """How an ELF core is marked: e_machine, word size, byte order."""

    machine: int
    bits: int
    byte_order: ByteOrder


@dataclass(frozen=True, slots=True)
class CpuRegisters:
    """One vCPU of an architecture all of whose registers are plain numbers.

    Attributes
    ----------
    architecture : str
        As in the table.
    cpu : int
        Its index.
    bits : int
        Of a general register.
    general : dict of str to int
        By the names of the architecture's manuals.
    pc : int
        Program counter.
    vectors : dict of str to int
        Floating-point and vector registers, the most significant part first.
    system : dict of str to int
        Status and control registers.
    halted : bool or None
        Whether it waits for an interrupt.
    """

    architecture: str
    cpu: int
    bits: int
    general: Mapping[str, int]
    pc: int
    vectors: Mapping[str, int]
    system: Mapping[str, int]
    halted: bool | None


@dataclass(frozen=True, slots=True)
class GuestArch:
    """A guest architecture.

    Attributes
    ----------
    name : str
        Its name here and, of several that libvirt has for it, the first.
    spellings : tuple of str
        What libvirt calls guests that run on such vCPUs.
    emulator : str
        Program of QEMU's, behind ``qemu-system-``.
    fits : callable
        Whether a section ``cpu`` is of this architecture.
    read : callable or None
        Reads a vCPU's registers; None where nobody has taught us.
    tables : callable or None
        Returns the paging of a vCPU: ``tables(registers, read, root)``.
    form : callable or None
        Returns how QEMU marks a core, by the first vCPU's registers.
    notes : callable or None
        Returns the notes that QEMU writes of one vCPU.
    """

    name: str
    spellings: tuple[str, ...]
    emulator: str
    fits: Callable[[Struct], bool]
    read: Callable[[Vcpu], Any] | None = None
    tables: Callable[[Any, Read, int | None], PageTables] | None = None
    form: Callable[[Any], CoreForm] | None = None
    notes: Callable[[Any], Sequence[CoreNote]] | None = None


def need(tree: Struct, name: str) -> int:
    """Return a number of a vCPU's section; CorruptError if it is missing."""
    value = tree.number(name)
    if value is None:
        raise CorruptError(f"the vCPU's section has no {name!r}")
    return value


def need_all(tree: Struct, name: str, count: int) -> tuple[int, ...]:
    """Return so many numbers of a vCPU's section; CorruptError where there are others."""
    values = tree.numbers(name)
    if len(values) != count:
        raise CorruptError(f"the vCPU's section has {len(values)} numbers in {name!r}, not {count}")
    return values


def field_length(tree: Struct, name: str) -> int:
    """Return the length of a field in the stream, 0 if it is missing."""
    return next((field.length for field in tree.fields if field.name == name), 0)
