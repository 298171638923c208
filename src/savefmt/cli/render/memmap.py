"""What ``savefmt memmap`` prints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypedDict

from savefmt.cli.render.plain import brief_size, plain
from savefmt.guest.memorymap import MemoryMap
from savefmt.model import Finding, PhysicalRange

HEADING = (
    f"{'First':<18}{'Last':<18}{'Size':<10}{'Kind':<11}{'Block':<26}{'Offset':<14}Learned from"
)


class MemoryMapValues(TypedDict):
    """Where blocks lie, which ones lie nowhere and why, and what is in doubt."""

    ranges: tuple[PhysicalRange, ...]
    unplaced: dict[str, str]
    findings: tuple[Finding, ...]


def map_lines(memory_map: MemoryMap) -> Iterator[str]:
    """Show a memory map.

    Parameters
    ----------
    memory_map : MemoryMap
        Of the guest.

    Yields
    ------
    str
        One line a range, in the columns of `HEADING`, then the blocks outside of it.
    """
    yield HEADING
    for item in memory_map.ranges:
        learned = f"{item.source}: {item.detail}" if item.detail else item.source
        yield (
            f"{item.start:<#18x}{item.end - 1:<#18x}{brief_size(item.length):<10}"
            f"{item.kind:<11}{plain(item.block):<26}{item.offset:<#14x}{plain(learned)}"
        )
    for idstr, reason in memory_map.unplaced.items():
        yield f"not mapped: {plain(idstr)} ({plain(reason)})"


def map_values(memory_map: MemoryMap) -> MemoryMapValues:
    """Turn a memory map into what JSON can hold."""
    return {
        "ranges": memory_map.ranges,
        "unplaced": dict(memory_map.unplaced),
        "findings": memory_map.findings,
    }
