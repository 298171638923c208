"""A damaged sequential stream, walked over with its damaged parts left out."""

from __future__ import annotations

from contextlib import suppress

from savefmt.errors import CorruptError, FormatError, SavefmtError, TruncatedError, UnsupportedError
from savefmt.format import ram
from savefmt.format.configuration import Configuration
from savefmt.format.cursor import FileCursor
from savefmt.format.ram import EOS_WORD, BlockList
from savefmt.format.stream import Command, SectionHead, read_header
from savefmt.format.vmstate import find_at_end
from savefmt.format.wire import PAGE_SIZES, ItemType
from savefmt.model import Damage
from savefmt.reading.walk import Onlooker, PageSink, StreamEnd, Walk
from savefmt.salvage.chains import NO_DOUBTS, Doubts
from savefmt.salvage.keeper import RecordKeeper
from savefmt.salvage.landing import Lander, Landing
from savefmt.salvage.readable import Readable
from savefmt.salvage.splice import Splice
from savefmt.salvage.tail import find_tail

_X86_MACHINES, _X86_PAGE_SIZE = ("pc-", "microvm"), 4096
_EOF_MARK = b"\0"
_HEAD_REACH = 8 + 256
"""Bytes of a record's head at most."""


class _Keeper(Onlooker):
    """Keeps what a walk passes over."""

    def __init__(
        self, source: Readable, cursor: FileCursor, splice: Splice, doubts: Doubts
    ) -> None:
        self._source = source
        self._doubts = doubts
        self._cursor = cursor
        self._splice = splice
        self.end = cursor.tell()
        self.sink: RecordKeeper | None = None
        self.ram: SectionHead | None = None
        self.lost: list[str] = []
        self.early: list[str] = []

    def begin(self, configuration: Configuration | None) -> None:
        """Keep the header."""
        self._keep(self.end, self._cursor.tell())

    def command(self, command: Command) -> None:
        """Keep one."""
        self._keep(command.offset, command.offset + len(command.pack()))

    def ram_start(self, head: SectionHead, blocks: BlockList) -> PageSink:
        """Keep the block list."""
        self._keep(head.offset, blocks.end)
        self.ram = head
        self.sink = RecordKeeper(self._source, head, blocks, self._splice, self._doubts)
        return self.sink

    def section_end(self, head: SectionHead, footer: bytes, end: int) -> None:
        """Keep a section, of RAM its footer: the sink has the rest."""
        if head.idstr == ram.IDSTR:
            if self.sink is not None:
                self.sink.closed(head.offset, end, len(footer))
            self.end = end
        elif self._source.bad.overlap(head.offset, end):
            self.lost.append(head.idstr)
            self.end = end
        else:
            self._keep(head.offset, end)
        if self.ram is None:
            self.early.append(head.idstr)

    def _keep(self, start: int, end: int) -> None:
        self._splice.keep(start, end)
        self.end = end


def _told_page_size(source: Readable, start: int) -> int | None:
    """Return the page size where something tells it: damaged records may make believe another."""
    with suppress(FormatError, UnsupportedError):
        description = find_at_end(source.pread, source.length)
        if description is not None and description.page_size in PAGE_SIZES:
            return description.page_size
    with suppress(FormatError, UnsupportedError):
        configuration = read_header(FileCursor(source.pread, start, source.length))
        if configuration is not None and configuration.machine.startswith(_X86_MACHINES):
            return _X86_PAGE_SIZE
    return None


class SequentialSalvage:
    """Puts the sound parts of a sequential stream together to another one.

    Parameters
    ----------
    source : Readable
        The file.
    start : int
        Where the stream begins.
    splice : Splice
        Gets the stream.
    doubts : Doubts
        Which records may belong to another block than they seem to.

    Attributes
    ----------
    damages : list of Damage
        Where the walk could not go on.
    missing_devices : tuple of str
        Device sections that are known to be lost.
    devices_whole : bool
        Whether none is.
    """

    def __init__(
        self, source: Readable, start: int, splice: Splice, doubts: Doubts = NO_DOUBTS
    ) -> None:
        self._source = source
        self._start = start
        self._splice = splice
        self._cursor = FileCursor(source.pread, start, source.length)
        self._keeper = _Keeper(source, self._cursor, splice, doubts)
        page_size = _told_page_size(source, start)
        self._walk = Walk(self._cursor, self._keeper, findings=[], page_size=page_size)
        self._tries = 0
        self.damages: list[Damage] = []
        self.missing_devices: tuple[str, ...] = ()
        self.devices_whole = False

    @property
    def sink(self) -> RecordKeeper:
        """What kept the pages."""
        assert self._keeper.sink is not None
        return self._keeper.sink

    @property
    def _ram_ended(self) -> bool:
        return self._walk.ram_end is not None

    @property
    def ram_whole(self) -> bool:
        """Whether no page can be lost: RAM was walked over to its end."""
        end = self._walk.ram_end
        return (
            end is not None
            and not any(damage.offset < end for damage in self.damages)
            and not self._source.bad.overlap(self._start, end)
        )

    def run(self) -> None:
        """Go over all of the file.

        Raises
        ------
        FormatError, UnsupportedError
            If there is not even a block list.
        """
        try:
            end = self._walk.run()
            if self._keeper.sink is None:
                raise CorruptError("the stream ends without RAM", offset=end.eof)
            self._finish(end)
            return
        except (FormatError, UnsupportedError) as error:
            failure: SavefmtError = error
        while self._keeper.sink is not None and (landing := self._land(failure)) is not None:
            try:
                self._finish(self._go_on(landing))
                return
            except (FormatError, UnsupportedError) as error:
                failure = error
        if self._keeper.sink is None:
            raise failure
        self._end_without()

    def _land(self, error: SavefmtError) -> Landing | None:
        """Note damage, and find where pages go on behind it; None where nowhere."""
        sink, source = self.sink, self._source
        at = max(self._keeper.end, sink.at)
        cut = isinstance(error, TruncatedError) and not self._ram_ended
        unreadable = source.bad.overlap(at, at + _HEAD_REACH)
        if not cut and not unreadable:
            sink.drop_last()
        landing = None
        if not cut and not self._ram_ended and self._keeper.ram is not None:
            lander = Lander(source, self._keeper.ram, sink.elements, self._walk.has_footers)
            lander.tries = self._tries
            landing = lander.find(at + 1)
            self._tries = lander.tries
        end = landing.offset if landing is not None else source.length
        self.damages.append(Damage(at, end, "cut" if cut else "damaged", error.message))
        return landing

    def _go_on(self, landing: Landing) -> StreamEnd:
        ram_head = self._keeper.ram
        assert ram_head is not None
        self.sink.resume(landing, self._footer)
        self._cursor.seek(landing.offset)
        identity = ram_head.section_id, ram_head.idstr, ram_head.instance_id, ram_head.version
        return self._walk.go_on(within=SectionHead(landing.offset, ItemType.PART, *identity))

    def _finish(self, end: StreamEnd) -> None:
        """The end of the stream was reached."""
        self.missing_devices = tuple(self._keeper.lost)
        self.devices_whole = not self.missing_devices and end.missing is None
        self._end_ram()
        self._splice.keep(end.eof, end.end)

    def _end_without(self) -> None:
        """The walk came to no end: take what there is of devices, and end the stream."""
        self._end_ram()
        at = max(self._keeper.end, self.sink.at)
        early = frozenset(self._keeper.early)
        tail = find_tail(self._source, at, footers=self._walk.has_footers, early=early)
        for device in tail.devices:
            self._splice.keep(device.start, device.end)
        self._splice.put(_EOF_MARK)
        if tail.description is not None:
            self._splice.keep(*tail.description)
        known = {section.idstr for section in self._walk.seen}
        lost = tuple(name for name in tail.missing if name not in known)
        self.missing_devices = (*self._keeper.lost, *lost)
        self.devices_whole = tail.whole and not self.missing_devices

    def _end_ram(self) -> None:
        """End RAM where its end was lost."""
        self.sink.close(self._footer)
        if not self._ram_ended and self._keeper.ram is not None:
            head = (ItemType.END << 32 | self._keeper.ram.section_id).to_bytes(5, "big")
            self._splice.put(head + EOS_WORD + self._footer)

    @property
    def _footer(self) -> bytes:
        ram_head = self._keeper.ram
        return ram_head.pack_footer() if ram_head is not None and self._walk.has_footers else b""
