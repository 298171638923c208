"""What the layers below `image` need of an image."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from savefmt.format.envelope import Envelope
from savefmt.model import IOOptions, Layout, StrPath
from savefmt.native.file import File
from savefmt.native.pages import SumKey, Table
from savefmt.progress import Meter
from savefmt.reading.mapped import MappedStream
from savefmt.reading.pageindex import PageIndex
from savefmt.reading.plainstream import Packing, PlainCursor
from savefmt.reading.source import Source
from savefmt.reading.walk import StreamEnd, StreamHead

if TYPE_CHECKING:
    from savefmt.reading.prefetch import Pipe


class PhysicalReader(Protocol):
    """Reads by guest-physical address; `guest.physical.PhysicalMemory` is one."""

    def read(self, address: int, length: int) -> bytes:
        """Read guest-physical memory."""


class AddressedGuest(Protocol):
    """A guest whose blocks have addresses; `guest.view.Guest` is one."""

    @property
    def physical(self) -> PhysicalReader:
        """Memory by guest-physical address."""


class SummedMemory(Protocol):
    """The guest's memory, as far as sums go; `reading.memory.GuestMemory` is one."""

    def sums(self, key: SumKey, meter: Meter) -> dict[str, Table]:
        """Sum every page, in one pass over the image."""

    def index(self, meter: Meter) -> PageIndex:
        """Read a sequential image whole and tell where each page lies."""


class StoredImage(Protocol):
    """What memory needs of the image that it lies in; `SaveImage` is one."""

    source: Source
    filename: StrPath
    layout: Layout
    packing: Packing
    length: int
    stored_offset: int
    stream_offset: int
    head: StreamHead
    ending: StreamEnd | None

    @property
    def file(self) -> File:
        """The file behind the image."""

    @property
    def mapped(self) -> MappedStream:
        """The skeleton of a mapped-ram image."""

    @property
    def capabilities(self) -> frozenset[str]:
        """Capabilities that the stream lists."""

    @property
    def memory(self) -> SummedMemory:
        """The guest's memory by block."""

    @property
    def guest(self) -> AddressedGuest:
        """The guest, as far as addresses go."""

    def stream(
        self,
        io: IOOptions | None = None,
        *,
        stored: Pipe | None = None,
    ) -> AbstractContextManager[PlainCursor]:
        """A cursor over the decompressed stream."""


def format_uuid(raw: bytes) -> str:
    """Write the 16 bytes of a UUID as people do."""
    text = raw.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def state_of(envelope: Envelope | None) -> str:
    """Say whether there is an envelope, and whether the save behind it finished."""
    if envelope is None:
        return "bare"
    return "finished" if envelope.finished else "incomplete"
