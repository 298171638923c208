"""vCPU registers as ELF notes, in the order that QEMU has them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

from savefmt.errors import CorruptError
from savefmt.export.elf import ElfClass
from savefmt.guest.arch.base import CoreNote

_QEMU = b"QEMU"


def pack_notes(
    elf: ElfClass, make: Callable[[Any], Sequence[CoreNote]], cpus: Sequence[object]
) -> bytes:
    """Return the notes of all vCPUs: those of Linux by vCPU, then QEMU's own.

    Parameters
    ----------
    elf : ElfClass
        Of the core.
    make : callable
        Returns the notes of one vCPU; see `GuestArch.notes`.
    cpus : sequence
        Their registers.

    Returns
    -------
    bytes
        One behind the other.

    Raises
    ------
    CorruptError
        If a register is longer than the architecture's.
    """
    try:
        notes = [note for cpu in cpus for note in make(cpu)]
    except (struct.error, OverflowError) as error:
        raise CorruptError(f"registers of a vCPU are longer than they can be: {error}") from error
    notes.sort(key=lambda note: note.owner == _QEMU)
    return b"".join(map(elf.pack_note, notes))
