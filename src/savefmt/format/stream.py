"""The framing of a QEMU migration stream (format.md 3)."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import TYPE_CHECKING

from savefmt.errors import CorruptError, NotASaveImageError, UnsupportedError
from savefmt.format import iterables
from savefmt.format.cursor import Cursor
from savefmt.frozen import dataclass, field, replace
from savefmt.model import Finding, Severity

if TYPE_CHECKING:
    from savefmt.format.vmstate import Description

QEVM_MAGIC = b"QEVM"
STREAM_VERSION = 3
STREAM_HEADER = QEVM_MAGIC + STREAM_VERSION.to_bytes(4, "big")

PAGE_BITS_SUBSECTION = "configuration/target-page-bits"
CAPABILITIES_SUBSECTION = "configuration/capabilities"
UUID_SUBSECTION = "configuration/uuid"

MAPPED_RAM = "mapped-ram"
IGNORE_SHARED = "x-ignore-shared"
VALIDATED_CAPABILITIES = (IGNORE_SHARED, MAPPED_RAM)
"""The capabilities that leave a record, in QEMU's order (format.md 3.2)."""

DEFAULT_PAGE_BITS = 12
MAX_MACHINE_LENGTH = 1024
MAX_CAPABILITIES = 64
MAX_SECTIONS = 1 << 16
MAX_PAYLOAD_LENGTH = 1 << 30
"""The longest payload that `StreamWalker.read_payload` keeps in memory."""


class ItemType(enum.IntEnum):
    """The byte that an item begins with (format.md 3.3)."""

    EOF = 0x00
    START = 0x01
    PART = 0x02
    END = 0x03
    FULL = 0x04
    SUBSECTION = 0x05
    VMDESCRIPTION = 0x06
    CONFIGURATION = 0x07
    COMMAND = 0x08
    FOOTER = 0x7E


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

_POSTCOPY_ADVISE = 3
_PACKAGED = 7
_NEVER_IN_FILES = {4, 5, 6, 9, 10}
_ITEMS_AFTER_SECTION = {*range(ItemType.EOF, ItemType.SUBSECTION), ItemType.COMMAND}


class NeedDescription(UnsupportedError):
    """A section's length is nowhere to be learned: no vmdescription tells it."""


def decode_name(name: bytes) -> str:
    """Return an idstr or another name from the wire; `encode_name` restores it exactly."""
    return name.decode("utf-8", "surrogateescape")


def encode_name(name: str) -> bytes:
    """Return the bytes that `decode_name` was given."""
    return name.encode("utf-8", "surrogateescape")


def pack_counted(text: bytes) -> bytes:
    """Return a counted string: one length byte, then the bytes."""
    return len(text).to_bytes(1, "big") + text


class _Recorder(Cursor):
    """Reads through another cursor and keeps all that was consumed."""

    def __init__(self, cursor: Cursor) -> None:
        super().__init__(cursor.tell())
        self._cursor = cursor
        self.kept = bytearray()

    def _pull(self) -> memoryview:
        return memoryview(b"")  # never asked: every method below goes to the other cursor

    def peek(self, count: int) -> bytes:
        return self._cursor.peek(count)

    def read(self, count: int, what: str = "") -> bytes:
        if len(self.kept) + count > MAX_PAYLOAD_LENGTH:
            raise UnsupportedError(
                f"{what or 'an item'} is longer than {MAX_PAYLOAD_LENGTH >> 20} MiB",
                offset=self._offset,
            )
        data = self._cursor.read(count, what)
        self.kept += data
        self._offset += count
        return data

    def skip(self, count: int, what: str = "") -> None:
        self.read(count, what)


@dataclass(frozen=True, slots=True)
class Configuration:
    """What the saved machine was (format.md 3.2).

    Attributes
    ----------
    machine : str
        Machine type, such as ``pc-q35-10.0``.
    capabilities : tuple of str
        Those that change the stream, in its order.
    page_bits : int or None
        Logarithm of the target page size; None where it is the guest family's minimum.
    uuid : bytes or None
        16 raw bytes.
    offset : int
        Of the section's marker byte.
    """

    machine: str
    capabilities: tuple[str, ...]
    page_bits: int | None
    uuid: bytes | None
    offset: int
    # The section cut into its head and its subsections, each under its name: what
    # is not edited is written again byte for byte.
    _pieces: tuple[tuple[str, bytes], ...] = field(repr=False)

    @classmethod
    def read(cls, cursor: Cursor) -> Configuration:
        """Read the section, whose marker byte is next.

        Parameters
        ----------
        cursor : Cursor
            Left behind the last subsection.

        Returns
        -------
        Configuration
            The machine and what it was saved with.
        """
        offset = cursor.tell()
        head = _Recorder(cursor)
        head.u8("configuration")
        length = head.u32("machine type")
        if length > MAX_MACHINE_LENGTH:
            raise CorruptError(f"machine type of {length} bytes", offset=offset + 1)
        machine = decode_name(head.read(length, "machine type"))
        pieces = {"": bytes(head.kept)}
        capabilities: tuple[str, ...] = ()
        page_bits = uuid = None
        while cursor.peek(1) == bytes([ItemType.SUBSECTION]):
            at = cursor.tell()
            piece = _Recorder(cursor)
            piece.u8("configuration subsection")
            name = decode_name(piece.counted("configuration subsection"))
            version = piece.u32(name)
            if name in pieces:
                raise CorruptError(f"configuration subsection {name!r} twice", offset=at)
            if version != 1:
                raise UnsupportedError(f"subsection {name!r} version {version}", offset=at)
            if name == PAGE_BITS_SUBSECTION:
                page_bits = _page_bits(piece)
            elif name == CAPABILITIES_SUBSECTION:
                capabilities = _capabilities(piece)
            elif name == UUID_SUBSECTION:
                uuid = piece.read(16, name)
            else:
                raise UnsupportedError(f"configuration subsection {name!r}", offset=at)
            pieces[name] = bytes(piece.kept)
        return cls(machine, capabilities, page_bits, uuid, offset, tuple(pieces.items()))

    @property
    def raw(self) -> bytes:
        """The section as it stands in the stream, marker included."""
        return b"".join(piece for _, piece in self._pieces)

    @property
    def length(self) -> int:
        """Bytes that the section takes, marker included."""
        return sum(len(piece) for _, piece in self._pieces)

    @property
    def page_size(self) -> int:
        """Target page size, 4096 where the stream is silent as on x86."""
        return 1 << (self.page_bits or DEFAULT_PAGE_BITS)

    @property
    def unknown_capabilities(self) -> tuple[str, ...]:
        """Capabilities whose effect on the stream this release does not know."""
        return tuple(name for name in self.capabilities if name not in VALIDATED_CAPABILITIES)

    def pack(self) -> bytes:
        """Return the bytes that `read` accepts."""
        return self.raw

    def with_capability(self, name: str, on: bool) -> Configuration:
        """Switch a capability, leaving all else byte for byte (format.md 6.1, 6.2).

        Parameters
        ----------
        name : str
            The capability.
        on : bool
            Whether it shall be listed.

        Returns
        -------
        Configuration
            This very one if nothing changes.
        """
        if on == (name in self.capabilities):
            return self
        if on:
            names = (*self.capabilities, name)
        else:
            names = tuple(other for other in self.capabilities if other != name)
        pieces = dict(self._pieces)
        if not names:
            del pieces[CAPABILITIES_SUBSECTION]
        elif CAPABILITIES_SUBSECTION in pieces:
            pieces[CAPABILITIES_SUBSECTION] = _pack_capabilities(names)
        else:
            # QEMU's place for it: after the page bits, before the UUID.
            order = list(pieces)
            place = order.index(PAGE_BITS_SUBSECTION if PAGE_BITS_SUBSECTION in order else "") + 1
            order.insert(place, CAPABILITIES_SUBSECTION)
            pieces[CAPABILITIES_SUBSECTION] = _pack_capabilities(names)
            pieces = {key: pieces[key] for key in order}
        return replace(self, capabilities=names, _pieces=tuple(pieces.items()))


def _page_bits(cursor: Cursor) -> int:
    at = cursor.tell()
    bits = cursor.u32(PAGE_BITS_SUBSECTION)
    if not 10 <= bits <= 16:
        raise CorruptError(f"target page of 2**{bits} bytes", offset=at)
    return bits


def _capabilities(cursor: Cursor) -> tuple[str, ...]:
    at = cursor.tell()
    count = cursor.u32("capability count")
    if count > MAX_CAPABILITIES:
        raise CorruptError(f"{count} capabilities", offset=at)
    names = tuple(decode_name(cursor.counted("capability")) for _ in range(count))
    if len(set(names)) < count:
        raise CorruptError("a capability is listed twice", offset=at)
    return names


def _pack_capabilities(names: tuple[str, ...]) -> bytes:
    return b"".join(
        (
            bytes([ItemType.SUBSECTION]),
            pack_counted(CAPABILITIES_SUBSECTION.encode()),
            (1).to_bytes(4, "big"),
            len(names).to_bytes(4, "big"),
            *(pack_counted(encode_name(name)) for name in names),
        )
    )


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
    def page_size_summary(self) -> int | None:
        """All RAM page sizes OR-ed together, which only a full POSTCOPY_ADVISE tells."""
        if self.number != _POSTCOPY_ADVISE or not self.data:
            return None
        return int.from_bytes(self.data[:8], "big")

    def pack(self) -> bytes:
        """Return the item as it stands in the stream."""
        head = (ItemType.COMMAND << 32 | self.number << 16 | len(self.data)).to_bytes(5, "big")
        return head + self.data


@dataclass(frozen=True, slots=True)
class SectionHead:
    """The head of a section; a PART or END repeats what its START announced."""

    offset: int
    kind: ItemType
    section_id: int
    idstr: str
    instance_id: int
    version: int

    def __str__(self) -> str:
        return f"{self.kind.name} section of {self.idstr!r} instance {self.instance_id}"

    @property
    def announces(self) -> bool:
        """Whether it carries name, instance and version itself."""
        return self.kind in (ItemType.START, ItemType.FULL)

    def pack(self) -> bytes:
        """Return the head as it stands in the stream, up to the payload."""
        head = (self.kind << 32 | self.section_id).to_bytes(5, "big")
        if not self.announces:
            return head
        numbers = (self.instance_id << 32 | self.version).to_bytes(8, "big")
        return head + pack_counted(encode_name(self.idstr)) + numbers

    def pack_footer(self) -> bytes:
        """Return the footer that closes the section."""
        return (ItemType.FOOTER << 32 | self.section_id).to_bytes(5, "big")


@dataclass(frozen=True, slots=True)
class EndOfStream:
    """The EOF item; a vmdescription may follow it."""

    offset: int


class StreamWalker:
    """Goes through a stream item by item, from behind the configuration to EOF.

    After each `SectionHead` the caller consumes the payload, itself (``ram``) or with
    `read_payload` or `skip_payload`, and then calls `finish_section`.

    Parameters
    ----------
    cursor : Cursor
        At an item.
    description : Description, optional
        Tells the length of FULL sections.
    findings : list of Finding, optional
        Receives oddities that do not hinder.
    """

    def __init__(
        self,
        cursor: Cursor,
        *,
        description: Description | None = None,
        findings: list[Finding] | None = None,
    ) -> None:
        self.cursor = cursor
        self.description = description
        self.has_footers: bool | None = None
        self._findings = findings
        self._announced: dict[int, SectionHead] = {}
        self._ids: dict[tuple[str, int], int] = {}

    def next_item(self) -> Command | SectionHead | EndOfStream:
        """Read the next item up to its payload.

        Returns
        -------
        Command, SectionHead or EndOfStream
            Nothing of the stream but a vmdescription follows the last.
        """
        offset = self.cursor.tell()
        kind = self.cursor.u8("the stream, before its EOF mark")
        match kind:
            case ItemType.EOF:
                return EndOfStream(offset)
            case ItemType.COMMAND:
                return self._command(offset)
            case ItemType.START | ItemType.FULL:
                return self._announcement(offset, ItemType(kind))
            case ItemType.PART | ItemType.END:
                return self._continuation(offset, ItemType(kind))
        raise CorruptError(f"no item begins with byte {kind:#04x}", offset=offset)

    def payload_length(self, head: SectionHead) -> int | None:
        """Return the length of a payload where the vmdescription tells it, else None."""
        if head.kind is not ItemType.FULL or self.description is None:
            return None
        return self.description.sections.get((head.idstr, head.instance_id))

    def read_payload(self, head: SectionHead) -> bytes:
        """Consume the payload of a section and return it.

        Returns
        -------
        bytes
            The payload, without the footer.

        Raises
        ------
        NeedDescription
            If nothing tells where it ends.
        """
        recorder = _Recorder(self.cursor)
        self._pass_over(recorder, head)
        return bytes(recorder.kept)

    def skip_payload(self, head: SectionHead) -> None:
        """Consume a payload unseen; raises as `read_payload`."""
        self._pass_over(self.cursor, head)

    def finish_section(self, head: SectionHead) -> None:
        """Read and check the footer behind a payload.

        A stream may do without footers (machine types before QEMU 2.4), but then its
        first section shows it.

        Parameters
        ----------
        head : SectionHead
            The section that ends here.
        """
        offset = self.cursor.tell()
        if self.has_footers is None:
            first = self.cursor.peek(1)
            self.has_footers = not first or first[0] not in _ITEMS_AFTER_SECTION
            if not self.has_footers:
                advice = "QEMU loads it with migration.send-section-footer=off only"
                self._warn("stream.no-footers", "sections lack footers", offset, advice)
        if not self.has_footers:
            return
        if self.cursor.peek(5) == head.pack_footer():
            return self.cursor.skip(5)
        mark = self.cursor.u8(f"the footer of the {head}")
        if mark != ItemType.FOOTER:
            raise CorruptError(
                f"byte {mark:#04x} where the footer of the {head} belongs", offset=offset
            )
        section_id = self.cursor.u32(f"the footer of the {head}")
        if section_id != head.section_id:
            raise CorruptError(
                f"footer of section {section_id}, but the {head} is section {head.section_id}",
                offset=offset,
            )

    def _command(self, offset: int) -> Command:
        number = self.cursor.u16("command")
        length = self.cursor.u16("command")
        name, lengths = COMMANDS.get(number, ("", ()))
        if not name:
            raise CorruptError(f"unknown command {number}", offset=offset)
        if lengths is not None and length not in lengths:
            raise CorruptError(f"command {name} with {length} bytes of data", offset=offset)
        if number == _PACKAGED:
            raise UnsupportedError(
                "a stream packed inside the stream, as postcopy sends to a live destination",
                offset=offset,
            )
        if number in _NEVER_IN_FILES:
            message = f"command {name} belongs to live migration, not into a file"
            self._warn("stream.postcopy-command", message, offset, "QEMU may refuse to load it")
        return Command(offset, number, self.cursor.read(length, f"command {name}"))

    def _announcement(self, offset: int, kind: ItemType) -> SectionHead:
        section_id = self.cursor.u32("section id")
        idstr = decode_name(self.cursor.counted("section name"))
        instance_id = self.cursor.u32("section instance")
        version = self.cursor.u32("section version")
        head = SectionHead(offset, kind, section_id, idstr, instance_id, version)

        earlier = self._announced.setdefault(section_id, head)
        if (earlier.idstr, earlier.instance_id) != (idstr, instance_id):
            raise CorruptError(
                f"section {section_id} is {earlier.idstr!r} instance {earlier.instance_id} and "
                f"{idstr!r} instance {instance_id}",
                offset=offset,
            )
        if len(self._announced) > MAX_SECTIONS:
            raise UnsupportedError(f"more than {MAX_SECTIONS} sections", offset=offset)
        known_id = self._ids.setdefault((idstr, instance_id), section_id)
        if known_id != section_id:
            message = f"{idstr!r} instance {instance_id} has two ids: {known_id} and {section_id}"
            self._warn("stream.two-ids", message, offset, "the image may be forged or damaged")
        return head

    @property
    def announced(self) -> tuple[SectionHead, ...]:
        """Iterable sections that were started."""
        return tuple(h for h in self._announced.values() if h.kind is ItemType.START)

    def announce(self, head: SectionHead) -> None:
        """Take note of a START that was read elsewhere."""
        self._announced[head.section_id] = head
        self._ids[head.idstr, head.instance_id] = head.section_id

    def _continuation(self, offset: int, kind: ItemType) -> SectionHead:
        section_id = self.cursor.u32("section id")
        start = self._announced.get(section_id)
        if start is None or start.kind is not ItemType.START:
            raise CorruptError(f"{kind.name} of section {section_id}, never started", offset=offset)
        return SectionHead(offset, kind, section_id, start.idstr, start.instance_id, start.version)

    def _pass_over(self, cursor: Cursor, head: SectionHead) -> None:
        length = self.payload_length(head)
        if length is not None:
            cursor.skip(length, f"the {head}")
        elif (pass_over := iterables.find(head.idstr)) is not None:
            pass_over(cursor)
        else:
            why = "no vmdescription" if self.description is None else "not described"
            message = f"nothing tells the length of the {head}: {why}"
            raise NeedDescription(message, offset=head.offset)

    def _warn(self, code: str, message: str, offset: int, advice: str) -> None:
        if self._findings is not None:
            self._findings.append(Finding(code, Severity.WARNING, message, offset, advice))


def guess_payload_length(data: bytes, section_id: int, start: int = 0) -> int | None:
    """Find the end of a payload by its footer: a guess, to be reported as one.

    Parameters
    ----------
    data : bytes
        The stream from the payload's first byte on.
    section_id : int
        Of the section.
    start : int
        The least length to consider, for the next try after a wrong guess.

    Returns
    -------
    int or None
        Length up to the first footer that a plausible item follows (format.md 3.7).
    """
    footer = (ItemType.FOOTER << 32 | section_id).to_bytes(5, "big")
    found = data.find(footer, start)
    while found >= 0:
        if _plausible_item(data[found + len(footer) : found + len(footer) + 16]):
            return found
        found = data.find(footer, found + 1)
    return None


def _plausible_item(data: bytes) -> bool:
    match data[:1]:
        case b"\x00":
            return data[1:2] in (b"", bytes([ItemType.VMDESCRIPTION]))
        case b"\x01" | b"\x04":  # a name is not empty and begins with a printable byte
            return len(data) > 6 and data[5] > 0 and data[6] > 0x20
        case b"\x02" | b"\x03":
            return len(data) >= 5
        case b"\x08":
            return int.from_bytes(data[1:3], "big") in COMMANDS
    return False
