"""Random reads of the plain bytes of a compressed image, without unpacking all of it."""

from __future__ import annotations

import io
import weakref
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable
from importlib.util import find_spec
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

from savefmt.errors import ClosedImageError, CorruptError, SavefmtError, TruncatedError
from savefmt.native.file import File
from savefmt.native.index import BlockIndex
from savefmt.reading.plainstream import Packing

if TYPE_CHECKING:
    from savefmt.codec.segments import Segments

_CACHE_LENGTH = 64 << 20
_SPAN_LENGTH = 256 << 10
_STRIDE = 64  # spans, between two looks at the clock
_WORD_LENGTH = 8
_PAGE, _CONTINUE = 0x08, 0x20
_LEAST_SPACING = 1 << 20
_MOST_POINTS = 1 << 11  # gzip keeps 32 KiB for each
_LIBRARIES = {"gzip": "indexed_gzip", "bzip2": "rapidgzip"}  # of the extra `seek`


class PlainReader(Protocol):
    """Reads plain bytes; any thread may."""

    def read(self, length: int, offset: int) -> bytes:
        """Read exactly `length` bytes, counted from the beginning of the plain stream."""

    def close(self) -> object:
        """Drop what is kept; harmless when repeated."""


Opener = Callable[[int, Callable[[], object]], PlainReader]
"""Makes a reader when told the plain length, and what to call often meanwhile."""


def open_plain(packing: Packing, file: File, start: int) -> Opener | None:
    """Find a way to read a compressed stream at any place.

    Parameters
    ----------
    packing : Packing
        How it is compressed.
    file : File
        With the stream.
    start : int
        Where in the file the compressed bytes begin.

    Returns
    -------
    Opener or None
        None where there is no way: then the stream must be unpacked in order.
    """
    reader = open_segments(packing, file, start)
    if reader is not None:
        return lambda _length, _tick: reader
    codec = packing.single
    if codec not in _LIBRARIES or find_spec(_LIBRARIES[codec]) is None:
        return None
    opener = {"gzip": _open_gzip, "bzip2": _open_bzip2}[codec]

    def make(length: int, tick: Callable[[], object]) -> PlainReader:
        spacing = max(length // _MOST_POINTS, _LEAST_SPACING)
        made = LibraryReader(opener(_FilePart(file, start), spacing), codec)
        if codec == "gzip":  # of bzip2 that pass would take longer than most who read have time
            made.note_points(tick)
        return made

    return make


def open_segments(packing: Packing, file: File, start: int) -> SegmentReader | None:
    """Return a reader that unpacks segments, None without segments; see `open_plain`."""
    codec = packing.single
    if codec is None:
        return None
    from savefmt.codec.registry import find_codec

    segments = find_codec(codec).find_segments(file.read, start, file.length)
    return SegmentReader(segments, file) if segments is not None else None


class _Cache:
    """Keeps the last few pieces, by number."""

    def __init__(self, unpack: Callable[[int], bytes]) -> None:
        self._unpack = unpack
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._lock = Lock()
        self.length = 0

    def get(self, number: int) -> bytes:
        """Return a piece; several threads may unpack theirs at once."""
        with self._lock:
            if number in self._kept:
                self._kept.move_to_end(number)
                return self._kept[number]
        data = self._unpack(number)
        with self._lock:
            if number not in self._kept:
                self._kept[number] = data
                self.length += len(data)
            while self.length > _CACHE_LENGTH and len(self._kept) > 1:
                self.length -= len(self._kept.popitem(last=False)[1])
        return data

    def clear(self) -> None:
        """Forget all pieces."""
        with self._lock:
            self._kept.clear()
            self.length = 0


class SegmentReader:
    """Unpacks the segments that are asked for, and keeps the last few of them.

    Parameters
    ----------
    segments : Segments
        Of the file.
    file : File
        With the compressed bytes.

    Attributes
    ----------
    length : int
        Of all plain bytes.
    """

    def __init__(self, segments: Segments, file: File) -> None:
        self._plain = segments.plain
        self._file = file
        self.length = segments.plain[-1]
        self.cache = _Cache(lambda number: segments.unpack(file.read, number))

    def read(self, length: int, offset: int) -> bytes:
        """Read exactly `length` plain bytes.

        Raises
        ------
        TruncatedError
            If the stream ends sooner.
        CorruptError
            If it is damaged there.
        """
        plain = self._plain
        if offset + length > self.length:
            raise TruncatedError("the compressed stream ends too early", path=self._file.path)
        parts = []
        number = bisect_right(plain, offset) - 1
        while length:
            at = offset - plain[number]
            part = self.cache.get(number)[at : at + length]
            parts.append(part)
            offset += len(part)
            length -= len(part)
            number += 1
        return b"".join(parts)

    def close(self) -> None:
        """Drop the segments that are kept."""
        self.cache.clear()


class LibraryReader:
    """Reads through a library that notes on its way where it can go on.

    Parameters
    ----------
    file : file object
        The library's.
    codec : str
        For messages.
    """

    def __init__(self, file: Any, codec: str) -> None:
        self._file = file
        self._codec = codec
        self._lock = Lock()
        self.cache = _Cache(self._window)
        # rapidgzip has threads, and ends the process when Python ends before them.
        self._closer = weakref.finalize(self, file.close)

    def read(self, length: int, offset: int) -> bytes:
        """Read exactly `length` plain bytes.

        Raises
        ------
        CorruptError
            If the stream is damaged there, or ends sooner.
        """
        parts = []
        while length:
            number, at = divmod(offset, _SPAN_LENGTH)
            part = self.cache.get(number)[at : at + length]
            if not part:
                raise CorruptError(f"the {self._codec} data end too early")
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return b"".join(parts)

    def note_points(self, tick: Callable[[], object]) -> None:
        """Have the library note all places where it can go on, which costs a pass.

        Without them each read that goes further than all before pays for the way there.

        Parameters
        ----------
        tick : callable
            Called often; may raise to end it.

        Raises
        ------
        CorruptError
            If the stream is damaged.
        """
        number = 0
        while self._window(number, 1):
            tick()
            number += _STRIDE

    def close(self) -> None:
        """Close the library's file, once nobody reads from it any more."""
        with self._lock:
            self._closer()

    def _window(self, number: int, length: int = _SPAN_LENGTH) -> bytes:
        try:
            with self._lock:
                if not self._closer.alive:
                    raise ClosedImageError("the file was closed")
                self._file.seek(number * _SPAN_LENGTH)
                data: bytes = self._file.read(length)
                return data
        except SavefmtError:
            raise
        except Exception as error:  # the libraries raise errors of many kinds
            raise CorruptError(f"damaged {self._codec} data: {error}") from error


def _open_gzip(file: io.RawIOBase, spacing: int) -> Any:
    from indexed_gzip import IndexedGzipFile

    return IndexedGzipFile(
        fileobj=file, spacing=spacing, drop_handles=False, buffer_size=_SPAN_LENGTH
    )


def _open_bzip2(file: io.RawIOBase, spacing: int) -> Any:
    from rapidgzip import IndexedBzip2File

    return IndexedBzip2File(file, parallelization=1)


class _FilePart(io.RawIOBase):
    """A file from some place on, as libraries want it."""

    def __init__(self, file: File, start: int) -> None:
        self._part = file
        self._start = start
        self._at = 0
        self._length = file.length - start

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence]
        self._at = max(base + offset, 0)
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = max(min(len(view), self._length - self._at), 0)
        view[:count] = self._part.read(count, self._start + self._at)
        self._at += count
        return count


def read_pages(
    index: BlockIndex, plain: PlainReader, start: int, first: int, count: int
) -> bytearray:
    """Read pages of one block; those without data are zeros.

    Parameters
    ----------
    index : BlockIndex
        Of the block.
    plain : PlainReader
        Of the stream.
    start : int
        Offset of the stream's first byte in terms of the index.
    first, count : int
        Which pages.

    Raises
    ------
    CorruptError
        If a record is not where the index has it.
    """
    size = index.page_size
    data = bytearray(count * size)
    for run in index.runs(first, first + count):
        if run.kind == "delta":
            raise CorruptError("the index has deltas, but its head says that it has none")
        if run.kind != "data":
            continue
        step = max(_SPAN_LENGTH // max(run.stride, size), 1)
        for done in range(0, run.pages.count, step):
            part = min(step, run.pages.count - done)
            offset = run.offset - start + done * run.stride
            lead = min(_WORD_LENGTH + 1 + len(index.name), offset)
            span = plain.read(lead + (part - 1) * run.stride + size, offset - lead)
            for i in range(part):
                page = run.pages.first + done + i
                at = lead + i * run.stride
                _check_record(index, span[max(at - lead, 0) : at], page)
                to = (page - first) * size
                data[to : to + size] = span[at : at + size]
    return data


def _check_record(index: BlockIndex, ahead: bytes, page: int) -> None:
    address = page * index.page_size
    if ahead.endswith((address | _PAGE | _CONTINUE).to_bytes(_WORD_LENGTH, "big")):
        return
    name = bytes([len(index.name)]) + index.name
    if ahead.endswith((address | _PAGE).to_bytes(_WORD_LENGTH, "big") + name):
        return
    raise CorruptError(
        f"page {page} is not where the index has it; the file changed, or the index belongs "
        "to another one"
    )
