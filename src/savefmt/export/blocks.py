"""One file for each RAM block, in a folder."""

from __future__ import annotations

import re
from collections.abc import Sequence

from savefmt.export.placing import Placed, Written, write_pages
from savefmt.export.stretches import MemorySegment, absent, note_lost
from savefmt.image import SaveImage
from savefmt.model import Finding, IOOptions, Layout
from savefmt.progress import Meter
from savefmt.writing.outfolder import OutputFolder
from savefmt.writing.output import OutputFile

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
_NAME_LIMIT = 200
_SPOOL_ALIGN = 1 << 20
_COPY_LENGTH = 64 << 20


def file_names(names: Sequence[str], suffix: str = ".bin") -> list[str]:
    """Return a file name for each idstr: safe, none hidden, all different.

    Parameters
    ----------
    names : sequence of str
        What the image says; it may say anything.
    suffix : str
        Added to each.

    Returns
    -------
    list of str
        In the same order, such as ``0000_00_02.0_vga.vram.bin``.
    """
    made: list[str] = []
    taken: set[str] = set()
    for idstr in names:
        stem = _UNSAFE.sub("_", idstr)[:_NAME_LIMIT].lstrip(".") or "_"
        name, number = f"{stem}{suffix}", 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}{suffix}"
        taken.add(name.casefold())
        made.append(name)
    return made


def whole_blocks(image: SaveImage, findings: list[Finding]) -> list[MemorySegment]:
    """Return all blocks whose content the image holds, each as beginning at address 0."""
    found = []
    for number, block in enumerate(image.head.blocks.blocks):
        if block.ignored:
            findings.append(absent(block.idstr))
        elif block.used_length:
            found.append(MemorySegment(0, number, 0, block.page_count, block.page_size, "block"))
    note_lost(image, findings)
    return found


def export_blocks(
    image: SaveImage,
    folder: OutputFolder,
    segments: Sequence[MemorySegment],
    io: IOOptions,
    meter: Meter,
    findings: list[Finding],
) -> tuple[Written, list[str]]:
    """Write one file a block.

    Parameters
    ----------
    image : SaveImage
        In any form.
    folder : OutputFolder
        Takes them.
    segments : sequence of MemorySegment
        As `whole_blocks` gave them.
    io, meter
        As everywhere.
    findings : list of Finding
        Receives what the image turns out not to hold.

    Returns
    -------
    (Written, list of str)
        What went there, and the names of the files.
    """
    idstrs = [block.idstr for block in image.head.blocks.blocks]
    names = file_names([idstrs[segment.block] for segment in segments])
    write = _move if image.layout is Layout.MAPPED_RAM else _spool
    written = write(image, folder, segments, names, io, meter, findings)
    return written, names


def _move(
    image: SaveImage,
    folder: OutputFolder,
    segments: Sequence[MemorySegment],
    names: Sequence[str],
    io: IOOptions,
    meter: Meter,
    findings: list[Finding],
) -> Written:
    present = cloned = 0
    for segment, name in zip(segments, names, strict=True):
        with folder.file(name, engine=io.engine) as output:
            output.set_length(segment.length)
            part = [Placed(segment, 0)]
            written = write_pages(image, output.file, part, io, meter, findings)
            output.commit()
        present, cloned = present + written.present, cloned + written.cloned
    return Written(present, cloned)


def _spool(
    image: SaveImage,
    folder: OutputFolder,
    segments: Sequence[MemorySegment],
    names: Sequence[str],
    io: IOOptions,
    meter: Meter,
    findings: list[Finding],
) -> Written:
    """Scatter a stream into one file, then part that: the stream jumps between blocks."""
    placed, end = [], 0
    for segment in segments:
        placed.append(Placed(segment, end))
        end += -(-segment.length // _SPOOL_ALIGN) * _SPOOL_ALIGN
    with folder.scratch(engine=io.engine) as spool:
        spool.set_length(end)
        written = write_pages(image, spool.file, placed, io, meter, findings)
        for item, name in zip(placed, names, strict=True):
            with folder.file(name, engine=io.engine) as output:
                output.set_length(item.segment.length)
                _copy(spool, item, output)
                output.commit()
    return written


def _copy(spool: OutputFile, item: Placed, output: OutputFile) -> None:
    for start, length in spool.file.extents(item.offset, item.offset + item.segment.length):
        for offset in range(start, start + length, _COPY_LENGTH):
            count = min(_COPY_LENGTH, start + length - offset)
            output.file.write(spool.file.read(count, offset), offset - item.offset)
