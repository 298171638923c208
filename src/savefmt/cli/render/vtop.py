"""What ``savefmt vtop`` prints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypedDict

from savefmt.cli.render.document import Hex, error_values
from savefmt.cli.render.failure import ErrorValues
from savefmt.cli.render.plain import brief_size, plain
from savefmt.errors import AddressError
from savefmt.guest.paging import Translation
from savefmt.model import PhysicalRange


class StepValues(TypedDict):
    """A table entry on the way."""

    name: str
    address: int
    entry: Hex


class TranslationValues(TypedDict):
    """Where an address leads; `block` and `offset` are null where no memory lies there."""

    virtual: Hex
    physical: int
    page_size: int
    writable: bool
    user: bool
    executable: bool
    steps: list[StepValues]
    block: str | None
    offset: int | None


class UnmappedValues(TypedDict):
    """An address without a page."""

    virtual: Hex
    error: ErrorValues


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


def translation_values(found: Translation, place: PhysicalRange | None) -> TranslationValues:
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


def unmapped_values(address: int, error: AddressError) -> UnmappedValues:
    """Turn an address without a page into what JSON can hold."""
    return {"virtual": hex(address), "error": error_values(error)}
