"""Pages of blocks: bitmaps, runs, tables of one number a page, and their sums."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from mmap import mmap
from typing import Any

from savefmt.model import PageRun
from savefmt.native.core import Owned, call, ffi, keep, lib
from savefmt.native.file import File

_MIN_PAGE = 256
_MAX_PAGE = 64 << 10
_KEY_LENGTH = _MAX_PAGE + 32
_SWAPPED_LENGTH = 1 << 20


def is_zero(data: bytes | bytearray | memoryview) -> bool:
    """Tell whether all bytes are zero."""
    with ffi.from_buffer(data) as view:
        return bool(lib.sf_page_is_zero(view, len(data)))


def page_runs(bitmap: bytes | bytearray | mmap, count: int) -> Iterator[PageRun]:
    """Yield the runs of set bits among the first `count`, in order, no two touching."""
    view = ffi.from_buffer("uint8_t[]", bitmap)
    run = ffi.new("struct sf_run *")
    at = 0
    while lib.sf_page_next_run(view, count, at, run):
        yield PageRun(run.first, run.count)
        at = run.first + run.count


def count_pages(bitmap: bytes | bytearray, count: int) -> int:
    """Count the set bits among the first `count`."""
    return int(lib.sf_page_count(ffi.from_buffer("uint8_t[]", bitmap), 0, count))


def whole_pages(data: bytearray | memoryview, page_size: int) -> int:
    """Count the pages that fit; ValueError unless they fill it."""
    count, rest = divmod(len(data), page_size)
    if rest:
        raise ValueError("room for part of a page")
    return count


class BlockPages:
    """Where one block's pages lie in a mapped-ram file, and which are present.

    Parameters
    ----------
    name : bytes
        The idstr as it is in the stream.
    count : int
        Pages.
    page_size : int
        Bytes a page.
    offset : int
        Where page 0 lies in the file.
    bitmap : bytearray
        Canonical: page k is bit k % 8 of byte k // 8.
    """

    def __init__(
        self, name: bytes, count: int, page_size: int, offset: int, bitmap: bytearray
    ) -> None:
        if len(bitmap) * 8 < count:
            raise ValueError("bitmap shorter than its block")
        self.name = name
        self.count = count
        self.page_size = page_size
        self.offset = offset
        self.bitmap = bitmap

    @property
    def present(self) -> int:
        """Pages whose bit is set."""
        return count_pages(self.bitmap, self.count) if self.count else 0

    def count_present(self, first: int, count: int) -> int:
        """Pages of a range whose bit is set."""
        with ffi.from_buffer("uint8_t[]", self.bitmap) as view:
            return int(lib.sf_page_count(view, first, count))

    def fill(self, struct: Any) -> Any:
        """Fill a ``struct sf_pages`` and return what must outlive it."""
        view = ffi.from_buffer("uint8_t[]", self.bitmap)
        struct.bitmap = view
        struct.count = self.count
        struct.offset = self.offset
        struct.page_size = self.page_size
        return view

    def read(self, file: File, first: int, count: int) -> bytearray:
        """Read `count` pages from `first` on; a page whose bit is clear reads as zeros."""
        self._require(first, count)
        data = bytearray(count * self.page_size)
        self.read_into(file, first, data)
        return data

    def _require(self, first: int, count: int) -> None:
        if first < 0 or count < 0 or first + count > self.count:
            raise ValueError("pages beyond the block")

    def read_into(self, file: File, first: int, out: bytearray | memoryview) -> None:
        """Read as many pages from `first` on as fill `out`."""
        count = whole_pages(out, self.page_size)
        self._require(first, count)
        pages = ffi.new("struct sf_pages *")
        with self.fill(pages), ffi.from_buffer("uint8_t[]", out, require_writable=True) as data:
            call(lib.sf_pages_read, file.handle, pages, first, count, data, path=file.path)


def pack_blocks(blocks: Sequence[BlockPages]) -> tuple[Any, list[Any]]:
    """Return a ``struct sf_pages[]`` and what must outlive it."""
    array = ffi.new("struct sf_pages[]", max(len(blocks), 1))
    views = [block.fill(array[i]) for i, block in enumerate(blocks)]
    return array, [*views, *(block.bitmap for block in blocks)]


class Table:
    """One 64-bit number a page, zero at first; untouched stretches take no memory."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._owned = Owned("sf_table")
        call(lib.sf_table_new, count, self._owned.cell)
        self.handle = self._owned.content

    def __getitem__(self, page: int) -> int:
        if not 0 <= page < self.count:
            raise IndexError(page)
        return int(lib.sf_table_entries(self.handle)[page])

    def data(self) -> memoryview:
        """All numbers as bytes, in host order; keeps the table alive."""
        entries = keep(lib.sf_table_entries(self.handle), self._owned)
        return memoryview(ffi.buffer(entries, self.count * 8))

    def little_endian(self) -> Iterator[bytes | memoryview]:
        """Yield all numbers as u64le, piece by piece, for every byte order of the host."""
        data = self.data()
        if sys.byteorder == "little":
            yield data
            return
        from array import array

        for at in range(0, len(data), _SWAPPED_LENGTH):
            numbers = array("Q", data[at : at + _SWAPPED_LENGTH].tobytes())
            numbers.byteswap()
            yield numbers.tobytes()

    def count_nonzero(self) -> int:
        """Numbers that are not zero."""
        return int(lib.sf_table_nonzero(self.handle, ffi.NULL))

    def differences(self, other: Table) -> Iterator[PageRun]:
        """Yield the runs of pages whose numbers differ."""
        run = ffi.new("struct sf_run *")
        at = 0
        while lib.sf_table_next_difference(self.handle, other.handle, at, run):
            yield PageRun(run.first, run.count)
            at = run.first + run.count


class Watch:
    """Notes pages that hold certain bytes while they are written.

    Parameters
    ----------
    at : int
        Where in a page the bytes stand.
    data : bytes
        The bytes; they and what is before them fit into the smallest page, 512 bytes.
    capacity : int
        Hits kept at most; later ones are dropped.
    """

    def __init__(self, at: int, data: bytes, capacity: int = 4096) -> None:
        if at < 0 or not data or at + len(data) > _MIN_PAGE:
            raise ValueError("bytes beyond the smallest page")
        self._data = data
        self._bytes = ffi.from_buffer("uint8_t[]", self._data)
        self._hits = ffi.new("uint64_t[]", capacity)
        self.handle = ffi.new("struct sf_watch *")
        self.handle.bytes = self._bytes
        self.handle.hits = self._hits
        self.handle.length = len(data)
        self.handle.at = at
        self.handle.capacity = capacity

    @property
    def hits(self) -> list[int]:
        """Offsets in the target, ascending; a page written again may have changed since."""
        return sorted(set(self._hits[0 : self.handle.count]))

    @property
    def full(self) -> bool:
        """Whether there may have been more."""
        return bool(self.handle.count == self.handle.capacity)


def pack_tables(tables: Sequence[Table] | None) -> Any:
    """Return a ``struct sf_table *[]``, or NULL for None."""
    if tables is None:
        return ffi.NULL
    array = ffi.new("struct sf_table *[]", max(len(tables), 1))
    for i, table in enumerate(tables):
        array[i] = table.handle
    return array


class SumKey:
    """The key of page sums; equal keys give comparable sums."""

    def __init__(self, material: bytes) -> None:
        self._data = material
        self.handle = ffi.cast("uint64_t *", ffi.from_buffer(self._data))

    @classmethod
    def random(cls) -> SumKey:
        """A new key, for comparing two images that somebody may have forged."""
        return cls(os.urandom(_KEY_LENGTH))

    @classmethod
    def fixed(cls) -> SumKey:
        """The key of `digest()`: SHAKE-256 of ``savefmt page sum 1``."""
        import hashlib

        return cls(hashlib.shake_256(b"savefmt page sum 1").digest(_KEY_LENGTH))

    def sum(self, page: bytes | bytearray | memoryview) -> int:
        """Sum of one page: zero for a zero page, and only for one."""
        with ffi.from_buffer("uint8_t[]", page) as view:
            return int(lib.sf_sum_page(self.handle, view, len(page)))
