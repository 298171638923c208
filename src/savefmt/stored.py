"""What the layers below `image` need of an image."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from savefmt.format.cursor import ChunkCursor
from savefmt.format.vmstate import Description
from savefmt.mapped import MappedStream
from savefmt.model import IOOptions, Layout
from savefmt.native.file import File
from savefmt.prefetch import Pipe
from savefmt.traverse import StreamHead


class PhysicalReader(Protocol):
    """Reads by guest-physical address; `guest.physical.PhysicalMemory` is one."""

    def read(self, address: int, length: int) -> bytes:
        """Read guest-physical memory."""


class AddressedGuest(Protocol):
    """A guest whose blocks have addresses; `guest.view.Guest` is one."""

    @property
    def physical(self) -> PhysicalReader:
        """Memory by guest-physical address."""


class StoredImage(Protocol):
    """What memory needs of the image that it lies in; `SaveImage` is one."""

    path: Path
    layout: Layout
    codec: str
    length: int
    stream_offset: int
    head: StreamHead

    @property
    def file(self) -> File:
        """The file behind the image."""

    @property
    def mapped(self) -> MappedStream:
        """The skeleton of a mapped-ram image."""

    @property
    def description(self) -> Description | None:
        """The vmdescription, where it can be known beforehand."""

    @property
    def capabilities(self) -> frozenset[str]:
        """Capabilities that the stream lists."""

    @property
    def guest(self) -> AddressedGuest:
        """The guest, as far as addresses go."""

    def stream(
        self,
        io: IOOptions | None = None,
        *,
        stored: Pipe | None = None,
        plain: Pipe | None = None,
    ) -> AbstractContextManager[ChunkCursor]:
        """A cursor over the decompressed stream."""
