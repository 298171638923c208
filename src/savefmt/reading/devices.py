"""Device state of an image: where each section's payload lies, and what is in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any

from savefmt.errors import FormatError, SavefmtError, UnsupportedError
from savefmt.format import ram
from savefmt.format.cursor import FileCursor
from savefmt.format.devicetree import Struct, decode, decode_start, read_entries
from savefmt.format.fixedlayouts import find_entry
from savefmt.format.ram import EOS_WORD
from savefmt.format.stream import (
    Command,
    EndOfStream,
    ItemType,
    NeedDescription,
    SectionHead,
    StreamWalker,
    encode_name,
)
from savefmt.format.vmstate import Description, find_at_end
from savefmt.model import Finding, IOOptions, Layout, Section
from savefmt.progress import Meter
from savefmt.reading.memory import SkimVisitor, pass_over
from savefmt.reading.stored import StoredImage
from savefmt.reading.tail import Pread, Tail
from savefmt.reading.traverse import read_head, section_of, take_payload
from savefmt.reading.unpacked import open_segments

MAX_DEVICE_STATE = 256 << 20
"""Device state is taken into memory up to this: a hundred times what QEMU writes."""

_FOOTER_LENGTH = 5


class Devices:
    """Device sections of an image, and their payloads; made by `SaveImage.devices`.

    Mapped-ram images, uncompressed sequential ones, and compressed ones that can be
    entered midway are read where the sections lie, without touching the pages.  Others
    take one pass over the image.

    Parameters
    ----------
    image : SaveImage
        Open.
    io : IOOptions
        How it is read, where it must be read whole.

    Attributes
    ----------
    findings : list of Finding
        What is odd about the sections, such as lengths that had to be guessed.
    incomplete : str or None
        Why `sections` are not all that the stream has.
    """

    def __init__(self, image: StoredImage, io: IOOptions) -> None:
        self._image = image
        self._io = io
        self._kept: dict[int, bytes] | None = None
        self._description = image.description
        self._read: Callable[[int, int], bytes] = lambda length, at: image.file.read(length, at)
        self._end = image.length
        self.findings: list[Finding] = []
        self.incomplete: str | None = None

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """All device sections that can be told apart, with their places."""
        try:
            if self._image.layout is Layout.MAPPED_RAM:
                return tuple(self._mapped())
            if self._image.packing.packed:
                self._enter_midway()
            found = self._by_description()
            return found if found is not None else self._by_pass()
        except SavefmtError as error:
            error.path = error.path or self._image.filename
            raise

    @cached_property
    def _by_name(self) -> Mapping[tuple[str, int], Section]:
        return {(section.idstr, section.instance_id): section for section in self.sections}

    def find(self, idstr: str, instance_id: int = 0) -> Section | None:
        """Return the section with this name, None if there is none."""
        return self._by_name.get((idstr, instance_id))

    def payload(self, section: Section) -> memoryview:
        """Return the device state of a section; see `SaveImage.device_state`."""
        known = self.find(section.idstr, section.instance_id)
        if known is None or known.offset is None or known.length is None:
            raise KeyError(f"{section.idstr}/{section.instance_id}")
        if self._kept is not None:
            return memoryview(self._kept[known.offset])
        if known.length > MAX_DEVICE_STATE:
            raise _too_much()
        return memoryview(self._read(known.length, known.offset))

    def tree(self, section: Section) -> Struct:
        """Take the device state of a section apart.

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
        try:
            if entry is not None:
                return decode(entry, payload)
            known = self.find(section.idstr, section.instance_id)
            version = known.version if known else section.version
            guess = find_entry(section.idstr, version, payload)
            return decode_start(guess or {"vmsd_name": section.idstr}, payload)
        except FormatError as error:
            error.path = error.path or self._image.filename
            error.message = f"section {section.idstr}/{section.instance_id}: {error.message}"
            raise

    def described(self, section: Section) -> bool:
        """Whether the stream itself describes a section."""
        return (section.idstr, section.instance_id) in self._entries

    @cached_property
    def _entries(self) -> Mapping[tuple[str, int], dict[str, Any]]:
        _ = self.sections  # a pass may bring the description
        return read_entries(self._description) if self._description is not None else {}

    # --- where they lie ---

    def _pread(self, length: int, offset: int) -> bytes:
        return self._read(min(length, max(self._end - offset, 0)), offset)

    def _enter_midway(self) -> None:
        """Read a compressed image where its segments allow it, its end first."""
        image = self._image
        plain = open_segments(image.packing, image.file, image.stored_offset)
        if plain is None:
            return
        start = image.stored_offset

        def read(length: int, at: int) -> bytes:
            """Read in terms of the file; what lies in front of the stream is nobody's."""
            before = min(max(start - at, 0), length)
            return bytes(before) + plain.read(length - before, max(at - start, 0))

        self._read = read
        self._end = start + plain.length
        # Whatever is wrong there, a pass over the image says it better.
        with suppress(FormatError):
            self._description = find_at_end(self._pread, self._end)

    def _mapped(self) -> Iterator[Section]:
        mapped = self._image.mapped
        self._description = mapped.tail.description
        for part in mapped.parts:
            if part.head is None or part.is_ram:
                continue
            if part.head.kind is ItemType.FULL:
                length = part.end - part.payload - mapped.footer_length
                yield section_of(part.head, part.payload, length)
        for section, _ in self._walk(mapped.tail):
            yield section

    def _walk(self, tail: Tail) -> Iterator[tuple[Section, bytes]]:
        """Yield sections behind RAM with their payloads, guessing lengths if need be."""
        cursor = FileCursor(tail.pread, tail.start, tail.end)
        walker = StreamWalker(cursor, description=tail.description, findings=self.findings)
        walker.has_footers = tail.has_footers
        for head in tail.announced:
            walker.announce(head)
        while not isinstance(item := walker.next_item(), EndOfStream):
            if isinstance(item, Command):
                continue
            start = cursor.tell()
            try:
                payload = take_payload(walker, item, self.findings)
            except NeedDescription as error:
                self.incomplete = f"{error.message}, so what follows cannot be told apart"
                return
            if item.kind is ItemType.FULL:
                yield section_of(item, start, len(payload)), payload
            walker.finish_section(item)

    def _by_description(self) -> tuple[Section, ...] | None:
        """Find the sections of a raw sequential image from both ends, pages untouched.

        The early ones follow the block list.  All others stand in front of the EOF mark,
        and the vmdescription tells their lengths: so each begins where it must, or there
        is no such thing as a certain answer and the image is read whole.
        """
        description = self._description
        if description is None:
            return None
        image = self._image
        try:
            ram_head, early = _early_sections(
                self._pread, image.stream_offset, self._end, description
            )
        except (FormatError, UnsupportedError):
            return None
        known = {(section.idstr, section.instance_id) for section in early}
        late = [key for key in description.sections if key not in known]
        for has_footers in (True, False):
            found = _walk_back(self._pread, description, late, ram_head, has_footers)
            if found is not None:
                return (*early, *found)
        return None

    def _by_pass(self) -> tuple[Section, ...]:
        visitor = _Keeper(self._image.filename)
        meter = Meter(None)
        kept: dict[int, bytes] = {}
        found = []
        with pass_over(self._image, visitor, self._io, meter, findings=self.findings) as tail:
            if tail.end - tail.start > MAX_DEVICE_STATE:
                raise _too_much()
            for section, payload in (*visitor.kept, *self._walk(tail)):
                if section.offset is None:
                    raise AssertionError("a section without place")
                kept[section.offset] = payload
                found.append(section)
            # Not before all went well, lest a second try mistake it for its own.
            self._description, self._kept = tail.description, kept
        return tuple(found)


class _Keeper(SkimVisitor):
    """Keeps the sections that come before RAM ends."""

    def __init__(self, path: Any) -> None:
        super().__init__(path)
        self.kept: list[tuple[Section, bytes]] = []
        self._length = 0

    def section(self, head: SectionHead, payload: bytes, footer: bytes) -> None:
        """Keep a device section; parts of iterable ones are not device state."""
        if head.kind is not ItemType.FULL:
            return
        self._length += len(payload)
        if self._length > MAX_DEVICE_STATE:
            raise _too_much()
        start = head.offset + len(head.pack())
        self.kept.append((section_of(head, start, len(payload)), payload))


def _too_much() -> UnsupportedError:
    return UnsupportedError(f"more than {MAX_DEVICE_STATE >> 20} MiB of device state")


def _early_sections(
    pread: Pread, start: int, end: int, description: Description
) -> tuple[SectionHead, list[Section]]:
    """Return the head of RAM, and the FULL sections between block list and pages."""
    cursor = FileCursor(pread, start, end)
    head = read_head(cursor, description=description)
    if cursor.read(len(EOS_WORD)) != EOS_WORD:
        raise UnsupportedError("pages stand in the section of the block list")
    found: list[Section] = []
    walker = StreamWalker(cursor, description=description)
    walker.announce(head.ram)
    walker.finish_section(head.ram)
    while not isinstance(item := walker.next_item(), EndOfStream):
        if isinstance(item, Command):
            continue
        if item.idstr == ram.IDSTR:
            break
        payload = cursor.tell()
        walker.skip_payload(item)
        if item.kind is ItemType.FULL:
            found.append(section_of(item, payload, cursor.tell() - payload))
        walker.finish_section(item)
    return head.ram, found


def _walk_back(
    pread: Pread,
    description: Description,
    keys: list[tuple[str, int]],
    ram_head: SectionHead,
    has_footers: bool,
) -> list[Section] | None:
    """Find sections from the EOF mark backwards, the end of RAM standing before the first.

    Returns
    -------
    list of Section or None
        None unless each of them begins and ends where the description has it.
    """
    at = description.offset - 1
    if pread(1, at) != bytes([ItemType.EOF]):
        return None
    walker = StreamWalker(FileCursor(pread, 0, at))
    walker.has_footers = has_footers
    found = []
    for key in reversed(keys):
        section = _section_before(walker, key, description.sections[key], at)
        if section is None or section.offset is None:
            return None
        found.append(section)
        at = section.offset - _head_length(key[0])
    before = EOS_WORD + (ram_head.pack_footer() if has_footers else b"")
    if pread(len(before), max(at - len(before), 0)) != before:
        return None
    return found[::-1]


def _section_before(
    walker: StreamWalker, key: tuple[str, int], length: int, end: int
) -> Section | None:
    """Read the section that ends at `end`, None if there is none of that name and length."""
    cursor = walker.cursor
    if not isinstance(cursor, FileCursor):
        raise AssertionError(cursor)
    payload = end - length - (_FOOTER_LENGTH if walker.has_footers else 0)
    try:
        cursor.seek(max(payload - _head_length(key[0]), 0))
        item = walker.next_item()
        if not isinstance(item, SectionHead) or item.kind is not ItemType.FULL:
            return None
        if (item.idstr, item.instance_id) != key or cursor.tell() != payload:
            return None
        cursor.skip(length)
        walker.finish_section(item)
    except (FormatError, UnsupportedError):
        return None
    return section_of(item, payload, length)


def _head_length(idstr: str) -> int:
    return 1 + 4 + 1 + len(encode_name(idstr)) + 4 + 4
