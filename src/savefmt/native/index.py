"""Where the pages of a sequential stream are, in runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from savefmt.frozen import dataclass
from savefmt.model import PageRun
from savefmt.native.core import Owned, call, ffi, lib
from savefmt.native.file import File
from savefmt.native.pages import whole_pages

_BATCH = 1024
_KINDS = {
    lib.SF_INDEX_ABSENT: "absent",
    lib.SF_INDEX_ZERO: "zero",
    lib.SF_INDEX_DELTA: "delta",
}


@dataclass(frozen=True, slots=True)
class IndexRun:
    """Pages of one kind in an index: ``absent``, ``zero``, ``delta`` or ``data``.

    The data of page ``first + i`` lie at ``offset + i * stride``.
    """

    pages: PageRun
    kind: str
    offset: int
    stride: int


class BlockIndex:
    """Where each page's last record lies, for one block; any thread may read it.

    Parameters
    ----------
    name : bytes
        The idstr as it is in the stream.
    count : int
        Pages.
    page_size : int
        Bytes a page.
    """

    def __init__(self, name: bytes, count: int, page_size: int) -> None:
        self.name = name
        self.count = count
        self.page_size = page_size
        self._owned = Owned("sf_index")
        call(lib.sf_index_new, count, page_size, name, len(name), self._owned.cell)
        self.handle = self._owned.content

    def runs(self, first: int = 0, end: int | None = None) -> Iterator[IndexRun]:
        """Yield the runs of pages from `first` up to `end`, without gaps."""
        for batch, count in self._batches(first, end):
            for i in range(count):
                run = batch[i]
                kind = _KINDS.get(run.value, "data")
                offset = run.value - lib.SF_INDEX_BASE if kind == "data" else 0
                yield IndexRun(PageRun(run.first, run.count), kind, offset, run.stride)

    def _batches(self, first: int = 0, end: int | None = None) -> Iterator[tuple[Any, int]]:
        batch = ffi.new("struct sf_index_run[]", _BATCH)
        end = self.count if end is None else end
        while found := lib.sf_index_list(self.handle, first, end, batch, _BATCH):
            yield batch, found
            first = batch[found - 1].first + batch[found - 1].count

    def packed_runs(self) -> Iterator[bytes]:
        """Yield all runs as `load` takes them: four u64 each, in host order."""
        for batch, count in self._batches():
            yield bytes(ffi.buffer(batch, count * ffi.sizeof("struct sf_index_run")))

    def load(self, runs: bytes | memoryview, start: int, end: int) -> None:
        """Take runs that `packed_runs` gave, in pieces if need be.

        Raises
        ------
        CorruptError
            If they are not those of this block, with data between `start` and `end`
            of the file.
        """
        with ffi.from_buffer("struct sf_index_run[]", runs) as view:
            call(lib.sf_index_load, self.handle, view, len(view), start, end)

    def read(self, file: File, first: int, count: int) -> bytearray:
        """Read `count` pages from `first` on; those without data are zeros.

        Raises
        ------
        CorruptError
            If a record is not where the index has it.
        NeedContentError
            If a page is an XBZRLE delta.
        """
        data = bytearray(count * self.page_size)
        self.read_into(file, first, data)
        return data

    def read_into(self, file: File, first: int, out: bytearray | memoryview) -> None:
        """Read as many pages from `first` on as fill `out`; raises as `read` does."""
        count = whole_pages(out, self.page_size)
        with ffi.from_buffer("uint8_t[]", out, require_writable=True) as data:
            call(lib.sf_index_read, self.handle, file.handle, first, count, data, path=file.path)

    def pack(self) -> None:
        """Give back the memory that a finished index does not need."""
        lib.sf_index_pack(self.handle)

    @property
    def memory(self) -> int:
        """Bytes of memory held."""
        return int(lib.sf_index_memory(self.handle))


def pack_indexes(indexes: Sequence[BlockIndex] | None) -> Any:
    """Return a ``struct sf_index *[]``, or NULL for None."""
    if indexes is None:
        return ffi.NULL
    array = ffi.new("struct sf_index *[]", max(len(indexes), 1))
    for i, index in enumerate(indexes):
        array[i] = index.handle
    return array
