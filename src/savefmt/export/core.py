"""ELF cores of a guest: the layout that all tools take, and QEMU's own."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence

from savefmt.errors import AddressError, ConversionError, SavefmtError, UnsupportedError
from savefmt.export import elf, vmcoreinfo
from savefmt.export.elf import ELF32, ELF64, ProgramHeader
from savefmt.export.kernel import Mapping
from savefmt.export.notes import pack_qemu_state, pack_status
from savefmt.export.placing import Placed
from savefmt.export.plans import Plan
from savefmt.export.stretches import Segment, total
from savefmt.guest.registers import HFLAGS_LONG_MODE, Registers, X86Registers
from savefmt.image import SaveImage
from savefmt.model import Finding, PhysicalRange, Severity
from savefmt.native.pages import Watch
from savefmt.writing.output import OutputFile

_ALIGN = 4096
# QEMU dumps what is RAM to it: not flash, nor memory that outlives the machine.
_NOT_DUMPED = re.compile(r"(system|virt|sbsa)\.flash\d|memnvdimm\d+")


def dumped_by_qemu(item: PhysicalRange) -> bool:
    """Whether QEMU's dump-guest-memory takes a range."""
    return _NOT_DUMPED.fullmatch(item.block) is None


def read_cpus(image: SaveImage, findings: list[Finding]) -> tuple[Registers, ...]:
    """Return the vCPUs; none, with a finding, where they cannot be read."""
    try:
        return image.guest.cpus
    except SavefmtError as error:
        findings.append(
            Finding(
                "export.registers",
                Severity.WARNING,
                f"{error.message}; the core has no registers",
            )
        )
        return ()


# --- the universal layout ---


def plan_core(
    image: SaveImage,
    segments: Sequence[Segment],
    mappings: Sequence[Mapping],
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
    segments : sequence of Segment
        Ascending.
    mappings : sequence of (int, int, int)
        Virtual addresses to offer besides the guest-physical ones.
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
    cpus = read_cpus(image, findings)
    machine = _machine(cpus)
    notes = pack_status(cpus) + pack_qemu_state(cpus)
    inside = _inside(segments, mappings)
    notes_at = elf.head_length(1 + len(segments) + len(inside))
    # Room for a VMCOREINFO of two pages: Linux takes one.
    room = 2 * _ALIGN if machine == elf.EM_X86_64 else vmcoreinfo.MAX_LENGTH + _ALIGN
    placed = _place(segments, -(-(notes_at + len(notes) + room) // _ALIGN) * _ALIGN)
    headers = _loads(placed) + _virtual_loads(placed, inside)
    end = placed[-1].offset + placed[-1].segment.length
    told = vmcoreinfo.announced(image, findings)
    watch = vmcoreinfo.watch()

    def finish(output: OutputFile, findings: list[Finding]) -> str | None:
        info = _find_vmcoreinfo(output, placed, told, watch, findings)
        whole = notes
        if info is not None:
            note = elf.pack_note(vmcoreinfo.NAME, 0, info.text)
            if notes_at + len(notes) + len(note) > placed[0].offset:
                raise ConversionError(
                    f"the VMCOREINFO at {info.address:#x} takes {len(info.text)} bytes, "
                    "more than any kernel's; the memory of this guest was tampered with"
                )
            whole += note
        note_header = ProgramHeader(elf.PT_NOTE, notes_at, 0, 0, len(whole))
        output.file.write(elf.pack_head(machine, [note_header, *headers]) + whole, 0)
        return info.source if info is not None else None

    return Plan(placed, end, cpus=len(cpus), watch=watch, finish=finish)


def _refuse_empty(segments: Sequence[Segment]) -> None:
    if not segments:
        raise ConversionError("no memory lies in these addresses; savefmt memmap shows where it is")


def _machine(cpus: Sequence[Registers]) -> int:
    if not cpus or isinstance(cpus[0], X86Registers):
        return elf.EM_X86_64
    return elf.EM_AARCH64


def _place(segments: Sequence[Segment], start: int) -> tuple[Placed, ...]:
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


def _inside(segments: Sequence[Segment], mappings: Sequence[Mapping]) -> list[Mapping]:
    """Cut mappings down to what is in the core."""
    view = _View(_place(segments, 0))
    return [
        (virtual + done, physical + done, length)
        for virtual, physical, whole in mappings
        for done, _, length in view.pieces(physical, whole)
    ]


def _virtual_loads(placed: Sequence[Placed], inside: Sequence[Mapping]) -> list[ProgramHeader]:
    """Return headers for virtual addresses, over the same bytes of the file."""
    view = _View(placed)
    return [
        ProgramHeader(elf.PT_LOAD, offset, virtual, physical, length)
        for virtual, physical, whole in inside
        for _, offset, length in view.pieces(physical, whole)
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
    watch: Watch,
    findings: list[Finding],
) -> vmcoreinfo.VmcoreInfo | None:
    """Find VMCOREINFO in the pages as they were just written."""
    view = _View(placed)

    def read(address: int, length: int) -> bytes:
        parts = list(view.pieces(address, length))
        if sum(part[2] for part in parts) != length:
            raise AddressError(f"no memory at guest-physical address {address:#x}")
        return b"".join(output.file.read(count, offset) for _, offset, count in parts)

    def seen() -> Iterator[tuple[int, bytes]]:
        starts = [item.offset for item in placed]
        for offset in watch.hits:
            item = placed[bisect_right(starts, offset) - 1]
            length = min(vmcoreinfo.MAX_NOTE, item.offset + item.segment.length - offset)
            data = output.file.read(length, offset)
            yield item.segment.address + offset - item.offset, data

    if watch.full:
        findings.append(vmcoreinfo.too_many(len(watch.hits)))
    info = vmcoreinfo.from_device(read, told)
    return info or vmcoreinfo.choose(vmcoreinfo.notes_in(seen()), findings)


# --- QEMU's layout ---


def plan_qemu_core(image: SaveImage, segments: Sequence[Segment], findings: list[Finding]) -> Plan:
    """Lay out a core as QEMU 10's dump-guest-memory does, to the byte.

    Parameters
    ----------
    image : SaveImage
        Of an x86 guest.
    segments : sequence of Segment
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
        If the guest is none of x86.
    """
    _refuse_empty(segments)
    cpus = image.guest.cpus
    first = cpus[0]
    if not isinstance(first, X86Registers):
        raise UnsupportedError("QEMU's own layout is known for x86 guests only")
    long_mode = bool(first.hflags & HFLAGS_LONG_MODE)
    wide = long_mode or segments[-1].end > 0xFFFF_FFFF
    form = ELF64 if wide else ELF32
    machine = elf.EM_X86_64 if long_mode else elf.EM_386
    notes = pack_status(cpus, wide=long_mode) + pack_qemu_state(cpus)
    told = vmcoreinfo.announced(image, findings)
    if told is not None:
        notes += vmcoreinfo.read_note(image.guest.physical.read, told) or b""
    notes_at = elf.qemu_head_length(form, 1 + len(segments))
    start = notes_at + len(notes)
    placed = _place(segments, start)
    end = start + total(segments)
    note_header = ProgramHeader(elf.PT_NOTE, notes_at, 0, 0, len(notes))
    head, tail = elf.pack_qemu(form, machine, [note_header, *_loads(placed)], end)
    pieces = ((0, head + notes), (end, tail))
    return Plan(placed, end + len(tail), pieces, aligned=False, cpus=len(cpus))
