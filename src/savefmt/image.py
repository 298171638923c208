"""An open save image, and all that callers can ask it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import cached_property, partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Self

from savefmt.errors import ClosedImageError, FormatError, SavefmtError, UnsupportedError, located
from savefmt.format.configuration import Configuration
from savefmt.format.cursor import Cursor, FileCursor
from savefmt.format.domain import Domain, parse_domain
from savefmt.format.envelope import HEADER_LENGTH
from savefmt.format.salvagemark import mark_at_end
from savefmt.format.thin import ThinMark
from savefmt.format.vmstate import text_at_end
from savefmt.model import (
    Finding,
    ImageSummary,
    IOOptions,
    Layout,
    MapExtent,
    OnProgress,
    RamBlock,
    Section,
    Severity,
    StrPath,
)
from savefmt.native.file import File
from savefmt.progress import Meter
from savefmt.reading.atend import claimed_sections
from savefmt.reading.container import read_form
from savefmt.reading.mapped import MappedStream, ram_blocks, read_mapped
from savefmt.reading.plainstream import Packing, PlainCursor, plain_stream
from savefmt.reading.source import describe_snapshot, find_source, lengths_of, open_source
from savefmt.reading.stored import format_uuid, state_of
from savefmt.reading.walk import NO_STREAM, Onlooker, StreamEnd, StreamHead, Walk

if TYPE_CHECKING:  # loaded when needed: `savefmt info` must be instant
    from pathlib import Path

    from savefmt.guest.view import Guest
    from savefmt.reading.devices import Devices
    from savefmt.reading.memory import GuestMemory
    from savefmt.reading.prefetch import Pipe
    from savefmt.salvage.rescue import Rescue

_SPARSE_FORMAT = 6
_PIECE_LENGTH = 256 << 10
_SHORT_LENGTH = 16 << 20
_PACKED_READERS = 2


class SaveImage:
    """A save image, open for reading.

    Immutable, and any thread may read.  Ends with `close()` or as a context manager.

    Parameters
    ----------
    path : str or os.PathLike
        A regular file.
    io : IOOptions
        How its pages are read.
    strict : bool
        False opens unfinished images too and collects oddities in `findings`.
    index, places
        As for `savefmt.open`.
    follow : bool
        Take a thin image's memory and devices from its base; False shows its own stream.

    Attributes
    ----------
    source, filename, state : Source, str or os.PathLike, FileState
        Where the image is, its file, and the state of that file when it was opened.
    places : dict of str to int
        Where the caller, or a memory dump, says that blocks lie.
    dump : Dump or None
        The memory dump that is shown as an image.
    envelope : Envelope or None
        None for a bare stream.
    packing, stored_offset : Packing, int
        How the stream is compressed, and where in the file that begins.
    stream_offset : int
        Where the stream begins, counting plain bytes from there on.
    layout, head : Layout, StreamHead
        What the stream says, even if the envelope differs; and the stream up to its block list.
    findings : list of Finding
        Oddities found while reading; filled only without `strict`.
    ending : StreamEnd or None
        Where the stream ends and what is behind RAM, once it was walked to its end.
    rescue : Rescue or None
        What is lost of an image that was opened with `salvage`.
    mark, base : ThinMark and SaveImage, or None
        What a thin image says about its base, and the base itself if it is opened.
    """

    def __init__(
        self,
        path: StrPath,
        *,
        io: IOOptions = IOOptions(),
        strict: bool = True,
        index: StrPath | None = None,
        places: Mapping[str, int] | None = None,
        follow: bool = True,
    ) -> None:
        self.source = find_source(path)
        self.filename = self.source.path
        self.places: Mapping[str, int] = places or {}
        self.base: SaveImage | None = None
        self._index = index
        self.findings: list[Finding] = []
        self._io = io
        self._strict = strict
        self._closed = False
        self.ending: StreamEnd | None = None
        self._unpacked = "raw"
        self.rescue = rescued = self._salvaged()
        self._file, self.dump = (rescued.file, None) if rescued else open_source(self.source, io)
        self.places = {**(self.dump.places if self.dump is not None else {}), **self.places}
        self.state = self._file.state
        try:
            with located(self.filename):
                self._read_head()
                self.mark = self._find_mark()
                if self.rescue is not None:
                    self._account(self.rescue)
                elif follow and self.mark is not None:
                    self._follow(self.mark)
                if self.source.shared:
                    self._fill_in()
        except BaseException:
            self.close()
            raise

    def _salvaged(self) -> Rescue | None:
        if not self.source.salvage:
            return None
        from savefmt.salvage.rescue import open_salvaged

        rescue = open_salvaged(self.source, self._io)
        self.source = rescue.source
        return rescue

    def _account(self, rescue: Rescue) -> None:
        """Find out what is lost, which may show that more is in doubt than damage does."""
        from savefmt.guest.unsent import explain_absent

        explain = partial(explain_absent, self)
        if rescue.judge(self, explain):
            self._show(rescue.file)
            self._read_head()
        rescue.account(self, explain, self.source.on_salvage)

    def put_mark(self) -> None:
        """Have a salvaged image say that it is one, and what is lost, for who writes it."""
        if self.rescue and (file := self.rescue.marked(self.devices.ending)) is not None:
            self._show(file)
            self._read_head()

    def _show(self, file: File) -> None:
        """Take another file in the place of the one that was opened."""
        self.memory.close()
        for known in ("memory", "devices", "mapped"):
            self.__dict__.pop(known, None)
        self._file.close()
        self._file, self.ending = file, None

    def _read_head(self) -> None:
        self.length = self._file.length
        cursor = self._cursor_at(0)
        self.stored_offset = 0
        with ExitStack() as opened:

            def unpack(codec: str) -> Cursor:
                packing = Packing(outer=codec)
                return opened.enter_context(self._plain(self._small_pieces(0), packing))

            form = read_form(
                cursor, unpack, name=self.filename, strict=self._strict, findings=self._notes
            )
        self.envelope, self.packing = form.envelope, form.packing
        self.stored_offset, self.stream_offset = form.stored_offset, form.stream_offset
        if not self.packing.packed:
            self.head = self._stream_head(cursor)
        else:
            with self.stream(look=True) as stream:
                self.head = self._stream_head(stream)
            if self.head.mapped:
                self._unpack()
        self.layout = Layout.MAPPED_RAM if self.head.mapped else Layout.SEQUENTIAL

    def _unpack(self) -> None:
        """Put a mapped-ram image, whose pages have their places, into a temporary file."""
        from savefmt.reading.spool import in_order, spool

        codec = self.packing.single
        if codec is None or (self.envelope is not None and self.packing.codec != "raw"):
            raise UnsupportedError(
                "this is a mapped-ram stream that is compressed behind its envelope, so its "
                "file offsets are wrong; decompress it to the offset where it was written",
                offset=self.stream_offset,
            )
        pieces = self.file.chunks(0, self.length, self._io)
        plain = self._plain(pieces, Packing(outer=codec), self._io, look=False)
        with self.file.unchanged(), plain as cursor:
            file = spool(in_order(cursor.rest()), self._io, needed=self.length)
        self._file.close()
        self._file, self._unpacked = file, codec
        self.findings.clear()
        self._read_head()

    def _stream_head(self, cursor: Cursor) -> StreamHead:
        try:
            return Walk(cursor, Onlooker(), findings=self._notes).read_head()
        except FormatError:
            if self.envelope is None or self.envelope.finished:
                raise
            return NO_STREAM  # the envelope is all that there is for certain

    def _find_mark(self) -> ThinMark | None:
        """Read the mark of a thin image, which is short; not one that others left behind."""
        if self.packing.packed or self.head.mapped:
            return None
        with suppress(FormatError):
            if ThinMark.may_be_in(text_at_end(self._pread, self.length)):
                return ThinMark.find(self._walk_at_once().description)
        return None

    def _follow(self, mark: ThinMark) -> None:
        """Take file, memory and devices from the base, and keep the envelope."""
        from savefmt.reading.thinbase import check_base, without_base

        try:
            base = SaveImage(mark.path, io=self._io, follow=False)
            try:
                check_base(mark, base)
            except BaseException:
                base.close()
                raise
        except SavefmtError as error:
            if self._strict:
                error.message = f"the memory of this thin image lies elsewhere: {error.message}"
                raise
            self.findings.append(without_base(mark, error))
            return
        self.base = base
        self._file.close()
        self._file = base._file  # closed once for both
        self.length, self.packing = base.length, base.packing
        self.stored_offset, self.stream_offset = base.stored_offset, base.stream_offset
        self.head, self.layout, self.ending = base.head, base.layout, base.ending

    def _fill_in(self) -> None:
        """Take the memory that was left out from the files that it lies in."""
        from savefmt.reading.filled import fill_in

        store, left_out = self.memory.prepare(Meter(None)), frozenset(self.memory.left_out)
        order = self.envelope.byte_order if self.envelope is not None else "little"
        file = fill_in(self, self.source.shared, store, left_out, order, self._io)
        self._show(file)
        self.length, self.packing = file.length, Packing()
        self.stored_offset = self.stream_offset = 0
        self.head = self._stream_head(self._cursor_at(0))
        self.layout = Layout.MAPPED_RAM

    @property
    def _notes(self) -> list[Finding] | None:
        return None if self._strict else self.findings

    # --- life ---

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and drop what was kept of it; harmless when repeated."""
        if self._closed:
            return
        self._closed = True
        if (memory := self.__dict__.get("memory")) is not None:
            memory.close()
        self._file.close()

    @property
    def file(self) -> File:
        """The file behind the image.

        Raises
        ------
        ClosedImageError
            After `close()`.
        """
        if self._closed:
            raise ClosedImageError("the image was closed", path=self.path)
        return self._file

    def _pread(self, length: int, offset: int) -> bytes:
        return self.file.read(min(length, max(self.length - offset, 0)), offset)

    def _cursor_at(self, offset: int) -> FileCursor:
        return FileCursor(self._pread, offset, self.length, origin=self.source.offset)

    # --- what it is ---

    @cached_property
    def path(self) -> Path:
        """The same as a `Path`."""
        from pathlib import Path

        return Path(self.filename)

    @property
    def outer(self) -> str:
        """``raw`` or what compresses the file as a whole."""
        return self.packing.outer if self._unpacked == "raw" else self._unpacked

    @property
    def is_own_file(self) -> bool:
        """Whether the file is the image as it lies, not one that holds it somehow."""
        return self.outer == "raw" and self.dump is None and not self.source.is_part

    @property
    def codec(self) -> str:
        """``raw`` or the codec of the stream; the file as a whole may have another one."""
        return self.packing.codec

    @property
    def configuration(self) -> Configuration | None:
        """The stream's configuration section."""
        return self.head.configuration

    @property
    def machine(self) -> str:
        """Machine type, empty where the stream does not tell."""
        return self.configuration.machine if self.configuration else ""

    @property
    def capabilities(self) -> frozenset[str]:
        """Capabilities that the stream lists."""
        return frozenset(self.configuration.capabilities if self.configuration else ())

    @property
    def page_size(self) -> int:
        """Target page size."""
        return self.head.blocks.page_size

    @property
    def mislabelled(self) -> bool:
        """Whether the envelope tells another layout than the stream (format.md 2.9)."""
        if self.envelope is None or self.base is not None or self.source.shared:
            return False
        if self.head is NO_STREAM:
            return False
        if self.envelope.version == 3:
            return bool(self.envelope.features) != self.head.mapped
        return (self.envelope.stream_format == _SPARSE_FORMAT) != self.head.mapped

    @cached_property
    def domain(self) -> Domain | None:
        """What the domain XML says; None without envelope or where it is unreadable."""
        if self.envelope is None:
            return None
        try:
            return parse_domain(self.envelope.xml, at=HEADER_LENGTH)
        except FormatError as error:
            if self._notes is not None:
                advice = "put a sound one in with `savefmt xml set`"
                self._notes.append(
                    Finding("envelope.xml", Severity.ERROR, error.message, error.offset, advice)
                )
            return None

    @cached_property
    def mapped(self) -> MappedStream:
        """The skeleton of a mapped-ram image; UnsupportedError for a sequential one."""
        if self.layout is not Layout.MAPPED_RAM:
            raise UnsupportedError("a sequential image has no page areas", path=self.path)
        order = self.envelope.byte_order if self.envelope else None
        cursor = self._cursor_at(self.stream_offset)
        with located(self.filename):
            stream = read_mapped(self.file, cursor, order, self._notes)
        self.ending = stream.end
        return stream

    @cached_property
    def blocks(self) -> Mapping[str, RamBlock]:
        """RAM blocks by idstr, in file order."""
        pages = self.mapped.pages if self.layout is Layout.MAPPED_RAM else None
        return MappingProxyType(ram_blocks(self.head.blocks, pages))

    @property
    def sections(self) -> Sequence[Section] | None:
        """Device sections with their places; None where only a full pass could tell."""
        if self.layout is Layout.MAPPED_RAM:
            return self.mapped.end.sections
        if self.ending is None and not self.packing.packed and self.length <= _SHORT_LENGTH:
            with suppress(FormatError, UnsupportedError):
                self._walk_at_once()
        return self.ending.sections if self.ending is not None else None

    def claimed_sections(self) -> tuple[Section, ...] | None:
        """Device sections at the end of an uncompressed sequential file; not proved to be its."""
        return claimed_sections(self._pread, self.stream_offset, self.length, self.head)

    def _walk_at_once(self) -> StreamEnd:
        """Walk over an uncompressed stream that is short, with next to nothing loaded for it."""
        from savefmt.reading.visitors import SkimVisitor

        cursor, size = self._cursor_at(self.stream_offset), self.head.blocks.page_size
        visitor = SkimVisitor(self.filename)
        self.ending = Walk(cursor, visitor, length=self.length, page_size=size).run()
        return self.ending

    # --- what it holds ---

    def require_machine(self) -> None:
        """Raise UnsupportedError if nothing is there but memory: no QEMU loads that."""
        if self.dump is not None:
            raise self.dump.no_machine(self.filename)

    def require_ram(self) -> None:
        """Raise UnsupportedError if the image is of devices alone."""
        if self.head.ram is None:
            raise UnsupportedError("the image holds no RAM, only devices", path=self.filename)

    @contextmanager
    def stream(
        self,
        io: IOOptions | None = None,
        *,
        look: bool = False,
        stored: Pipe | None = None,
    ) -> Iterator[PlainCursor]:
        """A cursor over the decompressed stream from its magic on, read ahead.

        Parameters
        ----------
        io : IOOptions, optional
            Other than those of `open`.
        look : bool
            Only the beginning is wanted: read no more than that takes.
        stored : callable, optional
            Wrapped around the bytes as they are stored: a place to watch them.

        Yields
        ------
        PlainCursor
            Valid inside the ``with`` block.
        """
        from savefmt.reading.prefetch import close_pieces

        io = IOOptions(threads=1) if look else io or self._io
        # No decoder takes in what many threads read, and each has windows of its own.
        ahead = io.with_threads(_PACKED_READERS) if self.packing.packed else io
        base: Iterator[bytes | memoryview] = (
            self._small_pieces(self.stored_offset)
            if look
            else self.file.chunks(self.stored_offset, self.length, ahead)
        )
        pieces = stored(base) if stored is not None else base
        try:
            opened = self._plain(pieces, self.packing, io, look=look)
            with located(self.filename), self.file.unchanged(), opened as cursor:
                yield cursor
        finally:
            close_pieces(base)

    def _plain(
        self,
        pieces: Iterator[bytes | memoryview],
        packing: Packing,
        io: IOOptions = IOOptions(threads=1),
        *,
        look: bool = True,
    ) -> AbstractContextManager[PlainCursor]:
        return plain_stream(
            pieces,
            packing,
            offset=self.stored_offset,
            threads=io.worker_count,
            length=self.length,
            ahead=not look,
            pread=self._pread,
        )

    def _small_pieces(self, at: int) -> Iterator[bytes]:
        while data := self._pread(_PIECE_LENGTH, at):
            yield data
            at += len(data)

    @cached_property
    def memory(self) -> GuestMemory:
        """The guest's memory by block; UnsupportedError if the image holds none."""
        from savefmt.reading.memory import GuestMemory

        self.require_ram()
        # Two threads that come at the same time get the same object.
        kept: GuestMemory = self.__dict__.setdefault(
            "memory", GuestMemory(self, self._io, self._index)
        )
        return kept

    @cached_property
    def guest(self) -> Guest:
        """The guest's vCPUs, and its memory by physical and virtual address."""
        from savefmt.guest.view import Guest

        return Guest(self)

    @cached_property
    def devices(self) -> Devices:
        """The guest's devices: their sections, payloads and fields."""
        from savefmt.reading.devices import Devices

        return Devices(self, self._io)

    def extents(self, *, progress: OnProgress | None = None) -> Iterator[MapExtent]:
        """Return stretches of all blocks: data, zero, never sent, or lost.

        A sequential image is read whole for that.

        Parameters
        ----------
        progress : callable, optional
            As for `savefmt.convert`.

        Returns
        -------
        iterator of MapExtent
            Ascending inside each block, block after block.
        """
        from savefmt.reading.extents import extents_of

        self.require_ram()
        meter = Meter(progress, self.length, "reading")
        found = extents_of(self, lambda: self.memory.index(meter))
        return found if self.rescue is None else self.rescue.mark_lost(found)

    def summary(self, *, pages: bool = False, progress: OnProgress | None = None) -> ImageSummary:
        """Gather what `savefmt info` shows.

        Parameters
        ----------
        pages : bool
            Count the pages of a sequential image too, which reads all of it.
        progress : callable, optional
            For that.

        Returns
        -------
        ImageSummary
            From the headers alone, unless `pages`.
        """
        blocks = tuple(self.blocks.values())
        if pages and self.layout is Layout.SEQUENTIAL and self.head.ram is not None:
            blocks = self.memory.index(Meter(progress, self.length, "reading")).count(blocks)
        uuid = self.configuration.uuid if self.configuration else None
        domain = self.domain
        snapshot = describe_snapshot(self.source)
        logical, on_disk = lengths_of(self.source, self.file)
        sections, proved = self.sections, True
        if sections is None and not self.packing.packed:
            sections, proved = self.claimed_sections(), False
        return ImageSummary(
            path=str(self.source),
            state=state_of(self.envelope),
            envelope=self.envelope.summary() if self.envelope else None,
            mislabelled=self.mislabelled,
            domain_name=domain.name if domain else None,
            domain_uuid=domain.uuid if domain else None,
            domain_type=domain.type if domain else None,
            saved=snapshot.date if snapshot else self.state.changed / 1e9,
            layout=self.layout,
            codec=self.codec,
            machine=self.machine,
            capabilities=self.configuration.capabilities if self.configuration else (),
            uuid=format_uuid(uuid) if uuid else None,
            page_size=self.page_size,
            stream_offset=self.stream_offset,
            blocks=blocks,
            sections=tuple(sections) if sections is not None else None,
            sections_proved=proved,
            logical_length=logical,
            disk_length=on_disk,
            outer=self.outer,
            offset=self.source.offset,
            snapshot=snapshot,
            base=self.mark.path if self.mark else None,
            shared=tuple(name for name, _ in self.source.shared),
            dump=self.dump.kind if self.dump is not None else None,
            salvage=self.rescue.report if self.rescue else None,
            salvaged=None if self.packing.packed else mark_at_end(self._pread, self.length),
        )
