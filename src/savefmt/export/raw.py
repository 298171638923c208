"""Raw memory: the offset in the file is the guest-physical address."""

from __future__ import annotations

from collections.abc import Sequence

from savefmt.errors import ConversionError
from savefmt.export.placing import Placed
from savefmt.export.plans import Plan
from savefmt.export.stretches import MemorySegment
from savefmt.model import Finding, Severity

_RAM = ("ram", "dimm", "virtio-mem")


def plan_raw(
    segments: Sequence[MemorySegment], window: range | None, findings: list[Finding]
) -> Plan:
    """Lay out raw memory.

    Without a window the file ends where RAM does; memory of devices and firmware beyond,
    such as the BIOS below 4 GiB of a small guest, is left out.

    Parameters
    ----------
    segments : sequence of MemorySegment
        All of the guest's, or those in the window.
    window : range or None
        The addresses that are wanted.
    findings : list of Finding
        Receives what is left out.

    Returns
    -------
    Plan
        With holes where nothing lies.

    Raises
    ------
    ConversionError
        If there is nothing to write.
    """
    start = window.start if window is not None else 0
    end = max((item.end for item in segments if item.kind in _RAM), default=0)
    if window is not None:
        last = max((item.end for item in segments), default=0)
        end = last if window.stop >= 1 << 64 else window.stop
    kept = [item for item in segments if item.end <= end]
    if not kept:
        raise ConversionError(
            "there is no memory at these addresses; savefmt memmap shows where it is"
        )
    beyond = len(segments) - len(kept)
    if beyond:
        findings.append(
            Finding(
                "export.beyond",
                Severity.NOTE,
                f"firmware or device memory above the end of RAM, {end:#x}, is left out; "
                "--start and --length take it",
            )
        )
    placed = tuple(Placed(item, item.address - start) for item in kept)
    return Plan(placed, end - start)
