"""ELF cores of a guest: the layout that all tools take, and QEMU's own."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from savefmt.errors import AddressError, ConversionError, SavefmtError, UnsupportedError
from savefmt.export import elf, vmcoreinfo
from savefmt.export.elf import ProgramHeader
from savefmt.export.notes import pack_notes
from savefmt.export.placing import Placed
from savefmt.export.plans import Plan
from savefmt.export.stretches import MemorySegment, has_virtio_pmem, total
from savefmt.guest.arch import arm64, x86
from savefmt.guest.arch.arm64 import Arm64Registers
from savefmt.guest.arch.base import CoreForm, CoreNote, CpuRegisters
from savefmt.guest.arch.table import ARCHES, Registers
from savefmt.guest.arch.x86 import X86Registers
from savefmt.guest.evidence import evidence_of
from savefmt.guest.mappings import VirtualRange
from savefmt.image import SaveImage
from savefmt.model import Finding, Layout, PhysicalRange, Severity
from savefmt.native.pages import Watch
from savefmt.writing.output import OutputFile

_ALIGN = 4096
# QEMU dumps what it counts as RAM: no flash, and no memory that outlives the machine.
_NOT_DUMPED = re.compile(r"(system|virt|sbsa)\.flash\d|memnvdimm\d+")


def dumped_by_qemu(item: PhysicalRange) -> bool:
    """Whether QEMU's dump-guest-memory takes a range."""
    return _NOT_DUMPED.fullmatch(item.block) is None


def notes_of(
    image: SaveImage, findings: list[Finding]
) -> tuple[CoreForm, tuple[Registers, ...], bytes]:
    """Return how a core of all tools is marked, the vCPUs, and their notes.

    Parameters
    ----------
    image : SaveImage
        Open.
    findings : list of Finding
        Receives why there are no registers.

    Returns
    -------
    (CoreForm, tuple, bytes)
        Without vCPUs where they cannot be read, but the architecture is known.

    Raises
    ------
    UnsupportedError, CorruptError
        If nobody knows the architecture, or how its cores look.
    """
    try:
        cpus = image.guest.cpus
    except SavefmtError as error:
        form = _form_without_cpus(image)
        findings.append(
            Finding(
                "export.registers",
                Severity.WARNING,
                f"{error.message}; the core has no registers",
            )
        )
        return form, (), b""
    first = cpus[0]
    make: Callable[[Any], Sequence[CoreNote]]
    if isinstance(first, X86Registers):  # all tools take 64 bits, in every mode of the vCPU
        form, make = CoreForm(x86.EM_X86_64, 64, "little"), x86.notes
    elif isinstance(first, CpuRegisters):
        row = ARCHES[first.architecture]  # which of an AArch64 processor may be arm
        if row.form is None or row.notes is None:
            raise UnsupportedError(f"savefmt writes no ELF cores of {row.name} guests")
        form, make = row.form(first), row.notes
    else:
        form, make = arm64.form(first), arm64.notes
    _refuse_mixed(cpus)
    return form, cpus, pack_notes(elf.class_of(form), make, cpus)


def _refuse_mixed(cpus: Sequence[Registers]) -> None:
    kinds = {cpu.architecture if isinstance(cpu, CpuRegisters) else type(cpu) for cpu in cpus}
    if len(kinds) > 1:
        raise UnsupportedError(
            "some vCPUs run AArch32 and others AArch64; no ELF core holds the registers of both"
        )


def _form_without_cpus(image: SaveImage) -> CoreForm:
    """Tell the form of a core from what else proves the architecture."""
    names = evidence_of(image).names
    if names == {"x86_64"}:
        return CoreForm(x86.EM_X86_64, 64, "little")
    raise UnsupportedError(
        "the vCPUs cannot be read, so nothing tells which kind of ELF core to write; -O raw "
        "and -O blocks do not need the vCPUs"
    )


# --- the universal layout ---


def plan_core(
    image: SaveImage,
    segments: Sequence[MemorySegment],
    mappings: Sequence[VirtualRange],
    findings: list[Finding],
) -> Plan:
    """Lay out a core that crash, drgn, gdb, volatility3, makedumpfile and others read.

    What they need is narrow: program headers right behind the ELF header, no sections,
    no alignment in the headers, yet pages on page borders so that zeros stay holes, and
    the notes in the order PRSTATUS, QEMU, VMCOREINFO.

    Parameters
    ----------
    image : SaveImage
        Open.
    segments : sequence of MemorySegment
        Ascending.
    mappings : sequence of VirtualRange
        Virtual addresses to offer in addition to the guest-physical ones.
    findings : list of Finding
        Receives doubts.

    Returns
    -------
    Plan
        Header and notes are written when the pages are in: VMCOREINFO may be among them.

    Raises
    ------
    ConversionError
        If there is nothing to write.
    """
    _refuse_empty(segments)
    form, cpus, notes = notes_of(image, findings)
    kind = elf.class_of(form)
    inside = _inside(segments, mappings)
    notes_at = elf.head_length(kind, 1 + len(segments) + len(inside))
    # Room for a VMCOREINFO of two pages: Linux takes one.
    room = 2 * _ALIGN if form.machine == x86.EM_X86_64 else vmcoreinfo.MAX_LENGTH + _ALIGN
    placed = _place(segments, -(-(notes_at + len(notes) + room) // _ALIGN) * _ALIGN)
    headers = _loads(placed) + _virtual_loads(placed, inside)
    end = placed[-1].offset + placed[-1].segment.length
    _refuse_too_high(form, segments, end)
    told = vmcoreinfo.announced(image, findings)
    watch = None if _lies_there(image, told) else vmcoreinfo.watch()

    def head(info: vmcoreinfo.VmcoreInfo | None) -> bytes:
        whole = notes
        if info is not None:
            note = kind.pack_note(CoreNote(vmcoreinfo.NAME, 0, info.text))
            if notes_at + len(notes) + len(note) > placed[0].offset:
                raise ConversionError(
                    f"the VMCOREINFO at {info.address:#x} takes {len(info.text)} bytes, "
                    "more than any kernel's; the memory of this guest was tampered with"
                )
            whole += note
        note_header = ProgramHeader(elf.PT_NOTE, notes_at, 0, 0, len(whole))
        return elf.pack_head(form, [note_header, *headers]) + whole

    def finish(output: OutputFile, findings: list[Finding]) -> str | None:
        info = _find_vmcoreinfo(output, placed, told, watch, findings)
        output.file.write(head(info), 0)
        return info.source if info is not None else None

    return Plan(placed, end, cpus=len(cpus), watch=watch, finish=finish, head=head)


def _lies_there(image: SaveImage, told: vmcoreinfo.Announced | None) -> bool:
    """Whether the device tells right, so that nobody need look for it in all pages."""
    if told is None or image.layout is not Layout.MAPPED_RAM:
        return False
    return vmcoreinfo.from_device(image.guest.physical.read, told) is not None


def _refuse_empty(segments: Sequence[MemorySegment]) -> None:
    if not segments:
        raise ConversionError(
            "there is no memory at these addresses; savefmt memmap shows where it is"
        )


def _refuse_too_high(form: CoreForm, segments: Sequence[MemorySegment], end: int) -> None:
    """Refuse what 32 bits cannot say."""
    if form.bits == 32 and max(segments[-1].end, end) > 1 << 32:
        raise UnsupportedError(
            "this guest's ELF core has 32 bits, and its memory lies beyond 4 GiB; "
            "--length exports a part of it, -O lime all of it"
        )


def _place(segments: Sequence[MemorySegment], start: int) -> tuple[Placed, ...]:
    placed = []
    for item in segments:
        placed.append(Placed(item, start))
        start += item.length
    return tuple(placed)


def _loads(placed: Sequence[Placed]) -> list[ProgramHeader]:
    return [
        ProgramHeader(
            elf.PT_LOAD,
            item.offset,
            item.segment.address,
            item.segment.address,
            item.segment.length,
        )
        for item in placed
    ]


def _inside(
    segments: Sequence[MemorySegment], mappings: Sequence[VirtualRange]
) -> list[VirtualRange]:
    """Cut mappings down to what is in the core."""
    view = _View(_place(segments, 0))
    return [
        VirtualRange(item.virtual + done, item.physical + done, length)
        for item in mappings
        for done, _, length in view.pieces(item.physical, item.length)
    ]


def _virtual_loads(placed: Sequence[Placed], inside: Sequence[VirtualRange]) -> list[ProgramHeader]:
    """Return headers for virtual addresses, over the same bytes of the file."""
    view = _View(placed)
    return [
        ProgramHeader(elf.PT_LOAD, offset, item.virtual, item.physical, length)
        for item in inside
        for _, offset, length in view.pieces(item.physical, item.length)
    ]


class _View:
    """Finds guest-physical addresses in the file."""

    def __init__(self, placed: Sequence[Placed]) -> None:
        self._placed = placed
        self._starts = [item.segment.address for item in placed]

    def pieces(self, address: int, length: int) -> Iterator[tuple[int, int, int]]:
        """Yield (distance from `address`, offset in the file, length) of what there is."""
        end = address + length
        number = max(bisect_right(self._starts, address) - 1, 0)
        while number < len(self._placed) and self._starts[number] < end:
            item = self._placed[number]
            first, last = max(address, item.segment.address), min(end, item.segment.end)
            if first < last:
                yield first - address, item.offset + first - item.segment.address, last - first
            number += 1


def _find_vmcoreinfo(
    output: OutputFile,
    placed: Sequence[Placed],
    told: vmcoreinfo.Announced | None,
    watch: Watch | None,
    findings: list[Finding],
) -> vmcoreinfo.VmcoreInfo | None:
    """Find VMCOREINFO in the pages as they were just written."""
    view = _View(placed)

    def read(address: int, length: int) -> bytes:
        parts = list(view.pieces(address, length))
        if sum(part[2] for part in parts) != length:
            raise AddressError(f"there is no memory at guest-physical address {address:#x}")
        return b"".join(output.file.read(count, offset) for _, offset, count in parts)

    def seen(hits: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        starts = [item.offset for item in placed]
        for offset in hits:
            item = placed[bisect_right(starts, offset) - 1]
            length = min(vmcoreinfo.MAX_NOTE, item.offset + item.segment.length - offset)
            data = output.file.read(length, offset)
            yield item.segment.address + offset - item.offset, data

    info = vmcoreinfo.from_device(read, told)
    if watch is None:
        return info
    hits = watch.hits
    if watch.full:
        findings.append(vmcoreinfo.too_many(len(hits)))
    return info or vmcoreinfo.choose(vmcoreinfo.notes_in(seen(hits)), findings)


# --- QEMU's layout ---


def plan_qemu_core(
    image: SaveImage, segments: Sequence[MemorySegment], findings: list[Finding]
) -> Plan:
    """Lay out a core as QEMU 10's dump-guest-memory does, to the byte.

    Parameters
    ----------
    image : SaveImage
        Of a guest of which QEMU makes cores.
    segments : sequence of MemorySegment
        Those that QEMU dumps, see `dumped_by_qemu`.
    findings : list of Finding
        Receives doubts.

    Returns
    -------
    Plan
        Its pages are not on page borders.

    Raises
    ------
    UnsupportedError
        If the stream does not tell all that QEMU would write.
    """
    _refuse_empty(segments)
    if has_virtio_pmem(image):
        raise UnsupportedError(
            "QEMU dumps the memory of the virtio-pmem device, too, which no image holds; the "
            "universal layout leaves it out"
        )
    cpus = image.guest.cpus
    form, make = _qemu_form(image, cpus, segments)
    kind = elf.class_of(form)
    notes = pack_notes(kind, make, cpus)
    told = vmcoreinfo.announced(image, findings)
    if told is not None:
        notes += vmcoreinfo.read_note(image.guest.physical.read, told) or b""
    notes_at = elf.qemu_head_length(kind, 1 + len(segments))
    start = notes_at + len(notes)
    placed = _place(segments, start)
    end = start + total(segments)
    _refuse_too_high(form, segments, end)
    note_header = ProgramHeader(elf.PT_NOTE, notes_at, 0, 0, len(notes))
    head, tail = elf.pack_qemu(form, [note_header, *_loads(placed)], end)
    pieces = ((0, head + notes), (end, tail))
    return Plan(placed, end + len(tail), pieces, aligned=False, cpus=len(cpus))


def _qemu_form(
    image: SaveImage, cpus: Sequence[Registers], segments: Sequence[MemorySegment]
) -> tuple[CoreForm, Callable[[Any], Sequence[CoreNote]]]:
    """Return how QEMU marks the core, and what makes its notes."""
    arch, first = image.guest.arch, cpus[0]
    if arch.form is None or arch.notes is None:
        raise UnsupportedError(
            f"savefmt does not know QEMU's own layout for {arch.name} guests; use the "
            "universal layout"
        )
    _refuse_mixed(cpus)
    form, make = arch.form(first), arch.notes
    if isinstance(first, X86Registers) and form.machine == x86.EM_386:
        make = x86.notes_32
        if segments[-1].end > 0xFFFF_FFFF:
            form = form._replace(bits=64)
    if isinstance(first, Arm64Registers) and arm64.has_scalable_vectors(first):
        raise UnsupportedError(
            "QEMU writes a note on SVE with the longest vector that the processor has, which "
            "the stream does not tell; the universal layout leaves that note out"
        )
    return form, make
