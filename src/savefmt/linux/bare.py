"""A program of drgn on a save image, without symbols.

drgn takes physical memory from a callback, and registers of vCPUs only from the notes of an
ELF core.  So it gets a core that has notes and nothing else, in a file that exists in memory
alone, and reads the guest's pages from the image.
"""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING

from savefmt.errors import LostMemoryError, MissingPackageError, UnsupportedError
from savefmt.export import elf, vmcoreinfo
from savefmt.export.core import notes_of
from savefmt.guest.arch.base import CoreNote
from savefmt.image import SaveImage
from savefmt.model import Finding, Severity

if TYPE_CHECKING:
    import drgn


def open_bare(image: SaveImage, text: bytes | None = None) -> drgn.Program:
    """Open a Linux guest in drgn.

    Parameters
    ----------
    image : SaveImage
        Must stay open as long as the program is used.
    text : bytes, optional
        VMCOREINFO, where it is known already.

    Returns
    -------
    drgn.Program
        With the guest's memory and the registers of its vCPUs.

    Raises
    ------
    UnsupportedError
        If the guest's memory has no VMCOREINFO.
    ImportError
        Without drgn.

    Warns
    -----
    RuntimeWarning
        Of what is uncertain about the memory map or the VMCOREINFO, and of lost pages.
    """
    try:
        import drgn
    except ImportError as error:
        raise MissingPackageError("savefmt.drgn", "drgn", "drgn") from error

    findings: list[Finding] = []
    core = _pack_core(image, text or _find_text(image, findings), findings)
    memory = image.guest.physical
    for finding in (*memory.map.findings, *findings):
        if finding.severity is not Severity.NOTE:
            warnings.warn(f"{image.path}: {finding.message}", RuntimeWarning, stacklevel=3)
    if image.rescue is not None and (lost := image.rescue.report.lost):
        warnings.warn(
            f"{image.path}: {lost} pages are lost; what lies on one of them cannot be read",
            RuntimeWarning,
            stacklevel=3,
        )
    result = drgn.Program()
    file = os.memfd_create("savefmt-core", os.MFD_CLOEXEC)
    try:
        with open(file, "wb", closefd=False) as output:
            output.write(core)
        # By name: drgn would close savefmt's descriptor a second time, when the program ends.
        result.set_core_dump(f"/proc/self/fd/{file}")
    finally:
        os.close(file)

    def read(address: int, count: int, offset: int, physical: bool) -> bytes:
        try:
            return memory.read_known(address, count)
        except LostMemoryError as error:
            raise drgn.FaultError(error.message, address) from error

    for item in memory.map.ranges:
        result.add_memory_segment(item.start, item.length, read, physical=True)
    return result


def _find_text(image: SaveImage, findings: list[Finding]) -> bytes:
    info = vmcoreinfo.find(image, findings)
    if info is None:
        raise UnsupportedError(
            "no VMCOREINFO is in the guest's memory, and drgn needs it; does the guest run Linux?",
            path=image.path,
        )
    return info.text


def _pack_core(image: SaveImage, text: bytes, findings: list[Finding]) -> bytes:
    """Return an ELF core with the guest's notes and no memory."""
    form, cpus, notes = notes_of(image, findings)
    if not cpus:
        raise UnsupportedError("drgn needs the registers of the vCPUs", path=image.path)
    kind = elf.class_of(form)
    notes += kind.pack_note(CoreNote(vmcoreinfo.NAME, 0, text))
    header = elf.ProgramHeader(elf.PT_NOTE, elf.head_length(kind, 1), 0, 0, len(notes))
    return elf.pack_head(form, [header]) + notes
