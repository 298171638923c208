"""LiME: each range of memory behind a header of 32 bytes (LiME's format, version 1)."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from savefmt.errors import ConversionError
from savefmt.export.placing import Placed
from savefmt.export.plans import Plan
from savefmt.export.stretches import MemorySegment

_HEADER = struct.Struct("<IIQQ8x")
_MAGIC = 0x4C694D45
_VERSION = 1


def plan_lime(segments: Sequence[MemorySegment]) -> Plan:
    """Lay out a LiME file.

    Parameters
    ----------
    segments : sequence of MemorySegment
        Ascending.

    Returns
    -------
    Plan
        Its pages are not on page borders.

    Raises
    ------
    ConversionError
        If there is nothing to write.
    """
    if not segments:
        raise ConversionError(
            "there is no memory at these addresses; savefmt memmap shows where it is"
        )
    at = 0
    placed, pieces = [], []
    for item in segments:
        pieces.append((at, _HEADER.pack(_MAGIC, _VERSION, item.address, item.end - 1)))
        at += _HEADER.size
        placed.append(Placed(item, at))
        at += item.length
    return Plan(tuple(placed), at, tuple(pieces), aligned=False)
