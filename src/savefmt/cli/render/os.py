"""What ``savefmt os`` prints."""

from __future__ import annotations

from collections.abc import Iterator

from savefmt.cli.render.plain import plain
from savefmt.scan.results import SystemHint

_TITLES = {"linux": "Linux", "windows": "Windows"}


def system_lines(hint: SystemHint) -> Iterator[str]:
    """Tell which system a guest runs, then what that rests on.

    Parameters
    ----------
    hint : SystemHint
        What `savefmt.scan.system.identify` returned.

    Yields
    ------
    str
        One line.
    """
    yield f"system:       {_TITLES.get(hint.system or '', 'unknown')}"
    if hint.version:
        yield f"version:      {plain(hint.version)}"
    if hint.kaslr_shift is not None:
        yield f"KASLR shift:  {hint.kaslr_shift:#x}"
    if hint.kernel_base is not None:
        yield f"kernel base:  {hint.kernel_base:#x}"
    for note in hint.notes:
        yield f"note:         {plain(note)}"
    for mark in hint.evidence:
        physical = ",".join(map(hex, mark.physical)) or "-"
        yield f"{mark.kind} at {plain(mark.block)}+{mark.offset:#x} p={physical}"
        yield f"  {plain(mark.value)}"
        for name, value in mark.detail:
            yield f"  {plain(name)}: {plain(value)}"
