"""The framing of a QEMU migration stream (format.md 3)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from struct import Struct

from savefmt.errors import CorruptError, NotASaveImageError, UnsupportedError
from savefmt.format.configuration import Configuration
from savefmt.format.cursor import Cursor
from savefmt.format.wire import ItemType, decode_name, encode_name, pack_counted
from savefmt.frozen import dataclass
from savefmt.model import Finding, Severity

QEVM_MAGIC = b"QEVM"
STREAM_VERSION = 3
STREAM_HEADER = QEVM_MAGIC + STREAM_VERSION.to_bytes(4, "big")
STREAM_BEGINS = re.compile(
    re.escape(STREAM_HEADER)
    + b"[%c%c%c]" % (ItemType.CONFIGURATION, ItemType.START, ItemType.COMMAND)
)
"""The magic of a stream, and something that can follow it."""

MAX_SECTIONS = 1 << 18

COMMANDS: Mapping[int, tuple[str, tuple[int, ...] | None]] = {
    1: ("OPEN_RETURN_PATH", (0,)),
    2: ("PING", (4,)),
    3: ("POSTCOPY_ADVISE", (0, 16)),
    4: ("POSTCOPY_LISTEN", (0,)),
    5: ("POSTCOPY_RUN", (0,)),
    6: ("POSTCOPY_RAM_DISCARD", None),
    7: ("PACKAGED", (4,)),
    8: ("ENABLE_COLO", (0,)),
    9: ("POSTCOPY_RESUME", (0,)),
    10: ("RECV_BITMAP", None),
    11: ("SWITCHOVER_START", (0,)),
}
"""Command number to name and allowed data lengths, None for any (format.md 3.5)."""

POSTCOPY_ADVISE = 3
FOOTER_LENGTH = 5
_PACKAGED = 7
_NEVER_IN_FILES = {4, 5, 6, 9, 10}
_CONTINUING = {bytes([kind]): kind for kind in (ItemType.PART, ItemType.END)}
_ANNOUNCING = {int(kind): kind for kind in (ItemType.START, ItemType.FULL)}
_ITEMS_AFTER_SECTION = {*range(ItemType.EOF, ItemType.SUBSECTION), ItemType.COMMAND}


def read_header(cursor: Cursor) -> Configuration | None:
    """Read the file header and the configuration section (format.md 3.1, 3.2).

    Parameters
    ----------
    cursor : Cursor
        At the first byte of the stream; left at the first item.

    Returns
    -------
    Configuration or None
        None for a machine type older than QEMU 2.4, which sends none.
    """
    offset = cursor.tell()
    head = cursor.peek(len(STREAM_HEADER))
    if not head or not QEVM_MAGIC.startswith(head[:4]):
        raise NotASaveImageError("no QEMU stream begins here: its magic is missing", offset=offset)
    cursor.skip(len(QEVM_MAGIC), "stream header")
    version = cursor.u32("stream header")
    if version == 2:
        raise UnsupportedError("obsolete stream version 2 (before 2009)", offset=offset + 4)
    if version != STREAM_VERSION:
        raise NotASaveImageError(f"unknown QEMU stream version {version}", offset=offset + 4)
    if cursor.peek(1) == bytes([ItemType.CONFIGURATION]):
        return Configuration.read(cursor)
    return None


@dataclass(frozen=True, slots=True)
class Advice:
    """Page sizes of a stream that postcopy was switched on for (format.md 3.5).

    Attributes
    ----------
    summary : int
        The sizes of all pages behind RAM, OR-ed together.
    page_size : int
        Target page size.
    """

    summary: int
    page_size: int


@dataclass(frozen=True, slots=True)
class Command:
    """A COMMAND item (format.md 3.5)."""

    offset: int
    number: int
    data: bytes

    @property
    def name(self) -> str:
        """QEMU's word for it."""
        return COMMANDS[self.number][0]

    @property
    def advice(self) -> Advice | None:
        """What a full POSTCOPY_ADVISE tells."""
        if self.number != POSTCOPY_ADVISE or not self.data:
            return None
        return Advice(int.from_bytes(self.data[:8], "big"), int.from_bytes(self.data[8:], "big"))

    def pack(self) -> bytes:
        """Return the item as it is in the stream."""
        head = (ItemType.COMMAND << 32 | self.number << 16 | len(self.data)).to_bytes(5, "big")
        return head + self.data


class SectionHead:
    """The head of a section; a PART or END repeats what its START announced.

    Streams may have hundreds of thousands, and this is made five times as fast as a frozen
    dataclass.
    """

    __slots__ = ("idstr", "instance_id", "kind", "offset", "section_id", "version")

    def __init__(
        self,
        offset: int,
        kind: ItemType,
        section_id: int,
        idstr: str,
        instance_id: int,
        version: int,
    ) -> None:
        self.offset = offset
        self.kind = kind
        self.section_id = section_id
        self.idstr = idstr
        self.instance_id = instance_id
        self.version = version

    def __str__(self) -> str:
        return f"{self.kind.name} section of {self.idstr!r} instance {self.instance_id}"

    @property
    def announces(self) -> bool:
        """Whether it carries name, instance and version itself."""
        return self.kind in (ItemType.START, ItemType.FULL)

    def pack(self) -> bytes:
        """Return the head as it is in the stream, up to the payload."""
        head = (self.kind << 32 | self.section_id).to_bytes(5, "big")
        if not self.announces:
            return head
        numbers = (self.instance_id << 32 | self.version).to_bytes(8, "big")
        return head + pack_counted(encode_name(self.idstr)) + numbers

    def pack_footer(self) -> bytes:
        """Return the footer that closes the section."""
        return b"\x7e" + self.section_id.to_bytes(4, "big")


_LEAD = Struct(">IB")
"""Section id, and the length of the name."""
_NUMBERS = Struct(">II")


@dataclass(frozen=True, slots=True)
class EndOfStream:
    """The EOF item; a vmdescription may follow it."""

    offset: int


class ItemReader:
    """Reads items up to their payload, from behind the configuration to the EOF mark.

    After each `SectionHead` the caller consumes the payload, itself or with
    `pass_payload`, and then calls `finish_section`.  `savefmt.reading.walk` is the one
    loop over a stream's items.

    Parameters
    ----------
    cursor : Cursor
        At an item.
    findings : list of Finding, optional
        Receives oddities that do not hinder.
    """

    def __init__(self, cursor: Cursor, *, findings: list[Finding] | None = None) -> None:
        self.cursor = cursor
        self.has_footers: bool | None = None
        self._findings = findings
        self._announced: dict[int, SectionHead] = {}
        self._ids: dict[tuple[str, int], int] = {}

    def fork(self, cursor: Cursor) -> ItemReader:
        """Return a reader that knows the same sections and goes on by itself."""
        other = ItemReader(cursor)
        other.has_footers = self.has_footers
        other._announced = dict(self._announced)
        other._ids = dict(self._ids)
        return other

    def next_item(self) -> Command | SectionHead | EndOfStream:
        """Read the next item up to its payload.

        Returns
        -------
        Command, SectionHead or EndOfStream
            Nothing of the stream but a vmdescription follows the last.
        """
        cursor = self.cursor
        offset = cursor.tell()
        start = cursor.peek(5)
        if kind := _CONTINUING.get(start[:1]):
            return self._continuation(offset, kind, start)
        byte = cursor.u8("the stream, before its EOF mark")
        if kind := _ANNOUNCING.get(byte):
            return self._announcement(offset, kind)
        if byte == ItemType.COMMAND:
            return self._command(offset)
        if byte == ItemType.EOF:
            return EndOfStream(offset)
        raise CorruptError(f"no item begins with byte {byte:#04x}", offset=offset)

    def may_end(self, head: SectionHead, data: bytes) -> bool:
        """Tell whether a section may have ended before these bytes."""
        if self.has_footers is False:
            return not data or data[0] in _ITEMS_AFTER_SECTION
        return data.startswith(head.pack_footer())

    def finish_section(self, head: SectionHead) -> bytes:
        """Read and check the footer behind a payload.

        A stream may do without footers (machine types before QEMU 2.4), but then its
        first section shows it.

        Parameters
        ----------
        head : SectionHead
            The section that ends here.

        Returns
        -------
        bytes
            The footer, empty where sections have none.
        """
        cursor = self.cursor
        offset = cursor.tell()
        if self.has_footers is None:
            first = cursor.peek(1)
            self.has_footers = not first or first[0] not in _ITEMS_AFTER_SECTION
            if not self.has_footers:
                advice = "QEMU loads it with migration.send-section-footer=off only"
                self._warn("stream.no-footers", "sections lack footers", offset, advice)
        if not self.has_footers:
            return b""
        footer = cursor.peek(FOOTER_LENGTH)
        if footer == head.pack_footer():
            cursor.skip(FOOTER_LENGTH)
            return footer
        if footer[:1] not in (b"", bytes([ItemType.FOOTER])):
            message = f"byte {footer[0]:#04x} is where the footer of the {head} belongs"
            raise CorruptError(message, offset=offset)
        section_id = int.from_bytes(
            cursor.read(FOOTER_LENGTH, f"the footer of the {head}")[1:], "big"
        )
        raise CorruptError(
            f"this is the footer of section {section_id}, but the {head} is section "
            f"{head.section_id}",
            offset=offset,
        )

    def _command(self, offset: int) -> Command:
        number = self.cursor.u16("command")
        length = self.cursor.u16("command")
        name, lengths = COMMANDS.get(number, ("", ()))
        if not name:
            raise CorruptError(f"unknown command {number}", offset=offset)
        if lengths is not None and length not in lengths:
            raise CorruptError(
                f"command {name} has {length} bytes of data, which is a wrong length", offset=offset
            )
        if number == _PACKAGED:
            raise UnsupportedError(
                "the stream holds another stream, as postcopy sends it to a live destination; "
                "this release does not read that",
                offset=offset,
            )
        if number in _NEVER_IN_FILES:
            message = f"command {name} belongs to live migration, not into a file"
            self._warn("stream.postcopy-command", message, offset, "QEMU may refuse to load it")
        return Command(offset, number, self.cursor.read(length, f"command {name}"))

    def _announcement(self, offset: int, kind: ItemType) -> SectionHead:
        # Two reads, not five: there may be hundreds of thousands.
        section_id, length = _LEAD.unpack(self.cursor.read(_LEAD.size, "section id"))
        name = self.cursor.read(length + _NUMBERS.size, "section name, instance and version")
        idstr = decode_name(name[:length])
        instance_id, version = _NUMBERS.unpack_from(name, length)
        head = SectionHead(offset, kind, section_id, idstr, instance_id, version)

        earlier = self._announced.setdefault(section_id, head)
        if (earlier.idstr, earlier.instance_id) != (idstr, instance_id):
            raise CorruptError(
                f"section {section_id} is {earlier.idstr!r} instance {earlier.instance_id} and "
                f"{idstr!r} instance {instance_id}",
                offset=offset,
            )
        if len(self._announced) > MAX_SECTIONS:
            raise UnsupportedError(
                f"the stream has more than {MAX_SECTIONS} sections, and this release reads no more",
                offset=offset,
            )
        known_id = self._ids.setdefault((idstr, instance_id), section_id)
        if known_id != section_id:
            message = f"{idstr!r} instance {instance_id} has two ids: {known_id} and {section_id}"
            self._warn("stream.two-ids", message, offset, "the image may be forged or damaged")
        return head

    def started(self, section_id: int) -> SectionHead | None:
        """Return the START of an iterable section, None if there was none."""
        head = self._announced.get(section_id)
        return head if head is not None and head.kind is ItemType.START else None

    def knows(self, idstr: str, instance_id: int) -> bool:
        """Whether a section of that name was announced."""
        return (idstr, instance_id) in self._ids

    def _continuation(self, offset: int, kind: ItemType, data: bytes) -> SectionHead:
        self.cursor.skip(5, "the head of a section")
        section_id = int.from_bytes(data[1:], "big")
        start = self.started(section_id)
        if start is None:
            raise CorruptError(
                f"{kind.name} of section {section_id} comes without a START", offset=offset
            )
        return SectionHead(offset, kind, section_id, start.idstr, start.instance_id, start.version)

    def _warn(self, code: str, message: str, offset: int, advice: str) -> None:
        if self._findings is not None:
            self._findings.append(Finding(code, Severity.WARNING, message, offset, advice))
