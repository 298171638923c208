"""Guest memory as text and as values for JSON: maps, dumps, translations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from savefmt.cli.render.common import brief_size, error_fields, plain
from savefmt.errors import AddressError, SavefmtError
from savefmt.frozen import asdict
from savefmt.guest.memorymap import MemoryMap
from savefmt.guest.paging import Translation
from savefmt.model import PhysicalRange

MAP_HEADING = (
    f"{'First':<18}{'Last':<18}{'Size':<10}{'Kind':<11}{'Block':<26}{'Offset':<14}Learned from"
)
_LINE = 16


def map_lines(memory_map: MemoryMap) -> Iterator[str]:
    """Show a memory map.

    Parameters
    ----------
    memory_map : MemoryMap
        Of the guest.

    Yields
    ------
    str
        One line a range, in the columns of `MAP_HEADING`, then the blocks outside of it.
    """
    yield MAP_HEADING
    for item in memory_map.ranges:
        learned = f"{item.source}: {item.detail}" if item.detail else item.source
        yield (
            f"{item.start:<#18x}{item.end - 1:<#18x}{brief_size(item.length):<10}"
            f"{item.kind:<11}{plain(item.block):<26}{item.offset:<#14x}{learned}"
        )
    for idstr, reason in memory_map.unplaced.items():
        yield f"not mapped: {plain(idstr)} ({reason})"


def map_fields(memory_map: MemoryMap) -> dict[str, Any]:
    """Turn a memory map into what JSON can hold."""
    return {
        "ranges": [asdict(item) for item in memory_map.ranges],
        "unplaced": dict(memory_map.unplaced),
        "findings": [asdict(finding) for finding in memory_map.findings],
    }


def hexdump(pieces: Iterable[bytes], address: int) -> Iterator[str]:
    """Show bytes in the form of ``hexdump -C``.

    Parameters
    ----------
    pieces : iterable of bytes
        In order.
    address : int
        Of the first byte.

    Yields
    ------
    str
        Sixteen bytes a line; lines like the one before are one ``*``; last the address
        behind the last byte.
    """
    before: bytes | None = None
    squeezed = False
    for line in _lines(pieces):
        if line == before and len(line) == _LINE:
            if not squeezed:
                yield "*"
            squeezed = True
        else:
            yield _hexdump_line(address, line)
            squeezed = False
        before = line
        address += len(line)
    if before is not None:
        yield f"{address:08x}"


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    held = b""
    try:
        for piece in pieces:
            held += piece
            whole = len(held) // _LINE * _LINE
            for at in range(0, whole, _LINE):
                yield held[at : at + _LINE]
            held = held[whole:]
    except SavefmtError:
        if held:  # what came before the error gets shown
            yield held
        raise
    if held:
        yield held


def _hexdump_line(address: int, line: bytes) -> str:
    left, right = line[:8].hex(" "), line[8:].hex(" ")
    text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in line)
    return f"{address:08x}  {left:<23}  {right:<23}  |{text}|"


def translation_lines(found: Translation, place: PhysicalRange | None) -> Iterator[str]:
    """Show where a virtual address leads, and on which way.

    Parameters
    ----------
    found : Translation
        The walk.
    place : PhysicalRange or None
        Where the physical address lies.

    Yields
    ------
    str
        The result, then one line a step.
    """
    where = "no memory lies there"
    if place is not None:
        where = f"{plain(place.block)} + {place.offset + found.physical - place.start:#x}"
    page = f"page of {brief_size(found.page_size)}" if found.page_size else "no paging"
    rights = "".join(
        letter
        for letter, granted in (
            ("r", True),
            ("w", found.writable),
            ("x", found.executable),
            ("u", found.user),
        )
        if granted
    )
    yield f"{found.virtual:#x} -> {found.physical:#x} ({page}, {rights}), {where}"
    for step in found.steps:
        yield f"  {step.name:<14} at {step.address:#x} is {step.entry:#x}"


def translation_fields(found: Translation, place: PhysicalRange | None) -> dict[str, Any]:
    """Turn a translation into what JSON can hold; the parameters are as above."""
    return {
        "virtual": hex(found.virtual),
        "physical": found.physical,
        "page_size": found.page_size,
        "writable": found.writable,
        "user": found.user,
        "executable": found.executable,
        "steps": [
            {"name": step.name, "address": step.address, "entry": hex(step.entry)}
            for step in found.steps
        ],
        "block": place.block if place is not None else None,
        "offset": place.offset + found.physical - place.start if place is not None else None,
    }


def unmapped_fields(address: int, error: AddressError) -> dict[str, Any]:
    """Turn an address without a page into what JSON can hold."""
    return {"virtual": hex(address), "error": error_fields(error)}
