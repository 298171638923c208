"""Ends of payloads whose length the stream does not state, or states only behind them.

A section ends with a footer, and then another item follows. A second cursor goes from footer to
footer, up to the next RAM section or to the EOF mark. The place that it reaches shows whether
it was right, and so the lengths are known before the walk itself gets there.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from struct import Struct

from savefmt.errors import FormatError, SavefmtError, TruncatedError, UnsupportedError
from savefmt.format import iterables, ram
from savefmt.format.cursor import Cursor, LookaheadError
from savefmt.format.pagesize import may_begin_record
from savefmt.format.stream import (
    COMMANDS,
    FOOTER_LENGTH,
    Command,
    EndOfStream,
    ItemReader,
    SectionHead,
)
from savefmt.format.vmstate import Description, find_ahead
from savefmt.format.wire import PAGE_SIZES, ItemType, decode_name
from savefmt.frozen import dataclass

_LOOK_LENGTH = FOOTER_LENGTH + 1 + 4 + 1 + 255 + 8 + 8
"""A footer, the longest head of a section, and a RAM word behind it."""

_LAST_SECTION, _LAST_LENGTH = "globalstate", 104
"""What nearly every machine sends last: nothing but the EOF mark is behind it."""

_MAX_CANDIDATES = 4
"""Descriptions that are tried: no stream but a forged one shows more than one."""

_EOF_REACH = 256 << 10
"""How far behind a possible EOF mark another section still proves that it is not the EOF mark."""

_NUMBERS = Struct(">II")  # instance and version

SectionKey = tuple[str, int]
"""Idstr and instance."""


class Evidence(enum.Enum):
    """What tells where a payload ends."""

    TOLD = "the stream itself"
    FOOTERS = "footers, by which the walk comes to where it must"
    GUESS = "a footer and what follows it"
    NOTHING = "nothing: all that is left is taken for it"


@dataclass(frozen=True, slots=True)
class Route:
    """A way over sections that was gone before.

    Attributes
    ----------
    lengths : mapping of int to int
        Length of each payload by its offset.
    eof : int or None
        Where the EOF mark stands; None where a RAM section ends the way.
    proved : bool
        Whether a description behind the EOF mark tells the same lengths.
    """

    lengths: Mapping[int, int]
    eof: int | None = None
    proved: bool = False


class Framing:
    """Finds the ends of payloads in one stream.

    Parameters
    ----------
    reader : ItemReader
        That of the walk.
    """

    def __init__(self, reader: ItemReader) -> None:
        self._reader = reader
        self._names: frozenset[bytes] = frozenset()
        self._page_sizes: tuple[int, ...] = PAGE_SIZES
        self.ram_ended = False
        self._route: Route | None = None
        self._cut: TruncatedError | None = None  # where the way by footers met the file's end
        self.description: Description | None = None
        """The one that proved the way."""

    def expect_pages(self, names: Iterable[bytes], page_size: int | None) -> None:
        """Tell how RAM sections go on from here.

        Parameters
        ----------
        names : iterable of bytes
            All blocks.
        page_size : int or None
            Target page size; None where it is not known yet.
        """
        self._names = frozenset(names)
        self._page_sizes = PAGE_SIZES if page_size is None else (page_size,)

    def pass_payload(self, cursor: Cursor, head: SectionHead) -> Evidence:
        """Consume the payload of a section other than RAM.

        Parameters
        ----------
        cursor : Cursor
            At its first byte.
        head : SectionHead
            Of the section.

        Returns
        -------
        Evidence
            What told its end.
        """
        at = cursor.tell()
        if self._route is None or at not in self._route.lengths:
            framing = iterables.find(head.idstr)
            if framing is not None:
                framing(cursor)
                return Evidence.TOLD
            if head.kind is not ItemType.FULL and not self.ram_ended:
                # Perhaps gigabytes; the RAM section that must come shows the end.
                self._skip_to_footer(cursor, self._reader, head)
                return Evidence.FOOTERS
            try:
                self._route = self._find_route(cursor, head)
            except LookaheadError:
                self._skip_to_footer(cursor, self._reader, head, reach=0)
                return Evidence.GUESS
        if self._route is None:
            self._skip_to_last_byte(cursor, head)
            return Evidence.NOTHING
        if length := self._route.lengths[at]:  # empty ones may be hundreds of thousands
            cursor.skip(length, f"the {head}")
        return Evidence.TOLD if self._route.proved else Evidence.FOOTERS

    def pass_roughly(self, reader: ItemReader, head: SectionHead) -> bool:
        """Consume a payload on a cursor that goes ahead; False where the stream may end."""
        return self._pass_ahead(reader, head, {}) is None

    def _find_route(self, cursor: Cursor, head: SectionHead) -> Route | None:
        by_footers = self._cut = None
        if self._reader.has_footers is not False:
            by_footers = self._go(cursor, head, None)
            if by_footers is not None and (by_footers.eof is None or by_footers.proved):
                return by_footers
        place = cursor.tell()
        for _ in range(_MAX_CANDIDATES):
            with cursor.ahead() as ahead:
                ahead.skip(place - ahead.tell())
                description = find_ahead(ahead)
                place = ahead.tell()
            if description is None:
                break
            self._cut = None  # where a description stands the file was not cut, whatever is wrong
            route = self._go(cursor, head, description)
            if route is not None and route.proved:
                return route
        return by_footers

    def _go(
        self, cursor: Cursor, head: SectionHead, description: Description | None
    ) -> Route | None:
        """Go ahead by a description, or without one from footer to footer."""
        with cursor.ahead() as ahead:
            try:
                return self._follow(self._reader.fork(ahead), head, description)
            except LookaheadError:
                raise
            except (FormatError, UnsupportedError) as error:
                if description is None and isinstance(error, TruncatedError):
                    self._cut = error.with_traceback(None)
                return None

    def _follow(
        self, reader: ItemReader, head: SectionHead, description: Description | None
    ) -> Route:
        cursor = reader.cursor
        told = description.sections if description is not None else {}
        lengths: dict[int, int] = {}
        described: dict[SectionKey, int] = {}
        item: Command | SectionHead | EndOfStream = head
        while not isinstance(item, EndOfStream):
            if isinstance(item, SectionHead):
                if item.idstr == ram.IDSTR:
                    return Route(lengths)
                at = cursor.tell()
                end = self._pass_ahead(reader, item, told)
                lengths[at] = (cursor.tell() if end is None else end) - at
                if item.kind is ItemType.FULL:
                    described[item.idstr, item.instance_id] = lengths[at]
                if end is not None:
                    return Route(lengths, end + FOOTER_LENGTH)
                reader.finish_section(item)
            item = reader.next_item()
        return Route(lengths, item.offset, proved=self._is_told(cursor, described))

    def _is_told(self, cursor: Cursor, lengths: Mapping[SectionKey, int]) -> bool:
        """Whether a description follows that tells all these sections, and no others."""
        try:
            description = Description.read(cursor)
        except SavefmtError:
            return False
        told = (
            description is not None
            and all(
                lengths[key] == length if key in lengths else self._reader.knows(*key)
                for key, length in description.sections.items()
            )
            and all(key in description.sections for key in lengths)
        )
        if told:
            self.description = description
        return told

    def _pass_ahead(
        self, reader: ItemReader, head: SectionHead, told: Mapping[SectionKey, int]
    ) -> int | None:
        """Consume a payload; where it seems to be the last one, tell its end instead."""
        cursor = reader.cursor
        length = told.get((head.idstr, head.instance_id)) if head.kind is ItemType.FULL else None
        if length is not None:
            cursor.skip(length)
        elif (framing := iterables.find(head.idstr)) is not None:
            framing(cursor)
        elif head.idstr == _LAST_SECTION and cursor.peek(_LAST_LENGTH + FOOTER_LENGTH).endswith(
            head.pack_footer()
        ):
            cursor.skip(_LAST_LENGTH)
        elif reader.has_footers is False:
            raise UnsupportedError("no footer ends this section", offset=head.offset)
        else:
            return self._skip_to_footer(cursor, reader, head, reach=_EOF_REACH)
        return None

    def _skip_to_last_byte(self, cursor: Cursor, head: SectionHead) -> None:
        """Consume all but one byte of what is left, if that can be the EOF mark."""
        if self._names and not self.ram_ended:
            untold = UnsupportedError(f"nothing tells the length of the {head}", offset=head.offset)
            raise self._cut or untold
        held = FOOTER_LENGTH + 1
        while len(cursor.peek(held + 1)) > held:
            cursor.skip(max(len(cursor.window()) - held, 1))
        last = cursor.peek(held)
        sound = last[-1:] == bytes([ItemType.EOF])
        if self._reader.has_footers:
            sound = sound and len(last) == held and last[0] == ItemType.FOOTER
        if not sound:
            raise TruncatedError(
                "the stream ends among the device sections, without its EOF mark; "
                "the file was cut short, so get a complete copy",
                offset=cursor.tell() + len(last),
            )
        cursor.skip(len(last) - 1)

    def _skip_to_footer(
        self, cursor: Cursor, reader: ItemReader, head: SectionHead, reach: int | None = None
    ) -> int | None:
        """Consume a payload up to its footer.

        Parameters
        ----------
        cursor : Cursor
            At the payload.
        reader : ItemReader
            Knows the sections before.
        head : SectionHead
            Of the section.
        reach : int, optional
            How far behind something like an EOF mark to look for a better footer; without
            it the stream cannot end here.

        Returns
        -------
        int or None
            Where the payload ends, if an EOF mark seems to follow and the cursor went
            further.
        """
        footer = head.pack_footer()
        last: int | None = None
        while True:
            if cursor.peek(FOOTER_LENGTH) != footer:
                try:
                    cursor.skip_to(footer)
                except TruncatedError as error:
                    if last is None:
                        message = f"the file ends inside the {head}; it was cut short"
                        raise TruncatedError(message, offset=error.offset) from None
                    return last
            if last is not None and reach is not None and cursor.tell() > last + reach:
                return last
            data = cursor.peek(_LOOK_LENGTH)[FOOTER_LENGTH:]
            if self._can_follow(reader, data):
                return None
            if data[:1] == bytes([ItemType.EOF]) and reach is not None:
                if reach == 0 or data[1:2] in (b"", bytes([ItemType.VMDESCRIPTION])):
                    return None
                last = cursor.tell() if last is None else last
            cursor.skip(1)

    def _can_follow(self, reader: ItemReader, data: bytes) -> bool:
        """Tell whether a section or a command may begin like this, after a footer."""
        number = int.from_bytes(data[1:5], "big")
        match data[:1]:
            case b"\x01" | b"\x04":
                return _is_head(reader, data)
            case b"\x02" | b"\x03":
                start = reader.started(number)
                if start is None or len(data) < 5:
                    return False
                return start.idstr != ram.IDSTR or any(
                    may_begin_record(data[5:], size, self._names) for size in self._page_sizes
                )
            case b"\x08":
                lengths = COMMANDS.get(number >> 16, ("", ()))[1]
                return lengths is None or number & 0xFFFF in lengths
        return False


def _is_head(reader: ItemReader, data: bytes) -> bool:
    length = data[5] if len(data) > 5 else 0
    name = decode_name(data[6 : 6 + length])
    if not name or not name.isprintable() or len(data) < 6 + length + _NUMBERS.size:
        return False
    instance, version = _NUMBERS.unpack_from(data, 6 + length)
    if name == ram.IDSTR:
        return bool(version == ram.SECTION_VERSION)
    # No device is sent twice.
    return data[0] == ItemType.START or not reader.knows(name, instance)
