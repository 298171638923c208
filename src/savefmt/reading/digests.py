"""What makes two images the same guest: sums of pages, digests of device sections."""

from __future__ import annotations

from typing import Any

from savefmt.errors import located
from savefmt.format import ram
from savefmt.format.cursor import FileCursor
from savefmt.format.ram import BlockList
from savefmt.format.stream import Command, SectionHead
from savefmt.format.wire import ItemType
from savefmt.frozen import dataclass
from savefmt.model import IOOptions, Layout
from savefmt.native.core import NeedContentError
from savefmt.native.pages import SumKey, Table
from savefmt.progress import Meter
from savefmt.reading.framing import SectionKey
from savefmt.reading.mapped import EndMarkers
from savefmt.reading.stored import StoredImage
from savefmt.reading.visitors import TallyVisitor, pass_over
from savefmt.reading.walk import Onlooker, StreamEnd, Take, Walk


class DeviceDigests(Onlooker):
    """SHA-256 of what each section holds, over all parts that carry its name.

    And of everything between the end of RAM and the vmdescription together.
    """

    def __init__(self) -> None:
        from hashlib import sha256  # late: without verification nobody needs digests

        self._new = sha256
        self._sections: dict[SectionKey, Any] = {}
        self._all = sha256()
        self._ram_ended = False

    def command(self, command: Command) -> None:
        """Add a command behind RAM."""
        self._add(command.pack())

    def section(self, head: SectionHead) -> Take:
        """Add the payload of a section, and all of it where it comes behind RAM."""
        key = head.idstr, head.instance_id
        state = self._sections.get(key)
        if state is None:
            state = self._sections[key] = self._new()
        if not self._ram_ended:
            take: Take = state.update
            return take
        self._all.update(head.pack())

        def both(piece: bytes | memoryview) -> None:
            state.update(piece)
            self._all.update(piece)

        return both

    def ram_start(self, head: SectionHead, blocks: BlockList) -> EndMarkers:
        """Pass over a mapped-ram stream's sections."""
        return EndMarkers()

    def section_end(self, head: SectionHead, footer: bytes, end: int) -> None:
        """Note the end of RAM, and add what ends a section behind it."""
        self._add(footer)
        self._ram_ended = self._ram_ended or (head.idstr == ram.IDSTR and head.kind is ItemType.END)

    def _add(self, data: bytes) -> None:
        if self._ram_ended:
            self._all.update(data)

    @property
    def together(self) -> str:
        """Digest of all device state behind RAM."""
        state = self._all.copy()
        state.update(bytes([ItemType.EOF]))
        return state.hexdigest()

    def by_section(self, end: StreamEnd) -> dict[SectionKey, str] | None:
        """Digests by idstr and instance; None where sections cannot be told apart."""
        if end.missing is not None:
            return None
        return {key: state.hexdigest() for key, state in self._sections.items()}


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
    with located(image.filename), image.file.unchanged():
        if image.layout is not Layout.MAPPED_RAM:
            return _read_sequential(image, key, io, meter)
        sums = image.memory.sums(key, meter)
        return _state(sums, *digest_mapped(image))


def _state(sums: dict[str, Table], digests: DeviceDigests, end: StreamEnd) -> GuestState:
    return GuestState(sums, digests.by_section(end), digests.together)


def digest_mapped(image: StoredImage) -> tuple[DeviceDigests, StreamEnd]:
    """Digest the device sections of a mapped-ram image."""
    digests = DeviceDigests()
    cursor = FileCursor(
        image.file.read, image.stream_offset, image.length, origin=image.source.offset
    )
    return digests, Walk(cursor, digests).run()


def _read_sequential(image: StoredImage, key: SumKey, io: IOOptions, meter: Meter) -> GuestState:
    digests = DeviceDigests()
    visitor = TallyVisitor(key, image.filename, digests)
    try:
        end = pass_over(image, visitor, io, meter)
    except NeedContentError:
        # A live stream with deltas: what a page holds can be told only where it is kept.
        sums = image.memory.sums(key, meter)
        digests = DeviceDigests()
        end = pass_over(image, TallyVisitor(None, image.filename, digests), io, meter)
        return _state(sums, digests, end)
    return _state(visitor.sums, digests, end)
