"""Passes over a sequential image, and what they make of its pages: sums, an index, nothing."""

from __future__ import annotations

from collections.abc import Iterator

from savefmt.errors import located
from savefmt.format.configuration import IGNORE_SHARED, Configuration
from savefmt.format.ram import BlockList
from savefmt.format.stream import Command, SectionHead
from savefmt.format.tee import Tee
from savefmt.frozen import replace
from savefmt.model import Finding, IOOptions, Repair, Severity, StrPath
from savefmt.native.index import BlockIndex
from savefmt.native.pages import SumKey, Table
from savefmt.native.records import Scanner, Skim, Tally
from savefmt.progress import Meter
from savefmt.reading.plainstream import PlainCursor
from savefmt.reading.prefetch import close_pieces
from savefmt.reading.stored import StoredImage
from savefmt.reading.walk import Onlooker, PageSink, StreamEnd, Take, Visitor, Walk, has_capability


def scanner_for(blocks: BlockList, *, note_named: bool = False) -> Scanner:
    """Return a scanner for the pages of these blocks; it can note which of them came."""
    listed = [(block.name, block.used_length) for block in blocks.blocks]
    return Scanner(blocks.page_size, listed, note_named=note_named)


class SkimVisitor(Onlooker):
    """Checks all pages and keeps nothing of them.

    Parameters
    ----------
    path : str or os.PathLike
        For error messages.
    devices : Visitor, optional
        Told of all but the pages.
    note_named : bool
        Have the scanner note which pages came.
    """

    def __init__(
        self, path: StrPath, devices: Visitor | None = None, *, note_named: bool = False
    ) -> None:
        self._path = path
        self._note_named = note_named
        self._devices = devices or Onlooker()
        self.scanner: Scanner | None = None
        self.blocks: BlockList | None = None
        self.ignores = False

    @property
    def spares_repeats(self) -> bool:
        """Unless somebody listens to the sections."""
        return type(self._devices) is Onlooker

    def begin(self, configuration: Configuration | None) -> None:
        """Note whether memory may have been left out."""
        self.ignores = has_capability(configuration, IGNORE_SHARED)

    def command(self, command: Command) -> None:
        """Pass it on."""
        self._devices.command(command)

    def section(self, head: SectionHead) -> Take | None:
        """Pass it on."""
        return self._devices.section(head)

    def section_end(self, head: SectionHead, footer: bytes, end: int) -> None:
        """Pass it on."""
        self._devices.section_end(head, footer, end)

    def ram_start(self, head: SectionHead, blocks: BlockList) -> PageSink:
        """Make a scanner, and what takes its pages."""
        self.blocks = blocks
        self.scanner = scanner_for(blocks, note_named=self._note_named)
        return self.open_sink(self.scanner, blocks)

    def open_sink(self, scanner: Scanner, blocks: BlockList) -> PageSink:
        """Make what takes the pages."""
        return Skim(scanner, self._path)


class TallyVisitor(SkimVisitor):
    """Reads all pages without keeping them.

    Parameters
    ----------
    key : SumKey or None
        With a key pages are summed, without one they are indexed.
    path, devices, note_named
        As for `SkimVisitor`.
    """

    def __init__(
        self,
        key: SumKey | None,
        path: StrPath,
        devices: Visitor | None = None,
        *,
        note_named: bool = False,
    ) -> None:
        super().__init__(path, devices, note_named=note_named)
        self._key = key
        self._tally: Tally | None = None

    def open_sink(self, scanner: Scanner, blocks: BlockList) -> PageSink:
        """Make the tables."""
        self._tally = Tally(scanner, self._key, self._path)
        return self._tally

    @property
    def indexes(self) -> list[BlockIndex]:
        """Where pages lie, one index a block."""
        return self._tally.indexes if self._tally is not None else []

    @property
    def sums(self) -> dict[str, Table]:
        """Tables of sums by idstr, without those of blocks that the stream left out.

        Such a block is listed and none of its pages come, which by sums looks like a
        block of zeros: with x-ignore-shared it is taken to be left out.
        """
        tables = self._tally.tables if self._tally is not None else []
        return sums_by_block(self.blocks, tables, ignores=self.ignores)


def sums_by_block(
    blocks: BlockList | None, tables: list[Table], *, ignores: bool
) -> dict[str, Table]:
    """Return tables by idstr; with x-ignore-shared those without a sum are left out."""
    return {
        block.idstr: table
        for block, table in zip(blocks.blocks if blocks else (), tables, strict=True)
        if table.count_nonzero() or not ignores
    }


def pass_over(
    image: StoredImage,
    visitor: Visitor,
    io: IOOptions,
    meter: Meter,
    *,
    findings: list[Finding] | None = None,
    copy: Take | None = None,
) -> StreamEnd:
    """Take a visitor through a sequential image, to the end of its stream.

    Parameters
    ----------
    image : StoredImage
        Sequential.
    visitor : Visitor
        Told of everything.
    io : IOOptions
        How the file is read.
    meter : Meter
        Told the place reached in the file.
    findings : list of Finding, optional
        Receives oddities.
    copy : callable, optional
        Gets the stream, and nothing that follows it.

    Returns
    -------
    StreamEnd
        Kept as the image's `ending`, too.

    Raises
    ------
    FormatError, UnsupportedError
        If the stream, or the compression around it, is wrong.
    """
    meter.total = image.length
    reached = image.stored_offset

    def watch(pieces: Iterator[bytes | memoryview]) -> Iterator[bytes | memoryview]:
        nonlocal reached
        try:
            for piece in pieces:
                yield piece
                reached += len(piece)
        finally:
            close_pieces(pieces)

    with located(image.filename), image.stream(io, stored=watch) as cursor:
        end = Walk(
            Tee(cursor, copy) if copy is not None else cursor,
            visitor,
            lambda _offset: meter.update(reached),
            findings=findings,
            length=None if image.packing.packed else image.length,
            page_size=image.head.blocks.page_size if image.head.ram is not None else None,
        ).run()
        cursor.finish()  # the checksum behind the last page
        foreign = _foreign(cursor, image.length)
        if findings is not None:
            findings += foreign
    meter.update(image.length)
    border = cursor.border.offset if cursor.border is not None else None
    image.ending = replace(end, findings=(*end.findings, *foreign), stored_end=border)
    return image.ending


def _foreign(cursor: PlainCursor, end: int) -> list[Finding]:
    """Report bytes behind the compressed stream; a block device may hold older data there."""
    border = cursor.border
    if border is None or border.failure is None or border.offset >= end:
        return []
    return [
        Finding(
            "stream.trailing-data",
            Severity.NOTE,
            f"{end - border.offset} bytes follow the compressed stream; they are ignored",
            border.offset,
            "some programs refuse the image for them; `savefmt convert` leaves them out",
            Repair.TRAILING,
        )
    ]
