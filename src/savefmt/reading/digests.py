"""All that makes two images one guest: sums of pages, digests of device sections."""

from __future__ import annotations

from savefmt.errors import FormatError, SavefmtError, UnsupportedError
from savefmt.frozen import dataclass
from savefmt.model import IOOptions, Layout
from savefmt.native.core import NeedContentError
from savefmt.native.pages import SumKey, Table
from savefmt.progress import Meter
from savefmt.reading.memory import TallyVisitor, pass_over
from savefmt.reading.stored import StoredImage
from savefmt.reading.tail import SectionDigests, SectionKey, Tail


@dataclass(frozen=True, slots=True)
class GuestState:
    """What an image says of its guest, comparable across layouts and codecs.

    Attributes
    ----------
    sums : dict of str to Table
        Page sums by idstr; ignored blocks are left out.
    sections : dict, or None
        SHA-256 of each device section by idstr and instance; None where they cannot be
        told apart.
    devices_digest : str
        SHA-256 of all device sections behind RAM together.
    """

    sums: dict[str, Table]
    sections: dict[SectionKey, str] | None
    devices_digest: str


def read_state(image: StoredImage, key: SumKey, io: IOOptions, meter: Meter) -> GuestState:
    """Read an image whole.

    Parameters
    ----------
    image : StoredImage
        Of any form.
    key : SumKey
        For the page sums: the same one for images to be compared.
    io : IOOptions
        How it is read.
    meter : Meter
        Told how far it is.

    Returns
    -------
    GuestState
        Complete.
    """
    try:
        with image.file.unchanged():
            return _read_state(image, key, io, meter)
    except SavefmtError as error:
        error.path = error.path or image.filename
        raise


def _read_state(image: StoredImage, key: SumKey, io: IOOptions, meter: Meter) -> GuestState:
    if image.layout is Layout.MAPPED_RAM:
        tail = image.mapped.tail
        tail.check_end()
        sums = image.memory.sums(key, meter)
        return GuestState(sums, _sections(tail, _early_of(image)), tail.devices_digest())
    visitor = TallyVisitor(key, image.filename)
    try:
        tail = pass_over(image, visitor, io, meter)
    except NeedContentError:
        sums = image.memory.sums(key, meter)
        visitor = TallyVisitor(None, image.filename)
        tail = pass_over(image, visitor, io, meter)
    else:
        sums = visitor.sums
    with tail:
        return GuestState(sums, _sections(tail, visitor.early), tail.devices_digest())


def _early_of(image: StoredImage) -> SectionDigests:
    """Digests of the sections that come before RAM ends, as `TallyVisitor` makes them."""
    early = SectionDigests()
    for part in image.mapped.parts:
        if part.head is not None and not part.is_ram:
            end = part.end - image.mapped.footer_length
            payload = image.file.read(end - part.payload, part.payload)
            early.update(part.head.idstr, part.head.instance_id, payload)
    return early


def _sections(tail: Tail, digests: SectionDigests) -> dict[SectionKey, str] | None:
    try:
        for section in tail.sections():
            if section.offset is None or section.length is None:
                raise AssertionError("a walked section without place")
            digests.update(section.idstr, section.instance_id, b"")  # it may be empty
            for piece in tail.chunks(section.offset, section.offset + section.length):
                digests.update(section.idstr, section.instance_id, piece)
    except (FormatError, UnsupportedError):
        return None
    return digests.finish()
