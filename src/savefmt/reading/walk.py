"""The walk over a stream, from its magic to its end: the one loop over its items.

A `Visitor` is anything that reads something from a stream. Only this module knows where
payloads end, which size pages have, where the stream ends, and that the bytes behind it belong
to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from savefmt.errors import CorruptError, UnsupportedError
from savefmt.format import ram
from savefmt.format.configuration import IGNORE_SHARED, MAPPED_RAM, Configuration
from savefmt.format.cursor import Cursor
from savefmt.format.ram import BlockList, common_page_size
from savefmt.format.stream import (
    Advice,
    Command,
    EndOfStream,
    ItemReader,
    SectionHead,
    read_header,
)
from savefmt.format.tee import Tee
from savefmt.format.vmstate import Description
from savefmt.format.wire import ItemType
from savefmt.frozen import dataclass
from savefmt.model import Finding, Repair, Section, Severity
from savefmt.reading.firstpages import infer_page_size
from savefmt.reading.framing import Evidence, Framing
from savefmt.reading.repeats import LONGEST, Repeats

Take = Callable[[bytes | memoryview], object]
"""Gets a payload in pieces, each valid only during the call."""


class PageSink(Protocol):
    """Takes the page records of one section at a time."""

    def take(self, cursor: Cursor) -> Iterator[int]:
        """Consume a payload up to its end marker, yielding the offset reached."""


class Visitor(Protocol):
    """What a walk reports to."""

    @property
    def spares_repeats(self) -> bool:
        """Whether it need not be told of sections that repeat an earlier one byte for byte."""

    def begin(self, configuration: Configuration | None) -> None:
        """The stream begins."""

    def command(self, command: Command) -> None:
        """A command came by."""

    def section(self, head: SectionHead) -> Take | None:
        """A section other than RAM begins; what is returned gets its payload."""

    def ram_start(self, head: SectionHead, blocks: BlockList) -> PageSink:
        """The block list was read; the sink gets all pages from here on."""

    def section_end(self, head: SectionHead, footer: bytes, end: int) -> None:
        """A section, RAM or other, ended in front of the offset `end`."""


class Onlooker:
    """A visitor that wants nothing, to derive others from; it has no use for pages."""

    @property
    def spares_repeats(self) -> bool:
        """Those derived from this one are told of everything, unless they say otherwise."""
        return False

    def begin(self, configuration: Configuration | None) -> None:
        """Nothing to do."""
        return

    def command(self, command: Command) -> None:
        """Nothing to do."""
        return

    def section(self, head: SectionHead) -> Take | None:
        """Nothing of its payload is wanted."""
        return None

    def ram_start(self, head: SectionHead, blocks: BlockList) -> PageSink:
        """A walk over pages needs somebody who takes them."""
        raise NotImplementedError

    def section_end(self, head: SectionHead, footer: bytes, end: int) -> None:
        """Nothing to do."""
        return


@dataclass(frozen=True, slots=True)
class StreamHead:
    """A stream up to its block list.

    Attributes
    ----------
    configuration : Configuration or None
        None for machine types older than QEMU 2.4.
    commands : tuple of Command
        Commands before the block list.
    ram : SectionHead or None
        The START of `ram`; None in a stream of device state alone.
    blocks : BlockList
        What it lists.
    early : tuple of str
        Names of the sections before it.
    """

    configuration: Configuration | None
    commands: tuple[Command, ...]
    ram: SectionHead | None
    blocks: BlockList
    early: tuple[str, ...] = ()

    @property
    def mapped(self) -> bool:
        """Whether the stream is a mapped-ram one."""
        return has_capability(self.configuration, MAPPED_RAM)


NO_STREAM = StreamHead(None, (), None, BlockList((), 0, common_page_size(()), 0, 0))
"""Of an unfinished image that QEMU has not begun to write to."""


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """What a walk found.

    Attributes
    ----------
    sections : tuple of Section
        The FULL ones, which hold device state, with their places.
    ram_end : int or None
        Behind the END section of RAM.
    eof : int
        Where the EOF mark stands.
    description : Description or None
        The vmdescription, if one follows the mark.
    end : int
        Behind the last byte of the stream.
    missing : str or None
        Why `sections` are not all that the stream has.
    followed : bool
        Whether anything stands behind the stream.
    findings : tuple of Finding
        What is odd about the stream.
    stored_end : int or None
        Where in the file the compressed data end that hold the stream.
    """

    sections: tuple[Section, ...]
    ram_end: int | None
    eof: int
    description: Description | None
    end: int
    missing: str | None
    followed: bool
    findings: tuple[Finding, ...] = ()
    stored_end: int | None = None


def has_capability(configuration: Configuration | None, name: str) -> bool:
    """Tell whether the stream was saved with a capability that changes it."""
    return configuration is not None and name in configuration.capabilities


class Walk:
    """One walk over one stream.

    Parameters
    ----------
    cursor : Cursor
        At the magic.
    visitor : Visitor
        Told of all that comes by.
    tick : callable, optional
        Told the stream offset reached, often; what it raises ends the walk.
    findings : list of Finding, optional
        Receives oddities.
    length : int, optional
        Where the file ends, to tell how much follows the stream.
    page_size : int, optional
        What an earlier walk over the same stream found, to be spared looking again.
    """

    def __init__(
        self,
        cursor: Cursor,
        visitor: Visitor,
        tick: Callable[[int], None] = lambda offset: None,
        *,
        findings: list[Finding] | None = None,
        length: int | None = None,
        page_size: int | None = None,
    ) -> None:
        self._cursor = cursor
        self._visitor = visitor
        self._tick = tick
        self._findings: list[Finding] = [] if findings is None else findings
        self._length = length
        self._page_size = page_size
        self._reader = ItemReader(cursor, findings=self._findings)
        self._framing = Framing(self._reader)
        self._repeats = Repeats() if visitor.spares_repeats else None
        self._configuration: Configuration | None = None
        self._commands: list[Command] = []
        self._early: list[str] = []
        self._advice: Advice | None = None
        self._ram: SectionHead | None = None
        self._blocks = NO_STREAM.blocks
        self._sink: PageSink | None = None
        self._sections: list[Section] = []
        self._ram_end: int | None = None
        self._missing: str | None = None
        self._found_by_footer = 0

    def read_head(self) -> StreamHead:
        """Walk to the end of the block list, or of a stream without one."""
        self._begin()
        while True:
            item = self._reader.next_item()
            if isinstance(item, SectionHead) and item.idstr == ram.IDSTR:
                self._read_blocks(item)
            elif not isinstance(item, EndOfStream):
                self._pass(item)
                continue
            return StreamHead(
                self._configuration,
                tuple(self._commands),
                self._ram,
                self._blocks,
                tuple(self._early),
            )

    def run(self) -> StreamEnd:
        """Walk to the end of the stream.

        Returns
        -------
        StreamEnd
            Where that is, and what came by.

        Raises
        ------
        FormatError, UnsupportedError
            What the stream breaks, or what cannot be passed over.
        """
        self._begin()
        return self.go_on()

    def go_on(self, *, within: SectionHead | None = None) -> StreamEnd:
        """Walk on to the end of the stream from where the cursor is now.

        Parameters
        ----------
        within : SectionHead, optional
            Of the ``ram`` section in whose payload it is; otherwise it is at an item.

        Returns
        -------
        StreamEnd
            As `run` does.
        """
        if within is not None:
            self._pass_ram(within)
        while not isinstance(item := self._reader.next_item(), EndOfStream):
            if isinstance(item, SectionHead) and item.idstr == ram.IDSTR:
                self._pass_ram(item)
            else:
                self._pass(item)
            if self._repeats is not None:
                self._found_by_footer += self._repeats.skip(self._cursor)
        return self._end(item)

    @property
    def ram_end(self) -> int | None:
        """Behind the END section of RAM, if that came by."""
        return self._ram_end

    @property
    def ram(self) -> SectionHead | None:
        """The START of RAM, if it came by; perhaps its block list cannot be read."""
        return self._ram

    @property
    def configuration(self) -> Configuration | None:
        """The configuration section, if the stream has one and it came by."""
        return self._configuration

    @property
    def has_footers(self) -> bool:
        """Whether sections end in footers, as far as that is known."""
        return bool(self._reader.has_footers)

    @property
    def seen(self) -> tuple[Section, ...]:
        """The FULL sections that came by so far."""
        return tuple(self._sections)

    # --- before and around RAM ---

    def _begin(self) -> None:
        self._configuration = configuration = read_header(self._cursor)
        unknown = configuration.unknown_capabilities if configuration else ()
        if configuration and unknown:
            raise UnsupportedError(
                f"the stream was saved with capability {unknown[0]!r}, which this release does "
                "not know; its pages cannot be found safely",
                offset=configuration.offset,
            )
        self._visitor.begin(configuration)

    def _pass(self, item: Command | SectionHead) -> None:
        if isinstance(item, Command):
            self._advice = item.advice or self._advice
            if self._ram is None:
                self._commands.append(item)
            self._visitor.command(item)
            return
        if self._ram is None:
            self._early.append(item.idstr)
        take = self._visitor.section(item)
        start = self._cursor.tell()
        ahead = self._cursor.peek(LONGEST) if self._repeats is not None else b""
        cursor = Tee(self._cursor, take) if take is not None else self._cursor
        evidence = self._framing.pass_payload(cursor, item)
        length = self._cursor.tell() - start
        if evidence is Evidence.NOTHING:
            self._missing = f"nothing tells the length of the {item}"
            self._visitor.section_end(item, b"", self._cursor.tell())
            return
        guessed = evidence is not Evidence.TOLD
        self._found_by_footer += guessed
        if item.kind is ItemType.FULL:
            self._sections.append(section_of(item, start, length))
        footer = self._finish(item)
        if self._repeats is not None:
            self._repeats.remember(item, ahead[:length], footer, guessed=guessed)

    def _finish(self, head: SectionHead) -> bytes:
        footer = self._reader.finish_section(head)
        self._visitor.section_end(head, footer, self._cursor.tell())
        return footer

    # --- RAM ---

    def _pass_ram(self, head: SectionHead) -> None:
        if head.kind is ItemType.START:
            self._read_blocks(head)
            self._sink = self._visitor.ram_start(head, self._blocks)
        if self._sink is None:
            raise CorruptError("RAM pages come before the block list", offset=head.offset)
        empty = self._cursor.peek(len(ram.EOS_WORD)) == ram.EOS_WORD
        if empty:
            self._cursor.skip(len(ram.EOS_WORD))  # live saves have thousands of these
        else:
            for offset in self._sink.take(self._cursor):
                self._tick(offset)
        footer = self._finish(head)
        if empty and self._repeats is not None:
            self._repeats.remember(head, ram.EOS_WORD, footer)
        if head.kind is ItemType.END:
            self._ram_end = self._cursor.tell()
            self._framing.ram_ended = True

    def _read_blocks(self, head: SectionHead) -> None:
        if self._ram is not None:
            raise UnsupportedError(
                "the stream has a second START section of ram, which this release does not read",
                offset=head.offset,
            )
        if head.version != ram.SECTION_VERSION:
            raise UnsupportedError(
                f"ram section version {head.version}; QEMU has written version 4 since 2011",
                offset=head.offset,
            )
        configuration = self._configuration
        self._ram = head
        self._blocks = ram.read_block_list(
            self._cursor,
            mapped=has_capability(configuration, MAPPED_RAM),
            ignore_shared=has_capability(configuration, IGNORE_SHARED),
            postcopy=self._advice,
            page_size=configuration.page_size if configuration is not None else None,
            infer=lambda blocks: self._page_size or infer_page_size(self._reader, head, blocks),
            findings=self._findings,
        )
        names = (block.name for block in self._blocks.blocks)
        self._framing.expect_pages(names, self._blocks.page_size)

    # --- the end ---

    def _end(self, item: EndOfStream) -> StreamEnd:
        cursor = self._cursor
        description = self._read_description()
        end = cursor.tell()
        if description is not None:
            self._compare(description)
        followed = bool(cursor.peek(1))
        if followed:
            self._note_rest(end)
        if self._found_by_footer:
            self._note(
                "stream.guessed-length",
                Severity.NOTE,
                f"nothing tells the lengths of {self._found_by_footer} sections; savefmt found "
                "their ends by their footers",
                item.offset,
                "compare the result with a second save of the same guest",
            )
        return StreamEnd(
            tuple(self._sections),
            self._ram_end,
            item.offset,
            description,
            end,
            self._missing,
            followed,
            tuple(self._findings),
        )

    def _read_description(self) -> Description | None:
        """Read what follows the EOF mark, if it is a description at all."""
        cursor = self._cursor
        if cursor.peek(6)[5:] not in (b"{", b""):  # without a sixth byte, it may have been cut
            return None
        offset = cursor.tell()
        known = self._framing.description
        if known is not None and known.offset == offset:
            cursor.skip(known.end - offset)
            return known
        try:
            return Description.read(cursor)
        except CorruptError as error:
            self._note(
                "vmdescription.damaged",
                Severity.ERROR,
                error.message,
                error.offset or offset,
                "QEMU ignores it, so the image may load all the same",
            )
            return None

    def _compare(self, description: Description) -> None:
        """Hold what was walked over against what the writer says it is."""
        size = description.page_size
        if self._ram is not None and size is not None and size != self._blocks.page_size:
            raise CorruptError(
                f"the vmdescription tells of pages of {size} bytes, and the pages that were "
                f"read are {self._blocks.page_size} bytes long",
                offset=description.offset,
            )
        told = description.sections
        lacking = [s for s in self._sections if (s.idstr, s.instance_id) not in told]
        if lacking:
            first = lacking[0]
            self._note(
                "vmdescription.lacking",
                Severity.WARNING,
                f"the vmdescription does not describe {len(lacking)} sections of the stream, "
                f"for example {first.idstr!r} {first.instance_id}",
                first.offset,
                "the image may be forged or damaged",
            )
        for section in self._sections:
            length = told.get((section.idstr, section.instance_id))
            if length not in (None, section.length):
                self._note(
                    "vmdescription.contradiction",
                    Severity.WARNING,
                    f"section {section.idstr!r} {section.instance_id} is {section.length} bytes "
                    f"long, and described as {length}",
                    section.offset,
                    "the image may be forged or damaged",
                )

    def _note_rest(self, end: int) -> None:
        count = "" if self._length is None else f"{self._length - end} "
        self._note(
            "stream.trailing-data",
            Severity.NOTE,
            f"{count}bytes follow the stream; they are ignored",
            end,
            "QEMU never reads them, and no command of savefmt carries them along",
            Repair.TRAILING if self._length is not None else None,
        )

    def _note(
        self,
        code: str,
        severity: Severity,
        message: str,
        offset: int | None,
        advice: str,
        repair: Repair | None = None,
    ) -> None:
        self._findings.append(Finding(code, severity, message, offset, advice, repair))


def section_of(head: SectionHead, offset: int | None, length: int | None) -> Section:
    """Return the public value for a section head."""
    return Section(head.idstr, head.instance_id, head.version, head.section_id, offset, length)
