"""Reads what QEMU's human monitor prints about memory and registers."""

from __future__ import annotations

import re
from collections.abc import Iterable

from savefmt.model import PhysicalRange

Span = tuple[int, int, str, int]
"""First address, the one behind the last, the block's own name, offset in the block."""

_LINE = re.compile(
    r"^  ([0-9a-f]{16})-([0-9a-f]{16}) \(prio -?\d+, (ram|rom|romd|nv-ram)\): "
    r"(\S+?)(?: @([0-9a-f]+))?$",
    re.MULTILINE,
)


def memory_spans(listing: str) -> list[Span]:
    """Return what ``info mtree -f`` has as memory in the address space of the vCPUs."""
    views = [
        view for view in listing.replace("\r", "").split("FlatView #")[1:] if 'AS "memory"' in view
    ]
    spans = [
        (int(m[1], 16), int(m[2], 16) + 1, m[4], int(m[5] or "0", 16))
        for m in _LINE.finditer(views[0])
    ]
    return join(spans)


def map_spans(ranges: Iterable[PhysicalRange]) -> list[Span]:
    """Return a memory map in the same form."""
    return join((r.start, r.end, r.block.rpartition("/")[2], r.offset) for r in ranges)


def dimm_places(spans: Iterable[Span]) -> dict[str, int]:
    """Return where the DIMMs lie, by libvirt's names of their memory."""
    return {name: start for start, _, name, _ in spans if name.startswith("memdimm")}


def join(spans: Iterable[Span]) -> list[Span]:
    """Put neighbours together that QEMU keeps apart, as it does RAM from read-only RAM."""
    joined: list[Span] = []
    for start, end, name, offset in spans:
        if joined:
            first, last, block, begin = joined[-1]
            if (last, block, begin + last - first) == (start, name, offset):
                joined[-1] = (first, end, block, begin)
                continue
        joined.append((start, end, name, offset))
    return joined


def register_blocks(listing: str) -> list[list[str]]:
    """Return the lines of ``info registers -a``, one list a vCPU."""
    blocks = [block.strip("\r\n") for block in listing.replace("\r", "").split("CPU#")[1:]]
    return [[line.rstrip() for line in f"CPU#{block}".splitlines() if line] for block in blocks]


def physical_address(answer: str) -> int | None:
    """Return what ``gva2gpa`` found, None if the address is not mapped."""
    match = re.search(r"gpa: (0x[0-9a-f]+|0)\b", answer)
    return int(match[1], 16) if match else None
