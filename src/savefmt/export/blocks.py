"""One file for each RAM block, in a folder."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from savefmt.errors import ConversionError, ImageIOError
from savefmt.export.placing import Placed, Written, write_pages
from savefmt.export.stretches import MemorySegment, absent
from savefmt.image import SaveImage
from savefmt.model import Finding, IOOptions, Layout
from savefmt.native.file import File
from savefmt.progress import Meter
from savefmt.writing.output import OutputFile, sync_folder

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
    """Return all blocks whose content the image holds, as if each began at address 0."""
    found = []
    for number, block in enumerate(image.head.blocks.blocks):
        if block.ignored:
            findings.append(absent(block.idstr))
        elif block.used_length:
            found.append(MemorySegment(0, number, 0, block.page_count, block.page_size, "block"))
    return found


def check_folder(target: str, *, overwrite: bool) -> None:
    """Refuse a target that may not be written.

    Raises
    ------
    ConversionError
        If it is no folder, or exists without `overwrite`.
    ImageIOError
        If the folder around it does not exist.
    """
    path = Path(target)
    if path.exists() or path.is_symlink():
        if not path.is_dir():
            raise ConversionError("the target is not a folder; blocks need one", path=target)
        if not overwrite:
            raise ConversionError(
                "the target exists; --force replaces files of the same names in it", path=target
            )
    elif not path.resolve().parent.is_dir():
        raise ImageIOError("the folder does not exist; make it first", errno=2, path=target)


def export_blocks(
    image: SaveImage,
    target: str,
    segments: Sequence[MemorySegment],
    io: IOOptions,
    meter: Meter,
    findings: list[Finding],
    check: Callable[[], None],
) -> tuple[Written, list[Path]]:
    """Write one file a block; they appear together when all are whole.

    Parameters
    ----------
    image : SaveImage
        In any form.
    target : str
        The folder.
    segments : sequence of MemorySegment
        As `whole_blocks` gave them.
    io, meter
        As everywhere.
    findings : list of Finding
        Receives what the image turns out not to hold.
    check : callable
        Called before the files appear; what it raises keeps them from it.

    Returns
    -------
    (Written, list of Path)
        What went there, and the files.
    """
    idstrs = [block.idstr for block in image.head.blocks.blocks]
    names = file_names([idstrs[segment.block] for segment in segments])
    folder = Path(os.path.realpath(target))
    try:
        with _beside(folder) as place:
            if image.layout is Layout.MAPPED_RAM:
                written = _move(image, place, segments, names, io, meter, findings)
            else:
                written = _spool(image, place, segments, names, io, meter, findings)
            check()
            _publish(place, folder, names)
    except OSError as error:
        if isinstance(error, ImageIOError):
            raise
        raise ImageIOError.from_os(error, path=target) from error
    return written, [folder / name for name in names]


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """Make a folder for the time being, and remove it in the end."""
    place = folder.parent / f".{folder.name[:_NAME_LIMIT]}.savefmt-{secrets.token_hex(4)}"
    place.mkdir(mode=0o700)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _publish(place: Path, folder: Path, names: Sequence[str]) -> None:
    if not folder.exists():
        os.rename(place, folder)
        sync_folder(folder.parent)
        return
    for name in names:
        os.replace(place / name, folder / name)
    sync_folder(folder)


def _move(
    image: SaveImage,
    place: Path,
    segments: Sequence[MemorySegment],
    names: Sequence[str],
    io: IOOptions,
    meter: Meter,
    findings: list[Finding],
) -> Written:
    present = cloned = 0
    for segment, name in zip(segments, names, strict=True):
        with OutputFile(place / name, overwrite=False, direct=False, engine=io.engine) as output:
            output.set_length(segment.length)
            part = [Placed(segment, 0)]
            written = write_pages(image, output.file, part, io, meter, findings)
            output.commit()
        present, cloned = present + written.present, cloned + written.cloned
    return Written(present, cloned)


def _spool(
    image: SaveImage,
    place: Path,
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
    with tempfile.TemporaryFile(dir=place) as spool:
        os.ftruncate(spool.fileno(), end)  # which goes on after a signal
        with File(spool.fileno(), path=place, write=True, engine=io.engine) as file:
            written = write_pages(image, file, placed, io, meter, findings)
            for item, name in zip(placed, names, strict=True):
                with OutputFile(
                    place / name, overwrite=False, direct=False, engine=io.engine
                ) as output:
                    output.set_length(item.segment.length)
                    _copy(file, item, output)
                    output.commit()
    return written


def _copy(spool: File, item: Placed, output: OutputFile) -> None:
    for start, length in spool.extents(item.offset, item.offset + item.segment.length):
        for offset in range(start, start + length, _COPY_LENGTH):
            count = min(_COPY_LENGTH, start + length - offset)
            output.file.write(spool.read(count, offset), offset - item.offset)
