"""What the layers below `image` need of an image."""

from __future__ import annotations

import os
import stat
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from savefmt.errors import ImageIOError, UnsupportedError
from savefmt.format.cursor import ChunkCursor
from savefmt.format.vmstate import Description
from savefmt.model import IOOptions, Layout, StrPath
from savefmt.native.file import File
from savefmt.reading.mapped import MappedStream
from savefmt.reading.traverse import StreamHead

if TYPE_CHECKING:
    from savefmt.reading.memory import GuestMemory
    from savefmt.reading.prefetch import Pipe

DIRECT_FROM = 256 << 20
"""Images and guests from this size on bypass the page cache unless told otherwise: they
would push everything else out of it."""


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

    filename: StrPath
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
    def memory(self) -> GuestMemory:
        """The guest's memory by block."""

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


def open_file(path: StrPath, io: IOOptions) -> File:
    """Open the regular file behind an image.

    Raises
    ------
    ImageIOError
        What the operating system refused.
    UnsupportedError
        If it is no regular file.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise ImageIOError.from_os(error, path=path) from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise UnsupportedError(
                "not a regular file; images are read by seeking, so write it to one first",
                path=path,
            )
        direct = os.fstat(fd).st_size >= DIRECT_FROM if io.direct is None else io.direct
        return File(fd, path=path, direct=direct, engine=io.engine)
    finally:
        os.close(fd)


def format_uuid(raw: bytes) -> str:
    """Write the 16 bytes of a UUID as people do."""
    text = raw.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
