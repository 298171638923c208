"""The guest's memory by block: reads, runs, sums and the digest, for every form of image."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cached_property

from savefmt.errors import UnsupportedError
from savefmt.format.configuration import IGNORE_SHARED
from savefmt.format.ram import BlockList, ListedBlock
from savefmt.model import IOOptions, Layout, PageRun, StrPath
from savefmt.native.core import NeedContentError
from savefmt.native.file import File
from savefmt.native.jobs import move_pages
from savefmt.native.pages import BlockPages, SumKey, Table
from savefmt.native.records import Scanner, Scatter
from savefmt.progress import Meter
from savefmt.reading.pageindex import PageIndex
from savefmt.reading.pages import IndexedPages, PageStore, SparsePages, UnpackedPages
from savefmt.reading.spool import refuse_without_room
from savefmt.reading.stored import StoredImage
from savefmt.reading.unpacked import open_plain
from savefmt.reading.visitors import SkimVisitor, TallyVisitor, pass_over, sums_by_block
from savefmt.reading.walk import PageSink


def _spooled_length(block: ListedBlock) -> int:
    """Room for a block in the temporary file: whole MiB, for direct I/O."""
    return -(-block.used_length // (1 << 20)) << 20


class ScatterVisitor(SkimVisitor):
    """Writes all pages to an unlinked temporary file."""

    def __init__(self, spool: File, io: IOOptions, path: StrPath, *, key: SumKey | None) -> None:
        super().__init__(path)
        self.spool = spool
        self._io = io
        self._key = key
        self.pages: list[BlockPages] = []
        self.scatter: Scatter | None = None

    def open_sink(self, scanner: Scanner, blocks: BlockList) -> PageSink:
        """Lay the blocks out one after the other."""
        offset = 0
        for block in blocks.blocks:
            bitmap = bytearray(block.bitmap_length)
            self.pages.append(
                BlockPages(block.name, block.page_count, block.page_size, offset, bitmap)
            )
            offset += _spooled_length(block)
        self.scatter = Scatter(
            scanner, self.spool, self.pages, self._io, key=self._key, path=self._path
        )
        return self.scatter

    @property
    def sums(self) -> dict[str, Table]:
        """Sums by idstr, as `TallyVisitor` gives them."""
        tables = (self.scatter.tables if self.scatter is not None else None) or []
        return sums_by_block(self.blocks, tables, ignores=self.ignores)


class GuestMemory:
    """Memory of the guest in an image; made by `SaveImage.memory`.

    Mapped-ram images are read straight from the file, uncompressed sequential ones through an
    index that is made by one pass when first needed.  Compressed images that can be entered
    midway are read in the same way. Others, and those with XBZRLE deltas, are unpacked once
    into an unlinked temporary file.  Any thread may read.

    Attributes
    ----------
    refuse : callable or None
        Asked before each read, with block, offset and length; it may raise.
    """

    def __init__(self, image: StoredImage, io: IOOptions, index: StrPath | None = None) -> None:
        self._image = image
        self._io = io
        self._index_file = index
        self._lock = threading.RLock()
        self._index: PageIndex | None = None
        self._opened: PageStore | None = None
        self._resources = ExitStack()
        self.refuse: Callable[[str, int, int], None] | None = None

    def close(self) -> None:
        """Drop the temporary file, if one was made."""
        self._resources.close()

    # --- passes over all pages ---

    def index(self, meter: Meter) -> PageIndex:
        """Read a sequential image whole and tell where each page lies.

        Parameters
        ----------
        meter : Meter
            Told how far it is.

        Returns
        -------
        PageIndex
            Kept for the life of the image, and in a file if `savefmt.open` was told so.
        """
        with self._lock:
            if self._index is None:
                self._index = self._kept_index(meter)
            return self._index

    def _kept_index(self, meter: Meter) -> PageIndex:
        if self._index_file is None:
            return self._make_index(meter)
        from savefmt.reading.indexfile import kept_index

        return kept_index(self._index_file, self._image, lambda: self._make_index(meter))

    def _make_index(self, meter: Meter) -> PageIndex:
        visitor = TallyVisitor(None, self._image.filename)
        pass_over(self._image, visitor, self._io, meter)
        if visitor.scanner is None or visitor.blocks is None:
            raise UnsupportedError(
                "the image holds the state of devices and no RAM", path=self._image.filename
            )
        return PageIndex.of(visitor.indexes, visitor.scanner.counts, visitor.blocks.page_size)

    def sums(self, key: SumKey, meter: Meter) -> dict[str, Table]:
        """Sum every page, in one pass over the image.

        Parameters
        ----------
        key : SumKey
            Sums under one key are comparable.
        meter : Meter
            Told how far it is.

        Returns
        -------
        dict of str to Table
            By idstr; ignored blocks are left out.
        """
        image = self._image
        if image.layout is Layout.MAPPED_RAM:
            pages = image.mapped.pages
            meter.total = sum(block.present * block.page_size for block in pages)
            with image.file.unchanged():
                tables = move_pages(image.file, pages, self._io, meter.update, key=key) or []
            return {
                block.idstr: table
                for block, table in zip(image.head.blocks.blocks, tables, strict=True)
                if not block.ignored
            }
        visitor = TallyVisitor(key, image.filename)
        try:
            pass_over(image, visitor, self._io, meter)
            return visitor.sums
        except NeedContentError:
            return self._spool(meter, key).sums

    def digest(self, *, meter: Meter | None = None) -> str:
        """Return a number for all of the guest's memory.

        The same for every layout and codec of one guest.  SHA-256 over, for each block
        in the order of names: name, NUL, used length (u64be), page size (u32be), then
        the page sums under the fixed key as u64le.  Reproducible, yet not proof against
        somebody who forges images: the page sum is no cryptographic hash.

        Returns
        -------
        str
            64 hexadecimal digits.
        """
        return combine(self._image.head.blocks, self.sums(SumKey.fixed(), meter or Meter(None)))

    # --- random access ---

    def runs(self, block: str) -> Iterator[PageRun]:
        """Yield the runs of pages whose content the image holds.

        Parameters
        ----------
        block : str
            Its idstr.

        Returns
        -------
        iterator of PageRun
            In order, no two touching.
        """
        return self._store.runs(self._number(block))

    def read(self, block: str, offset: int, length: int) -> bytes:
        """Read from a block.

        Parameters
        ----------
        block : str
            Its idstr.
        offset, length : int
            Bytes inside the block.

        Returns
        -------
        bytes
            Pages that the image does not hold read as zeros.

        Raises
        ------
        KeyError
            No such block.
        ValueError
            The range leaves the block.
        UnsupportedError
            The block was left out of the image (x-ignore-shared).
        """
        number, first, count = self._locate(block, offset, length)
        data = self._store.read(number, first, count)
        start = offset - first * self._image.head.blocks.page_size
        return bytes(memoryview(data)[start : start + length])

    def read_into(self, block: str, offset: int, out: memoryview) -> None:
        """Read from a block what fills `out`; whole pages go there without a copy between.

        Parameters
        ----------
        block : str
            Its idstr.
        offset : int
            Inside the block.
        out : memoryview
            Writable bytes; what is in them after an error is undefined.

        Raises
        ------
        KeyError, ValueError, UnsupportedError
            As for `read`.
        """
        number, first, count = self._locate(block, offset, len(out))
        start = offset - first * self._image.head.blocks.page_size
        if start == 0 and len(out) == count * self._image.head.blocks.page_size:
            self._store.read_into(number, first, out)
        else:
            out[:] = memoryview(self._store.read(number, first, count))[start : start + len(out)]

    def _number(self, block: str) -> int:
        for number, listed in enumerate(self._image.head.blocks.blocks):
            if listed.idstr == block:
                return number
        raise KeyError(block)

    @property
    def _store(self) -> PageStore:
        return self._opened if self._opened is not None else self.prepare(Meter(None))

    def prepare(self, meter: Meter) -> PageStore:
        """Do now what the first read would do: index or unpack the image if need be.

        Parameters
        ----------
        meter : Meter
            Told how far it is.

        Returns
        -------
        PageStore
            Where the pages are.
        """
        with self._lock:
            if self._opened is None:
                self._opened = self._open_store(meter)
            return self._opened

    def _open_store(self, meter: Meter) -> PageStore:
        image = self._image
        if image.layout is Layout.MAPPED_RAM:
            return SparsePages(image.file, image.mapped.pages)
        if not image.packing.packed:
            index = self.index(meter)
            return self._spooled(meter) if index.counts.deltas else IndexedPages(index, image.file)
        opener = open_plain(image.packing, image.file, image.stored_offset)
        if opener is None:
            return self._spooled(meter)
        index = self.index(meter)
        if index.counts.deltas:
            return self._spooled(meter)
        plain = opener(image.head.blocks.total, lambda: meter.update(image.length))
        self._resources.callback(plain.close)
        return UnpackedPages(index, plain, image.stored_offset, image.filename)

    def _spooled(self, meter: Meter) -> SparsePages:
        visitor = self._spool(meter, None)
        return SparsePages(visitor.spool, visitor.pages)

    @cached_property
    def left_out(self) -> tuple[str, ...]:
        """Blocks that the image lists and does not hold (x-ignore-shared), by idstr.

        To tell, a sequential image is read whole.
        """
        image = self._image
        if IGNORE_SHARED not in image.capabilities:
            return ()
        blocks = image.head.blocks.blocks
        if image.layout is Layout.MAPPED_RAM:
            found = [block for block in blocks if block.ignored]
        else:
            found = [blocks[number] for number in sorted(self._store.empty)]
        return tuple(block.idstr for block in found if block.used_length)

    def _check_space(self) -> None:
        """Refuse at once what cannot fit: memory takes no less room unpacked than packed."""
        from tempfile import gettempdir

        refuse_without_room(gettempdir(), self._image.length - self._image.stored_offset)

    def view(self, block: str, offset: int, length: int) -> memoryview:
        """Show a range of a block, without a copy where the law of pages allows it.

        In a mapped-ram image a page whose bit is clear is zeros, whatever its place in the file
        holds. So only a range with all of its bits set can be shown as it is in the file. The
        same is true for an image that was unpacked to a temporary file. Anything else is
        copied, as `read` does.  ``numpy.frombuffer`` takes the view as it is.

        Parameters
        ----------
        block : str
            Its idstr.
        offset, length : int
            Bytes inside the block.

        Returns
        -------
        memoryview
            Read-only.  It may outlive the image; should somebody cut the file short
            meanwhile, the system ends the process that looks there (SIGBUS).

        Raises
        ------
        KeyError, ValueError, UnsupportedError
            As for `read`.
        """
        number, _, _ = self._locate(block, offset, length)
        shown = self._store.view(number, offset, length)
        return shown if shown is not None else memoryview(self.read(block, offset, length))

    def _locate(self, block: str, offset: int, length: int) -> tuple[int, int, int]:
        """Check a range; return the number of its block, its first page, and how many.

        What of a closed image is still in memory is not read either.
        """
        _ = self._image.file
        number = self._number(block)
        listed = self._image.head.blocks.blocks[number]
        if listed.ignored or block in self.left_out:
            raise UnsupportedError(
                f"the content of {block!r} is not in this image; --shared {block}=FILE takes it "
                "from the file that it lies in"
            )
        if offset < 0 or length < 0 or offset + length > listed.used_length:
            raise ValueError(f"{length} bytes at {offset:#x} leave the block {block!r}")
        if self.refuse is not None:
            self.refuse(block, offset, length)
        size = listed.page_size
        first = offset // size
        return number, first, -(-(offset + length) // size) - first

    def _spool(self, meter: Meter, key: SumKey | None) -> ScatterVisitor:
        import tempfile

        meter.phase = "spooling"
        self._check_space()
        with ExitStack() as stack:  # a spool that fails gives its room back at once
            spool = stack.enter_context(tempfile.TemporaryFile())
            length = sum(_spooled_length(block) for block in self._image.head.blocks.blocks)
            os.ftruncate(spool.fileno(), length)  # which goes on after a signal
            folder = tempfile.gettempdir()
            engine = self._io.engine
            file = stack.enter_context(File(spool.fileno(), path=folder, write=True, engine=engine))
            visitor = ScatterVisitor(file, self._io, self._image.filename, key=key)
            try:
                pass_over(self._image, visitor, self._io, meter)
                if visitor.scatter is not None:
                    visitor.scatter.close()
            finally:
                if visitor.scatter is not None:
                    visitor.scatter.abort()
            self._resources.enter_context(stack.pop_all())
        return visitor


def combine(blocks: BlockList, sums: dict[str, Table]) -> str:
    """Return the digest of `GuestMemory.digest` from page sums under the fixed key."""
    from hashlib import sha256

    state = sha256()
    for block in sorted(blocks.blocks, key=lambda block: block.name):
        if block.idstr not in sums:
            continue
        state.update(block.name + b"\0")
        state.update(block.used_length.to_bytes(8, "big") + block.page_size.to_bytes(4, "big"))
        for numbers in sums[block.idstr].little_endian():
            state.update(numbers)
    return state.hexdigest()
