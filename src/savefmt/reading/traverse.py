"""Go through a sequential stream once: pages to a sink, the rest to a visitor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from savefmt.errors import CorruptError, SavefmtError, UnsupportedError
from savefmt.format import ram
from savefmt.format.cursor import Cursor
from savefmt.format.ram import BlockList
from savefmt.format.stream import (
    IGNORE_SHARED,
    MAPPED_RAM,
    Command,
    Configuration,
    EndOfStream,
    ItemType,
    NeedDescription,
    SectionHead,
    StreamWalker,
    guess_payload_length,
    read_header,
)
from savefmt.format.vmstate import Description
from savefmt.frozen import dataclass
from savefmt.model import Finding, Section, Severity, StrPath
from savefmt.reading.tail import Tail, spool_tail

_GUESS_LIMIT = 16 << 20
"""How far a footer is searched behind a payload of unknown length."""


class PageSink(Protocol):
    """Takes the page records of one section at a time."""

    def take(self, cursor: Cursor) -> Iterator[int]:
        """Consume a payload up to its end marker, yielding the offset reached."""


class Visitor(Protocol):
    """What a pass over a stream reports to."""

    def begin(self, configuration: Configuration | None) -> None:
        """The stream begins."""

    def command(self, command: Command) -> None:
        """A command came by."""

    def section(self, head: SectionHead, payload: bytes, footer: bytes) -> None:
        """A section other than RAM came by before RAM ended."""

    def ram_start(self, head: SectionHead, blocks: BlockList) -> PageSink:
        """The block list was read; the sink gets all pages from here on."""

    def ram_section(self, head: SectionHead, footer: bytes) -> None:
        """A RAM section (START too) ended behind its end marker."""


@dataclass(frozen=True, slots=True)
class StreamHead:
    """A stream up to its block list.

    Attributes
    ----------
    configuration : Configuration or None
        None for machine types older than QEMU 2.4.
    commands : tuple of Command
        Commands before the block list.
    ram : SectionHead
        The START of `ram`.
    blocks : BlockList
        What it lists.
    early : tuple of str
        Names of the sections before it.
    """

    configuration: Configuration | None
    commands: tuple[Command, ...]
    ram: SectionHead
    blocks: BlockList
    early: tuple[str, ...] = ()

    @property
    def mapped(self) -> bool:
        """Whether the stream is a mapped-ram one."""
        return has_capability(self.configuration, MAPPED_RAM)


def has_capability(configuration: Configuration | None, name: str) -> bool:
    """Tell whether the stream was saved with a capability that changes it."""
    return configuration is not None and name in configuration.capabilities


def _check_capabilities(configuration: Configuration | None) -> None:
    unknown = configuration.unknown_capabilities if configuration else ()
    if configuration and unknown:
        raise UnsupportedError(
            f"the stream was saved with capability {unknown[0]!r}, which this release does "
            "not know; its pages cannot be found safely",
            offset=configuration.offset,
        )


def _read_blocks(
    cursor: Cursor,
    head: SectionHead,
    configuration: Configuration | None,
    postcopy: int | None,
    page_size: int | None,
    findings: list[Finding] | None,
) -> BlockList:
    if head.version != ram.SECTION_VERSION:
        raise UnsupportedError(
            f"ram section version {head.version}; QEMU has written version 4 since 2011",
            offset=head.offset,
        )
    return ram.read_block_list(
        cursor,
        mapped=has_capability(configuration, MAPPED_RAM),
        ignore_shared=has_capability(configuration, IGNORE_SHARED),
        postcopy=postcopy,
        page_size=page_size,
        findings=findings,
    )


def stream_page_size(
    configuration: Configuration | None, description: Description | None
) -> int | None:
    """Best source of the target page size outside the block list (format.md 4.5)."""
    if configuration is not None and configuration.page_bits is not None:
        return configuration.page_size
    size = description.page_size if description is not None else None
    if size is not None and 1024 <= size <= 65536 and size.bit_count() == 1:
        return size
    return None


def read_head(
    cursor: Cursor,
    *,
    description: Description | None = None,
    findings: list[Finding] | None = None,
) -> StreamHead:
    """Read a stream from its magic to the end of its block list.

    Parameters
    ----------
    cursor : Cursor
        At the magic.
    description : Description, optional
        Tells the lengths of sections before RAM, and the page size.
    findings : list of Finding, optional
        Receives oddities.

    Returns
    -------
    StreamHead
        What the stream says of itself.

    Raises
    ------
    CorruptError
        If the stream ends before any RAM.
    """
    configuration = read_header(cursor)
    _check_capabilities(configuration)
    walker = StreamWalker(cursor, description=description, findings=findings)
    commands: list[Command] = []
    early: list[str] = []
    postcopy = None
    while True:
        item = walker.next_item()
        if isinstance(item, Command):
            commands.append(item)
            postcopy = item.page_size_summary or postcopy
        elif isinstance(item, EndOfStream):
            raise CorruptError("the stream holds no RAM at all", offset=item.offset)
        elif item.idstr == ram.IDSTR:
            size = stream_page_size(configuration, description)
            blocks = _read_blocks(cursor, item, configuration, postcopy, size, findings)
            return StreamHead(configuration, tuple(commands), item, blocks, tuple(early))
        else:
            early.append(item.idstr)
            take_payload(walker, item, findings)
            walker.finish_section(item)


def take_payload(walker: StreamWalker, head: SectionHead, findings: list[Finding] | None) -> bytes:
    """Consume the payload of a section other than RAM, guessing its end if need be.

    Returns
    -------
    bytes
        The payload.

    Raises
    ------
    NeedDescription
        If not even a guess can be made.
    """
    try:
        return walker.read_payload(head)
    except NeedDescription:
        ahead = walker.cursor.peek(_GUESS_LIMIT)
        length = guess_payload_length(ahead, head.section_id)
        if length is None:
            raise
        if findings is not None:
            findings.append(
                Finding(
                    "stream.guessed-length",
                    Severity.WARNING,
                    f"nothing tells the length of the {head}; it was guessed from its footer",
                    head.offset,
                    "compare the result with a second save of the same guest",
                )
            )
        return walker.cursor.read(length, str(head))


def traverse(
    cursor: Cursor,
    visitor: Visitor,
    tick: Callable[[int], None],
    *,
    path: StrPath,
    description: Description | None = None,
    findings: list[Finding] | None = None,
) -> Tail:
    """Go through a sequential stream from its magic on.

    Parameters
    ----------
    cursor : Cursor
        At the magic.
    visitor : Visitor
        Told of all up to the end of RAM.
    tick : callable
        Told the stream offset reached, often; what it raises ends the pass.
    path : str or os.PathLike
        For error messages.
    description : Description, optional
        Where it is known beforehand.
    findings : list of Finding, optional
        Receives oddities.

    Returns
    -------
    Tail
        All behind the end of RAM, to be closed by the caller.
    """
    try:
        return _Pass(cursor, visitor, tick, description, findings).run()
    except SavefmtError as error:
        if error.path is None:
            error.path = path
        raise


class _Pass:
    def __init__(
        self,
        cursor: Cursor,
        visitor: Visitor,
        tick: Callable[[int], None],
        description: Description | None,
        findings: list[Finding] | None,
    ) -> None:
        self._cursor = cursor
        self._visitor = visitor
        self._tick = tick
        self._description = description
        self._findings = findings
        self._walker = StreamWalker(cursor, description=description, findings=findings)
        self._sink: PageSink | None = None

    def run(self) -> Tail:
        configuration = read_header(self._cursor)
        _check_capabilities(configuration)
        if has_capability(configuration, MAPPED_RAM):
            raise UnsupportedError(
                "this is a mapped-ram stream, whose pages lie at fixed places: it can be read "
                "from a regular, uncompressed file only, not from a pipe"
            )
        self._visitor.begin(configuration)
        postcopy = None
        while True:
            item = self._walker.next_item()
            if isinstance(item, Command):
                postcopy = item.page_size_summary or postcopy
                self._visitor.command(item)
            elif isinstance(item, EndOfStream):
                if self._sink is None:
                    raise CorruptError("the stream holds no RAM at all", offset=item.offset)
                return self._tail(item.offset, prefix=bytes([ItemType.EOF]))
            elif item.idstr == ram.IDSTR:
                self._ram(item, configuration, postcopy)
                if item.kind is ItemType.END:
                    return self._tail(self._cursor.tell())
            else:
                payload = take_payload(self._walker, item, self._findings)
                self._visitor.section(item, payload, self._footer(item))

    def _footer(self, head: SectionHead) -> bytes:
        self._walker.finish_section(head)
        return head.pack_footer() if self._walker.has_footers else b""

    def _ram(
        self, head: SectionHead, configuration: Configuration | None, postcopy: int | None
    ) -> None:
        if head.kind is ItemType.START:
            if self._sink is not None:
                raise UnsupportedError("a second START of ram", offset=head.offset)
            size = stream_page_size(configuration, self._description)
            blocks = _read_blocks(self._cursor, head, configuration, postcopy, size, self._findings)
            self._sink = self._visitor.ram_start(head, blocks)
        if self._sink is None:
            raise CorruptError("RAM pages come before the block list", offset=head.offset)
        for offset in self._sink.take(self._cursor):
            self._tick(offset)
        self._visitor.ram_section(head, self._footer(head))

    def _tail(self, offset: int, prefix: bytes = b"") -> Tail:
        walker = self._walker
        return spool_tail(self._cursor, offset, prefix, bool(walker.has_footers), walker.announced)


def section_of(head: SectionHead, offset: int | None, length: int | None) -> Section:
    """Return the public value for a section head."""
    return Section(head.idstr, head.instance_id, head.version, head.section_id, offset, length)
