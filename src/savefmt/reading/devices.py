"""Device state of an image: where each section's payload lies, and what is in it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from savefmt.errors import FormatError, UnsupportedError, located
from savefmt.format.devicetree import Struct, decode, decode_start, read_entries
from savefmt.format.fixedlayouts import find_entry
from savefmt.format.stream import SectionHead
from savefmt.format.wire import ItemType
from savefmt.model import Finding, IOOptions, Layout, Section
from savefmt.progress import Meter
from savefmt.reading.stored import StoredImage
from savefmt.reading.unpacked import SegmentReader, open_segments
from savefmt.reading.visitors import SkimVisitor, pass_over
from savefmt.reading.walk import StreamEnd, Take

MAX_DEVICE_STATE = 256 << 20
"""Device state is taken into memory up to this: a hundred times what QEMU writes."""


class Devices:
    """Device sections of an image, and their payloads; made by `SaveImage.devices`.

    Where sections lie is known when the stream was walked to its end: in a mapped-ram
    image that touches no page, any other is read whole, once.

    Parameters
    ----------
    image : SaveImage
        Open.
    io : IOOptions
        How it is read, where it must be read whole.
    """

    def __init__(self, image: StoredImage, io: IOOptions) -> None:
        self._image = image
        self._io = io
        self._meter = Meter(None)
        self._kept: dict[int, bytes] = {}
        self._plain: SegmentReader | None = None

    def prepare(self, meter: Meter) -> None:
        """Do now what the first question would do: walk to the end of the stream.

        Parameters
        ----------
        meter : Meter
            Told how far it is.
        """
        self._meter = meter
        _ = self.ending

    @cached_property
    def ending(self) -> StreamEnd:
        """The end of the stream, behind all sections."""
        image = self._image
        with located(image.filename):
            if image.layout is Layout.MAPPED_RAM:
                return image.mapped.end
            if not image.packing.packed:
                return image.ending or self._pass_for_all()
            self._plain = open_segments(image.packing, image.file, image.stored_offset)
            if self._plain is None:
                keeper = _Keeper(image.filename, _most_state(image.length))
                end = self._pass(keeper)
                # Only after everything went well, so that a second try does not take it for its
                # own.
                self._kept = {at: bytes(payload) for at, payload in keeper.kept.items()}
                return end
            return image.ending or self._pass(SkimVisitor(image.filename))

    def _pass_for_all(self) -> StreamEnd:
        """Read a plain image: where its pages lie, which costs no more, is wanted next."""
        if self._image.head.ram is None:
            return self._pass(SkimVisitor(self._image.filename))
        self._image.memory.index(self._meter)
        if self._image.ending is None:  # the index was kept in a file
            return self._pass(SkimVisitor(self._image.filename))
        return self._image.ending

    def _pass(self, visitor: SkimVisitor) -> StreamEnd:
        return pass_over(self._image, visitor, self._io, self._meter)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is odd about the stream, such as lengths that are told nowhere."""
        return self.ending.findings

    @property
    def sections(self) -> tuple[Section, ...]:
        """All device sections that can be found, with their places."""
        return self.ending.sections

    @property
    def incomplete(self) -> str | None:
        """Why `sections` are not all that the stream has."""
        why = self.ending.missing
        return f"{why}, so what follows cannot be told apart" if why is not None else None

    @cached_property
    def _by_name(self) -> Mapping[tuple[str, int], Section]:
        return {(section.idstr, section.instance_id): section for section in self.sections}

    def find(self, idstr: str, instance_id: int = 0) -> Section | None:
        """Return the section with this name, None if there is no such section."""
        return self._by_name.get((idstr, instance_id))

    def payload(self, section: Section) -> memoryview:
        """Return the payload of a section, read-only; KeyError if there is no such section."""
        known = self.find(section.idstr, section.instance_id)
        if known is None or known.offset is None or known.length is None:
            raise KeyError(f"{section.idstr}/{section.instance_id}")
        if known.offset in self._kept:
            return memoryview(self._kept[known.offset])
        limit = _most_state(self._image.length)
        if known.length > limit:
            raise _too_much(limit)
        with located(self._image.filename):
            if self._plain is not None:
                at = known.offset - self._image.stored_offset
                return memoryview(self._plain.read(known.length, at))
            return memoryview(self._image.file.read(known.length, known.offset))

    def tree(self, section: Section) -> Struct:
        """Decode the device state of a section.

        Parameters
        ----------
        section : Section
            One of `sections`.

        Returns
        -------
        Struct
            One opaque field where nobody describes it.

        Raises
        ------
        CorruptError
            If description and payload contradict each other.
        """
        payload = self.payload(section)
        entry = self._entries.get((section.idstr, section.instance_id))
        with located(self._image.filename):
            try:
                if entry is not None:
                    return decode(entry, payload)
                known = self.find(section.idstr, section.instance_id)
                version = known.version if known else section.version
                guess = find_entry(section.idstr, version, payload)
                return decode_start(guess or {"vmsd_name": section.idstr}, payload)
            except FormatError as error:
                error.message = f"section {section.idstr}/{section.instance_id}: {error.message}"
                raise

    def described(self, section: Section) -> bool:
        """Whether the stream itself describes a section."""
        return (section.idstr, section.instance_id) in self._entries

    @cached_property
    def _entries(self) -> Mapping[tuple[str, int], dict[str, Any]]:
        description = self.ending.description
        return read_entries(description) if description is not None else {}


class _Keeper(SkimVisitor):
    """Keeps the payloads of device sections by their places."""

    def __init__(self, path: Any, limit: int) -> None:
        super().__init__(path)
        self._limit = limit
        self.kept: dict[int, bytearray] = {}
        self._length = 0

    def section(self, head: SectionHead) -> Take | None:
        """Keep a device section; parts of iterable ones are not device state."""
        if head.kind is not ItemType.FULL:
            return None
        payload = self.kept[head.offset + len(head.pack())] = bytearray()

        def take(piece: bytes | memoryview) -> None:
            self._length += len(piece)
            if self._length > self._limit:
                raise _too_much(self._limit)
            payload.extend(piece)

        return take


def _most_state(file_length: int) -> int:
    """Return how much device state is kept of a file: it is bounded by what is really there."""
    return min(MAX_DEVICE_STATE, (16 << 20) + 16 * file_length)


def _too_much(limit: int) -> UnsupportedError:
    return UnsupportedError(
        f"more than {limit >> 20} MiB of device state, which is too much for so small a file"
    )
