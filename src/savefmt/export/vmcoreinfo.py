"""VMCOREINFO: what a Linux kernel tells dump tools about itself.

The kernel keeps it as an ELF note, at the start of a page of its own.  It gives the address
to QEMU's vmcoreinfo device where there is one; else the note is found by its name.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator

from savefmt.errors import AddressError, UnsupportedError
from savefmt.frozen import dataclass
from savefmt.guest.needs import read_tree
from savefmt.image import SaveImage
from savefmt.model import Finding, Severity
from savefmt.native.pages import Watch

NAME = b"VMCOREINFO"
MAX_LENGTH = 64 << 10
"""Of the text; Linux has 4 KiB for it, or a page where pages are larger."""

MAX_NOTE = MAX_LENGTH + 24
"""Of the note that the text is in."""

_MAX_ANNOUNCED = 1 << 20
_ELF_FORMAT = 1
_HEAD = struct.Struct("<III")
_HEAD_BIG = struct.Struct(">III")
_NAME_AT = _HEAD.size
_PIECE = 1 << 20

Read = Callable[[int, int], bytes]
"""``read(address, length)`` returns guest-physical memory or raises AddressError."""


@dataclass(frozen=True, slots=True)
class VmcoreInfo:
    """What was found.

    Attributes
    ----------
    text : bytes
        Lines of ``KEY=value``.
    address : int
        Guest-physical, of the note.
    source : str
        ``device`` or ``memory``.
    """

    text: bytes
    address: int
    source: str


@dataclass(frozen=True, slots=True)
class Announced:
    """What the guest told the vmcoreinfo device: where its note lies."""

    address: int
    length: int


def announced(image: SaveImage, findings: list[Finding]) -> Announced | None:
    """Return what the vmcoreinfo device says, None where nobody told it anything."""
    tree = read_tree(image, "vmcoreinfo", findings=findings)
    if tree is None or not tree.number("has_vmcoreinfo"):
        return None
    kind = tree.number("vmcoreinfo.guest_format")
    address, length = tree.number("vmcoreinfo.paddr"), tree.number("vmcoreinfo.size")
    if kind != _ELF_FORMAT or address is None or length is None:
        return None
    if not _HEAD.size <= length <= _MAX_ANNOUNCED:
        return None
    return Announced(address, length)


def read_note(read: Read, place: Announced) -> bytes | None:
    """Return the whole note as it is in memory, None if it makes no sense."""
    try:
        data = read(place.address, place.length)
    except (AddressError, UnsupportedError):
        return None
    name_length, length, _ = _read_head(data)
    whole = _HEAD.size + _padded(name_length) + _padded(length)
    return data[:whole] if whole <= place.length else None


def from_device(read: Read, place: Announced | None) -> VmcoreInfo | None:
    """Read what the vmcoreinfo device points at.

    Parameters
    ----------
    read : callable
        Reads guest-physical memory.
    place : Announced or None
        What the device says.

    Returns
    -------
    VmcoreInfo or None
        None where no such note lies there.
    """
    note = read_note(read, place) if place is not None else None
    if note is None or place is None:
        return None
    text = _text_of(note)
    return VmcoreInfo(text, place.address, "device") if text is not None else None


def watch() -> Watch:
    """Return what notes the pages that VMCOREINFO may begin while they are written."""
    return Watch(_NAME_AT, NAME + b"\0")


def notes_in(places: Iterable[tuple[int, bytes]]) -> Iterator[VmcoreInfo]:
    """Tell the notes among pages that only may begin with one.

    Parameters
    ----------
    places : iterable of (int, bytes)
        Guest-physical address, and the bytes there.

    Yields
    ------
    VmcoreInfo
        As they come.
    """
    for address, data in places:
        text = _text_of(data)
        if text is not None:
            yield VmcoreInfo(text, address, "memory")


def find_in(stretches: Iterable[tuple[int, bytes]], page_size: int) -> Iterator[VmcoreInfo]:
    """Look for notes at the starts of pages.

    Parameters
    ----------
    stretches : iterable of (int, bytes)
        Guest-physical address, at the start of a page, and the bytes there.
    page_size : int
        Bytes a page.

    Yields
    ------
    VmcoreInfo
        As they come.
    """
    for address, data in stretches:
        at = data.find(NAME)
        while at >= 0:
            start = at - _NAME_AT
            if start >= 0 and start % page_size == 0:
                yield from notes_in([(address + start, data[start : start + MAX_NOTE])])
            at = data.find(NAME, at + 1)


def _text_of(note: bytes) -> bytes | None:
    """Return the text of a note if it is one of VMCOREINFO."""
    if len(note) < _HEAD.size:
        return None
    name_length, length, kind = _read_head(note)
    if name_length != len(NAME) + 1 or kind != 0 or not 0 < length <= MAX_LENGTH:
        return None
    at = _NAME_AT + _padded(name_length)
    if note[_NAME_AT : _NAME_AT + name_length] != NAME + b"\0" or at + length > len(note):
        return None
    text = note[at : at + length]
    # Crash notes of the same name would have other content.
    return text if b"OSRELEASE=" in text else None


def _read_head(note: bytes) -> tuple[int, int, int]:
    """Return lengths of name and text, and the kind, in the guest's byte order."""
    big: tuple[int, int, int] = _HEAD_BIG.unpack_from(note)
    little: tuple[int, int, int] = _HEAD.unpack_from(note)
    return big if big[0] == len(NAME) + 1 else little


def _padded(length: int) -> int:
    return -(-length // 4) * 4


def choose(found: Iterable[VmcoreInfo], findings: list[Finding]) -> VmcoreInfo | None:
    """Take the first of several, and say so if others differ.

    A kernel that was started by kexec leaves the note of the one before it in memory.
    """
    first: VmcoreInfo | None = None
    for item in found:
        if first is None:
            first = item
        elif item.text != first.text:
            findings.append(
                Finding(
                    "export.vmcoreinfo",
                    Severity.WARNING,
                    f"two different VMCOREINFO lie at {first.address:#x} and {item.address:#x}; "
                    "the first is taken",
                )
            )
            break
    if first is None:
        findings.append(
            Finding(
                "export.vmcoreinfo",
                Severity.NOTE,
                "no VMCOREINFO was found; drgn and makedumpfile need it, "
                "and guests other than Linux have none",
            )
        )
    return first


def too_many(count: int) -> Finding:
    """Return the finding for memory that is full of what looks like VMCOREINFO."""
    return Finding(
        "export.vmcoreinfo",
        Severity.WARNING,
        f"{count} pages or more begin like a VMCOREINFO; the rest was not searched",
    )


def find(image: SaveImage, findings: list[Finding]) -> VmcoreInfo | None:
    """Find VMCOREINFO in an image of any form.

    Parameters
    ----------
    image : SaveImage
        Open.
    findings : list of Finding
        Receives doubts.

    Returns
    -------
    VmcoreInfo or None
        None if the guest has none.
    """
    told = from_device(image.guest.physical.read, announced(image, findings))
    if told is not None:
        return told
    return choose(find_in(_contents(image), image.page_size), findings)


def _contents(image: SaveImage) -> Iterator[tuple[int, bytes]]:
    """Yield the guest's RAM by address, pages without content left out."""
    size = image.page_size
    left_out = {block.idstr for block in image.head.blocks.blocks if block.ignored}
    for item in image.guest.physical.map.ranges:
        if item.kind not in ("ram", "dimm", "virtio-mem") or item.block in left_out:
            continue
        for run in image.memory.runs(item.block):
            first = max(run.first * size, -(-item.offset // size) * size)
            last = min((run.first + run.count) * size, item.offset + item.length)
            for offset in range(first, last, _PIECE):
                # A text longer than a page may be in two pieces.
                length = min(_PIECE + MAX_NOTE, last - offset)
                data = image.memory.read(item.block, offset, length)
                yield item.start + offset - item.offset, data
