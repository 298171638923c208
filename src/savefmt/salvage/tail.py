"""Device sections behind damage: by the description at the end, or one after the other."""

from __future__ import annotations

from contextlib import suppress

from savefmt.errors import FormatError, UnsupportedError
from savefmt.format import ram
from savefmt.format.cursor import FileCursor
from savefmt.format.stream import ItemReader, SectionHead
from savefmt.format.vmstate import Description, find_at_end
from savefmt.format.wire import ItemType, encode_name
from savefmt.salvage.damage import Device, Tail
from savefmt.salvage.readable import Readable

_FOOTER_LENGTH = 5
_DESCRIPTION_HEAD = 5
_LOOK = 4 << 20
"""How far to look for the footer of a section whose length nothing tells."""

_LONGEST_HEAD = 1 + 4 + 1 + 255 + 8
_MOST_SECTIONS = 1 << 16


def find_tail(source: Readable, at: int, *, footers: bool, early: frozenset[str]) -> Tail:
    """Find the device sections behind RAM.

    Parameters
    ----------
    source : Readable
        The file.
    at : int
        Where the walk stopped; what is before is not looked at.
    footers : bool
        Whether sections end in one.
    early : frozenset of str
        Names of sections that came before RAM.

    Returns
    -------
    Tail
        What survived.
    """
    description = None
    with suppress(FormatError):
        description = find_at_end(source.pread, source.length)
    if description is not None and description.offset > at:
        return _by_description(source, at, description, footers, early)
    if not footers:
        return Tail((), (), whole=False, description=None)
    return _forward(source, at)


def _by_description(
    source: Readable, at: int, description: Description, footers: bool, early: frozenset[str]
) -> Tail:
    """Go back from the EOF mark: the description tells all lengths."""
    place = description.offset - 1
    found: list[Device] = []
    missing: list[str] = []
    for (idstr, instance), length in reversed(list(description.sections.items())):
        if idstr in early or idstr == ram.IDSTR:
            continue
        end = place
        name = encode_name(idstr)
        place -= 1 + 4 + 1 + len(name) + 8 + length + (_FOOTER_LENGTH if footers else 0)
        if place >= at and _is_section(source, place, end, (idstr, instance), length, footers):
            found.append(Device(place, end))
        else:
            missing.append(idstr)
    mark = description.offset - 1
    whole = not missing and source.pread(1, mark) == b"\0"
    end = description.offset + _DESCRIPTION_HEAD + len(description.raw)
    bad = source.bad.overlap(description.offset, end)
    span = None if bad else (description.offset, end)
    return Tail(tuple(reversed(found)), tuple(reversed(missing)), whole, span)


def _is_section(
    source: Readable, start: int, end: int, key: tuple[str, int], length: int, footers: bool
) -> bool:
    if source.bad.overlap(start, end):
        return False
    reader = ItemReader(FileCursor(source.pread, start, end))
    reader.has_footers = footers
    try:
        head = reader.next_item()
        if not isinstance(head, SectionHead) or head.kind is not ItemType.FULL:
            return False
        if (head.idstr, head.instance_id) != key:
            return False
        reader.cursor.skip(length)
        reader.finish_section(head)
    except (FormatError, UnsupportedError):
        return False
    return reader.cursor.tell() == end


def _forward(source: Readable, at: int) -> Tail:
    """Take sections as long as each ends in its footer with another head behind it."""
    found: list[Device] = []
    for _ in range(_MOST_SECTIONS):
        head = _head_at(source, at)
        if head is None:
            break
        end = _end_of(source, head)
        if end is None:
            return Tail(tuple(found), (head.idstr,), whole=False, description=None)
        if not source.bad.overlap(at, end):
            found.append(Device(at, end))
        at = end
    return Tail(tuple(found), (), whole=False, description=None)


def _head_at(source: Readable, at: int) -> SectionHead | None:
    reader = ItemReader(FileCursor(source.pread, at, source.length))
    try:
        head = reader.next_item()
    except (FormatError, UnsupportedError):
        return None
    if not isinstance(head, SectionHead) or head.kind is not ItemType.FULL:
        return None
    return head if head.idstr.isprintable() and head.idstr != ram.IDSTR else None


def _end_of(source: Readable, head: SectionHead) -> int | None:
    """Return where a section ends, by its footer and what begins behind it."""
    footer = head.pack_footer()
    start = head.offset + len(head.pack())
    data = source.pread(_LOOK + _LONGEST_HEAD, start)
    at = data.find(footer)
    while at >= 0:
        behind = start + at + len(footer)
        if data[at + len(footer) : at + len(footer) + 1] == b"\0" or _head_at(source, behind):
            return behind
        at = data.find(footer, at + 1)
    return None
