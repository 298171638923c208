"""What the commands print about a damaged image that was salvaged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from savefmt.cli.render.plain import many, plain, size
from savefmt.model import Damage, Salvage

if TYPE_CHECKING:  # `savefmt info` shows sound images
    from savefmt.salvage.rescue import Rescue

_MOST_SHOWN = 8


def remarks(report: Salvage) -> Iterator[str]:
    """Say in a few sentences what was recovered and what was not.

    Parameters
    ----------
    report : Salvage
        Of one image.

    Yields
    ------
    str
        One sentence.
    """
    if report.sound:
        yield "no damage was found, so nothing was left out"
        return
    yield f"{share(report)} of the guest's memory was recovered"
    for damage in report.damages[:_MOST_SHOWN]:
        yield damage_line(damage)
    if len(report.damages) > _MOST_SHOWN:
        yield f"and {len(report.damages) - _MOST_SHOWN} more damaged parts"
    for block in report.blocks:
        if block.lost:
            yield f"lost: {block.lost} of {many(block.pages, 'page')} of {block.idstr!r}"
    if report.unlisted:
        yield f"{size(report.unlisted)} of memory are lost with the very names of their blocks"
    if not report.devices_whole:
        named = ", ".join(map(repr, report.missing_devices[:_MOST_SHOWN]))
        yield "device sections are lost" + (f", {named} among them" if named else "")
    yield from report.notes


def salvage_lines(report: Salvage) -> Iterator[str]:
    """Tell the same as a part of ``savefmt info``."""
    label = "salvaged:"
    for line in remarks(report):
        yield f"{label:<15}{line}"
        label = ""


def share(report: Salvage) -> str:
    """Return how much was recovered; never 100 % where something is lost."""
    percent = int(report.share * 1000) / 10
    return f"{percent:g} %"


def damage_line(damage: Damage) -> str:
    """Say what is wrong with a part of the file."""
    where = f"from {damage.offset:#x} to {damage.end:#x}"
    words = {"cut": "the file was cut short", "unreadable": "unreadable", "listed": "not copied"}
    if damage.offset < 0:
        where = f"the first {-damage.offset:#x} bytes"
    return f"{where}: {words.get(damage.kind, damage.kind)}: {damage.message}"


def lost_lines(rescue: Rescue) -> Iterator[str]:
    """List what is lost: block, offset of the first byte, length."""
    size = rescue.page_size
    for block in rescue.report.blocks:
        for first, end in rescue.lost(block.idstr):
            yield f"{plain(block.idstr)} {first * size:#x} {(end - first) * size:#x}\n"
