"""What this package needs of an image; `SaveImage` has it all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

from savefmt.errors import FormatError
from savefmt.format.devicetree import Struct
from savefmt.format.envelope import HEADER_LENGTH, Envelope
from savefmt.format.hardware import Hardware, parse_hardware
from savefmt.model import Finding, Section, Severity
from savefmt.reading.walk import StreamHead

if TYPE_CHECKING:
    from pathlib import Path

    from savefmt.reading.dumpview import Dump


class BlockReader(Protocol):
    """Reads memory by block."""

    def read(self, block: str, offset: int, length: int) -> bytes:
        """Read from a block."""


class DeviceReader(Protocol):
    """Finds device sections and decodes them."""

    @property
    def incomplete(self) -> str | None:
        """Why `sections` are not all that the stream has."""

    @property
    def sections(self) -> tuple[Section, ...]:
        """All sections that can be told apart."""

    def find(self, idstr: str, instance_id: int = 0) -> Section | None:
        """Return the section with this name."""

    def tree(self, section: Section) -> Struct:
        """Decode its payload."""


class Losses(Protocol):
    """Knows what a damaged image has lost."""

    def lost_bytes(self, block: str, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """Yield what of a part of a block is lost."""


class GuestSource(Protocol):
    """An image with a guest in it."""

    head: StreamHead
    envelope: Envelope | None

    @property
    def places(self) -> Mapping[str, int]:
        """Where the caller says that blocks lie."""

    @property
    def dump(self) -> Dump | None:
        """The memory dump that is shown as an image."""

    @property
    def rescue(self) -> Losses | None:
        """What is lost, where the image is read as a damaged one."""

    @property
    def path(self) -> Path:
        """The file's name."""

    @property
    def machine(self) -> str:
        """Machine type."""

    @property
    def memory(self) -> BlockReader:
        """Memory by block."""

    @property
    def devices(self) -> DeviceReader:
        """Device sections."""


def read_tree(
    source: GuestSource, idstr: str, instance_id: int = 0, findings: list[Finding] | None = None
) -> Struct | None:
    """Decode a device section, if it is there and sound.

    Parameters
    ----------
    source : GuestSource
        The image.
    idstr, instance_id : str, int
        The section.
    findings : list of Finding, optional
        Receives why an existing one could not be read.

    Returns
    -------
    Struct or None
        Its fields.
    """
    section = source.devices.find(idstr, instance_id)
    if section is None:
        return None
    try:
        return source.devices.tree(section)
    except FormatError as error:
        if findings is not None:
            findings.append(
                Finding("devices.damaged", Severity.WARNING, error.message, section.offset)
            )
        return None


def read_hardware(source: GuestSource, findings: list[Finding]) -> Hardware:
    """Return what the domain XML says; empty if there is none, or if it cannot be read."""
    if source.envelope is None:
        return Hardware()
    try:
        return parse_hardware(source.envelope.xml, source.envelope.cookie, at=HEADER_LENGTH)
    except FormatError as error:
        findings.append(Finding("envelope.xml", Severity.WARNING, error.message, error.offset))
        return Hardware()
