"""Sequential page records: scan them, tally them, scatter them into a mapped-ram file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from savefmt.frozen import dataclass
from savefmt.model import IOOptions, StrPath
from savefmt.native.core import Owned, blank, call, ffi, lib
from savefmt.native.file import File, WriteBehind
from savefmt.native.index import BlockIndex, pack_indexes
from savefmt.native.pages import BlockPages, SumKey, Table, Watch, pack_blocks, pack_tables


@dataclass(frozen=True, slots=True)
class RecordCounts:
    """Records of each kind, over the life of a scanner."""

    pages: int
    zeros: int
    deltas: int
    flushes: int


@dataclass(frozen=True, slots=True)
class Record:
    """A page record (``struct sf_record``): `offset` is that of its data, of zeros of its word."""

    kind: int
    block: int
    page: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Some records that came by: bytes used, whether the end marker was reached, the last one."""

    used: int
    done: bool
    last: Record | None


_BATCH = 1024
"""Records that are scanned at a time."""


class PayloadSource(Protocol):
    """What a cursor offers: the bytes of its window, and a way to consume some of them."""

    def window(self) -> memoryview:
        """The unread bytes, none only at the end."""

    def advance(self, count: int) -> None:
        """Consume the first of them."""

    def tell(self) -> int:
        """Offset of the first of them."""


class Scanner:
    """The state of reading page records; one for all `ram` sections of a stream.

    Parameters
    ----------
    page_size : int
        Target page size.
    blocks : sequence of (bytes, int)
        Name and used length of each block, in the order that gives block numbers.
    note_named : bool
        Note which pages records name.

    Attributes
    ----------
    named : list of mmap
        A bitmap for each block, if that was asked for.
    """

    def __init__(
        self, page_size: int, blocks: Sequence[tuple[bytes, int]], *, note_named: bool = False
    ) -> None:
        counts = [length // page_size for _, length in blocks] if note_named else []
        self.named = [blank(-(-count // 8)) for count in counts]
        bitmaps = [ffi.from_buffer("uint8_t[]", bitmap) for bitmap in self.named]
        array = ffi.new("struct sf_scan_block[]", max(len(blocks), 1))
        names = [ffi.from_buffer("char[]", name) for name, _ in blocks]
        for i, (name, length) in enumerate(blocks):
            array[i].name = names[i]
            array[i].name_length = len(name)
            array[i].length = length
        self._owned = Owned("sf_scan", *bitmaps)
        call(lib.sf_scan_new, page_size, array, len(blocks), self._owned.cell)
        self.handle = self._owned.content
        self.page_size = page_size
        self.blocks = tuple(blocks)
        if note_named:
            lib.sf_scan_note_named(self.handle, ffi.new("uint8_t *[]", bitmaps))

    def begin(self, offset: int) -> None:
        """Start on a new section payload at stream offset `offset`."""
        lib.sf_scan_begin(self.handle, offset)

    @property
    def offset(self) -> int:
        """Stream offset of the first record that was not handed out yet."""
        return int(lib.sf_scan_offset(self.handle))

    @property
    def counts(self) -> RecordCounts:
        """What came by so far."""
        counts = ffi.new("struct sf_scan_counts *")
        lib.sf_scan_get_counts(self.handle, counts)
        return RecordCounts(counts.pages, counts.zeros, counts.deltas, counts.flushes)

    def skim(self, data: bytes, at: int = 0) -> Batch:
        """Scan some of the payload in `data` from `at` on, and keep only the last record.

        Raises
        ------
        CorruptError, UnsupportedError
            What the first record breaks; those before the first wrong one come in a batch.
        """
        out = ffi.new("struct sf_record[]", _BATCH)
        used, nrec, done = ffi.new("size_t *"), ffi.new("size_t *"), ffi.new("bool *")
        view = ffi.from_buffer("uint8_t[]", data)
        call(
            lib.sf_scan_feed,
            self.handle,
            view + at,
            len(data) - at,
            out,
            _BATCH,
            used,
            nrec,
            done,
        )
        last = None
        if nrec[0]:
            record = out[nrec[0] - 1]
            last = Record(record.kind, record.block, record.page, record.offset, record.length)
        return Batch(int(used[0]), bool(done[0]), last)

    def records(self, data: bytes) -> tuple[list[tuple[int, int, int, int, bytes]], int, bool]:
        """Scan one piece of payload: the plain door, for tests and small inputs.

        Returns
        -------
        records : list of (kind, block, page, offset, data)
            In stream order.
        used : int
            Bytes consumed.
        done : bool
            The end marker was among them.
        """
        out = ffi.new("struct sf_record[]", 64)
        used, nrec, done = ffi.new("size_t *"), ffi.new("size_t *"), ffi.new("bool *")
        found: list[tuple[int, int, int, int, bytes]] = []
        view = ffi.from_buffer("uint8_t[]", data)
        at = 0
        while at < len(data) and not done[0]:
            call(
                lib.sf_scan_feed, self.handle, view + at, len(data) - at, out, 64, used, nrec, done
            )
            for record in out[0 : nrec[0]]:
                content = bytes(ffi.buffer(record.data, record.length)) if record.length else b""
                found.append((record.kind, record.block, record.page, record.offset, content))
            at += used[0]
        return found, at, bool(done[0])


class _Taker:
    """Shared by all that takes payload: feed it from a cursor up to the end marker."""

    def __init__(self, scanner: Scanner, path: StrPath) -> None:
        self._scanner = scanner
        self._path = path

    def _feed(self, view: Any, length: int, used: Any, done: Any) -> None:
        raise NotImplementedError

    def take(self, cursor: PayloadSource) -> Iterator[int]:
        """Consume one section payload; yields the offset reached, often.

        Raises
        ------
        TruncatedError
            The input ends before the end marker.
        CorruptError, UnsupportedError
            A record breaks the format.
        """
        used, done = ffi.new("size_t *"), ffi.new("bool *")
        self._scanner.begin(cursor.tell())
        while not done[0]:
            window = cursor.window()
            if not len(window):
                # Lets the cursor say it: a payload cannot be empty.
                from savefmt.errors import TruncatedError

                raise TruncatedError(
                    "the stream ends among the RAM pages; the file was cut short",
                    path=self._path,
                    offset=cursor.tell(),
                )
            # Not left to the garbage collector: CPython crashes when it finds an error's
            # traceback with a memoryview and with cffi's unreleased buffer of it.
            with ffi.from_buffer("uint8_t[]", window) as view:
                self._feed(view, len(window), used, done)
            cursor.advance(used[0])
            yield cursor.tell()


class Tally(_Taker):
    """Read pages without keeping them: sum them, or remember where they lie.

    Parameters
    ----------
    scanner : Scanner
        Of the same stream.
    key : SumKey or None
        With a key `tables` get the page sums, one table a block; without one `indexes`
        get the places.
    path : str or os.PathLike
        For error messages.
    """

    def __init__(self, scanner: Scanner, key: SumKey | None, path: StrPath) -> None:
        super().__init__(scanner, path)
        size = scanner.page_size
        counts = [(name, length // size) for name, length in scanner.blocks]
        self.tables = [Table(count) for _, count in counts] if key else []
        self.indexes = [] if key else [BlockIndex(name, count, size) for name, count in counts]
        tables = pack_tables(self.tables if key else None)
        indexes = pack_indexes(None if key else self.indexes)
        self._owned = Owned("sf_tally", scanner, key, tables, indexes, *self.tables, *self.indexes)
        call(
            lib.sf_tally_new,
            scanner.handle,
            scanner.page_size,
            tables,
            indexes,
            key.handle if key else ffi.NULL,
            self._owned.cell,
        )

    def _feed(self, view: Any, length: int, used: Any, done: Any) -> None:
        call(lib.sf_tally_feed, self._owned.content, view, length, used, done, path=self._path)


class Skim(_Taker):
    """Check page records and keep nothing of them."""

    def __init__(self, scanner: Scanner, path: StrPath) -> None:
        super().__init__(scanner, path)
        self._records = ffi.new("struct sf_record[]", _BATCH)
        self._count = ffi.new("size_t *")

    def _feed(self, view: Any, length: int, used: Any, done: Any) -> None:
        call(
            lib.sf_scan_feed,
            self._scanner.handle,
            view,
            length,
            self._records,
            _BATCH,
            used,
            self._count,
            done,
            path=self._path,
        )


class Scatter(_Taker, WriteBehind):
    """Write pages to their places in a fresh file, in one pass.

    Parameters
    ----------
    scanner : Scanner
        Of the source stream.
    target : File
        Reads as zeros where pages go.
    blocks : sequence of BlockPages
        In the target; their bitmaps are filled.
    io : IOOptions
        PayloadSource and threads.
    key : SumKey or None
        With a key, `tables` get the sums of the final pages.
    path : str or os.PathLike
        The source, for error messages.
    places : sequence of (int, int), optional
        Number of the block and the first page that each of `blocks` takes, ascending and
        none overlapping; other pages are dropped.  Not with a key.
    watch : Watch, optional
        Looks at the pages that are written.
    """

    def __init__(
        self,
        scanner: Scanner,
        target: File,
        blocks: Sequence[BlockPages],
        io: IOOptions,
        *,
        key: SumKey | None,
        path: StrPath,
        places: Sequence[tuple[int, int]] | None = None,
        watch: Watch | None = None,
    ) -> None:
        _Taker.__init__(self, scanner, path)
        if key is not None and places is not None:
            raise ValueError("sums are by block, not by place")
        self.tables = [Table(block.count) for block in blocks] if key else None
        pages, bitmaps = pack_blocks(blocks)
        sums = pack_tables(self.tables)
        options = ffi.new("struct sf_scatter_options *")
        packed = _pack_places(places)
        options.places = packed
        options.sums = sums
        options.key = key.handle if key else ffi.NULL
        options.watch = watch.handle if watch else ffi.NULL
        options.window = io.window
        options.nthreads = io.worker_count
        owned = Owned(
            "sf_scatter",
            scanner,
            target,
            *bitmaps,
            packed,
            sums,
            *(self.tables or ()),
            key,
            watch,
        )
        WriteBehind.__init__(self, owned, lib.sf_scatter_flush, lib.sf_scatter_drop, target.path)
        call(
            lib.sf_scatter_start,
            scanner.handle,
            target.handle,
            pages,
            len(blocks),
            options,
            owned.cell,
            path=target.path,
        )

    def _feed(self, view: Any, length: int, used: Any, done: Any) -> None:
        call(
            lib.sf_scatter_feed,
            self.handle,
            view,
            length,
            used,
            done,
            path=self._path,
            target=self._written,
        )


def _pack_places(places: Sequence[tuple[int, int]] | None) -> Any:
    """Return a ``struct sf_place[]``, or NULL for None."""
    if places is None:
        return ffi.NULL
    array = ffi.new("struct sf_place[]", max(len(places), 1))
    for i, (block, first) in enumerate(places):
        array[i].block = block
        array[i].first = first
    return array
