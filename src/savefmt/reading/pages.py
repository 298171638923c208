"""Where the pages of an image are: one class for each way to store them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Protocol

from savefmt.errors import located
from savefmt.model import PageRun, StrPath
from savefmt.native.file import File
from savefmt.native.index import IndexRun
from savefmt.native.pages import BlockPages, page_runs, whole_pages
from savefmt.reading.pageindex import PageIndex
from savefmt.reading.unpacked import PlainReader, read_pages

_KEPT = 16
"""Pages at most that are kept for who asks for them again."""


class PageStore(Protocol):
    """The pages of all blocks, which go by their number in the list; any thread may read."""

    @property
    def empty(self) -> frozenset[int]:
        """Blocks of whose pages none is held."""

    def runs(self, block: int) -> Iterator[PageRun]:
        """Yield the runs of pages whose content is held, in order, no two touching."""

    def read(self, block: int, first: int, count: int) -> bytearray:
        """Read pages, not to be changed; those that are not held are zeros."""

    def read_into(self, block: int, first: int, out: memoryview) -> None:
        """Read as many pages as fill `out`."""

    def view(self, block: int, offset: int, length: int) -> memoryview | None:
        """Show bytes of a block as they lie in a file; None where they must be copied."""


class SparsePages:
    """Pages at fixed places of a file, of which a bitmap tells those that are there.

    Parameters
    ----------
    file : File
        The caller closes it.
    blocks : sequence of BlockPages
        In the order of the list.
    """

    def __init__(self, file: File, blocks: Sequence[BlockPages]) -> None:
        self._file = file
        self._blocks = blocks
        self._lock = threading.Lock()
        self._map: memoryview | None = None

    @property
    def empty(self) -> frozenset[int]:
        """Blocks of whose pages none is held."""
        return frozenset(number for number, pages in enumerate(self._blocks) if not pages.present)

    def runs(self, block: int) -> Iterator[PageRun]:
        """Yield the runs of pages whose content is held."""
        pages = self._blocks[block]
        return page_runs(pages.bitmap, pages.count)

    def read(self, block: int, first: int, count: int) -> bytearray:
        """Read pages; those that are not held are zeros."""
        return self._blocks[block].read(self._file, first, count)

    def read_into(self, block: int, first: int, out: memoryview) -> None:
        """Read as many pages as fill `out`."""
        self._blocks[block].read_into(self._file, first, out)

    def view(self, block: int, offset: int, length: int) -> memoryview | None:
        """Show a range if all its pages are set: a clear page is zeros, whatever the file holds."""
        pages = self._blocks[block]
        first = offset // pages.page_size
        count = -(-(offset + length) // pages.page_size) - first
        if not length or pages.count_present(first, count) != count or self._file.start is None:
            return None
        with self._lock:
            if self._map is None:
                self._map = self._file.map()
        start = pages.offset + offset
        return self._map[start : start + length]


class _RecordPages:
    """Pages among the records of a sequential stream."""

    def __init__(self, index: PageIndex) -> None:
        self._index = index

    @property
    def empty(self) -> frozenset[int]:
        """Blocks of whose pages none is held."""
        return self._index.left_out

    def runs(self, block: int) -> Iterator[PageRun]:
        """Yield the runs of pages whose content is held."""
        return _data_runs(self._index.blocks[block].runs())

    def view(self, block: int, offset: int, length: int) -> memoryview | None:
        """Show nothing: between the pages stand the heads of their records."""
        return None


class IndexedPages(_RecordPages):
    """Pages among the records of an uncompressed sequential stream.

    Parameters
    ----------
    index : PageIndex
        Where they lie; without deltas.
    file : File
        The caller closes it.
    """

    def __init__(self, index: PageIndex, file: File) -> None:
        super().__init__(index)
        self._file = file

    def read(self, block: int, first: int, count: int) -> bytearray:
        """Read pages; those that are not held are zeros."""
        return self._index.blocks[block].read(self._file, first, count)

    def read_into(self, block: int, first: int, out: memoryview) -> None:
        """Read as many pages as fill `out`."""
        self._index.blocks[block].read_into(self._file, first, out)


class UnpackedPages(_RecordPages):
    """Pages among the records of a compressed stream, unpacked where they are wanted.

    Parameters
    ----------
    index : PageIndex
        Where they lie; without deltas.
    plain : PlainReader
        Of the stream.
    start : int
        Offset of the first plain byte in terms of the index.
    path : str or os.PathLike
        For error messages.
    """

    def __init__(self, index: PageIndex, plain: PlainReader, start: int, path: StrPath) -> None:
        super().__init__(index)
        self._plain = plain
        self._start = start
        self._path = path
        self._last: tuple[tuple[int, int, int], bytearray] = ((-1, 0, 0), bytearray())

    def read(self, block: int, first: int, count: int) -> bytearray:
        """Read pages, not to be changed; those that are not held are zeros."""
        wanted = (block, first, count)
        last, data = self._last  # in one look, for other threads change it
        if last == wanted:
            return data
        with located(self._path):
            data = read_pages(self._index.blocks[block], self._plain, self._start, first, count)
        if count <= _KEPT:
            self._last = (wanted, data)  # who reads a word often reads its neighbour next
        return data

    def read_into(self, block: int, first: int, out: memoryview) -> None:
        """Read as many pages as fill `out`."""
        out[:] = self.read(block, first, whole_pages(out, self._index.blocks[block].page_size))


def _data_runs(runs: Iterator[IndexRun]) -> Iterator[PageRun]:
    """Join index runs of data that touch."""
    pending: PageRun | None = None
    for run in runs:
        if run.kind not in ("data", "delta"):
            continue
        if pending is not None and pending.first + pending.count == run.pages.first:
            pending = PageRun(pending.first, pending.count + run.pages.count)
            continue
        if pending is not None:
            yield pending
        pending = run.pages
    if pending is not None:
        yield pending
