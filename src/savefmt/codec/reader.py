"""The reader of members: decompress them in parallel and pass them on in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import cached_property
from threading import Event
from typing import TYPE_CHECKING, ClassVar, Protocol

from savefmt.codec.base import Border, Bytes
from savefmt.codec.boundaries import Lookahead, NoBoundaryError
from savefmt.errors import SavefmtError
from savefmt.format.cursor import ChunkCursor, Cursor

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

_MOST_PLAIN = 4 << 20  # in a member; the 8 MiB of pzstd -3 made two cores slower
_MOST_PACKED = _MOST_PLAIN + (64 << 10)
_BATCH = 1 << 20  # smaller members are taken together, by plain or packed length
_MOST_UNDER_WAY = 16 << 20  # bytes, packed and plain: two members of the longest
_KEPT_BY_GLIBC = 8 << 20
_STEP = 64 << 10
_MOST_HELD = _BATCH + _MOST_PACKED + _STEP


class Members(Protocol):
    """What is read here: `savefmt.codec.members.MemberCodec` is one."""

    frugal: ClassVar[int]

    def measure(self, ahead: Lookahead, start: int) -> tuple[int, int]:
        """Tell how long a member is, in the file and plain."""

    def read_member(self, source: Cursor, memory: int) -> Iterator[bytes]:
        """Decompress one member."""

    def read_members(
        self, source: Cursor, memory: int, behind: int | None = None
    ) -> Iterator[Bytes]:
        """Decompress all members, one after another."""


class Gathered:
    """Bytes of a stream that were taken from it and not yet decoded.

    Parameters
    ----------
    source : ChunkCursor
        Gives the bytes.
    buffer : bytearray
        Holds them; it grows at need and may have been used before.
    """

    def __init__(self, source: ChunkCursor, buffer: bytearray) -> None:
        self._source = source
        self._buffer = buffer
        self._filled = 0
        self.start = source.tell()

    def read(self, length: int, offset: int) -> bytes:
        """Give exactly so many bytes.

        Raises
        ------
        NoBoundaryError
            If the stream ends sooner, or that is more than a member may have.
        """
        self.require(offset + length)
        at = offset - self.start
        return bytes(self._buffer[at : at + length])

    def require(self, end: int) -> None:
        """Take all up to an offset; raise as `read` does."""
        if not self._fill(end - self.start):
            raise NoBoundaryError

    def find(self, mark: bytes, offset: int, into: int = 0) -> int:
        """Tell the place `into` the next `mark`; where the stream ends if none comes."""
        at = offset - self.start
        while True:
            more = self._fill(self._filled + _STEP)
            found = self._buffer.find(mark, at, self._filled)
            if found >= 0:
                return self.start + found + into
            if not more:
                return self.start + self._filled
            at = max(self._filled - len(mark) + 1, at)

    def _fill(self, length: int) -> bool:
        """Hold so many bytes; False if the stream ends sooner."""
        if length > _MOST_HELD:
            raise NoBoundaryError
        while self._filled < length:
            window = self._source.window()[: length - self._filled]
            if not window:
                return False
            self._buffer[self._filled : self._filled + len(window)] = window
            self._filled += len(window)
            self._source.advance(len(window))
        return True

    def give_back(self, length: int) -> None:
        """Put all but the first so many bytes back into the stream."""
        self._source.rewind(bytes(self._buffer[length : self._filled]))


class _Batch:
    """Whole members, one after another, on their way through the pool."""

    __slots__ = ("buffer", "length", "offset", "pieces", "plain")

    def __init__(
        self,
        buffer: bytearray,
        length: int,
        offset: int,
        plain: int,
        pieces: Future[list[bytes] | None],
    ) -> None:
        self.buffer = buffer
        self.length = length
        self.offset = offset
        self.plain = plain
        self.pieces = pieces

    @property
    def cost(self) -> int:
        """Bytes of memory it takes at most."""
        return self.length + self.plain


class MemberReader:
    """Reads members in parallel as long as their lengths can be told, then in turn.

    The stated lengths are trusted only as far as they prove right. If a batch of members does
    not decode to its end within its stated plain length, it is decoded again in the ordinary
    way, and everything behind it as well. So bytes and errors are those of the ordinary way.

    Memory is bounded: `_MOST_UNDER_WAY` bytes, and the batch being gathered.

    Parameters
    ----------
    codec : Members
        Of the stream.
    pieces : iterator of bytes or memoryview
        As for `savefmt.codec.base.Codec.open_reader`.
    offset : int
        Where they begin.
    threads : int
        How many batches to decode at a time.
    memory : int
        Bytes that decoding in turn may take.
    """

    def __init__(
        self, codec: Members, pieces: Iterator[Bytes], *, offset: int, threads: int, memory: int
    ) -> None:
        self._codec = codec
        self._memory = memory
        self._source = ChunkCursor(pieces, offset)
        self._threads = threads
        self._stop = Event()
        self._batches: deque[_Batch] = deque()
        self._spare: list[bytearray] = []
        self._end: int | None = None  # of the last member that was handed out

    def read(self) -> Iterator[Bytes]:
        """Yield the plain bytes; closing it ends the threads."""
        try:
            yield from self._read()
        finally:
            self._stop.set()
            if "_pool" in self.__dict__:
                self._pool.shutdown(cancel_futures=True)

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        from concurrent.futures import ThreadPoolExecutor

        # glibc returns memory to the kernel, and gets it back cleared, at every turn. Once
        # something large was freed, it keeps twice as much. That saves a tenth of the time.
        bytes(_KEPT_BY_GLIBC // 2)
        return ThreadPoolExecutor(self._threads, "savefmt-unpack")

    def _read(self) -> Iterator[Bytes]:
        more = True
        while more:
            more = self._start_batch()
            while self._batches and (not more or self._is_full()):
                pieces = self._batches[0].pieces.result()
                if pieces is None:
                    self._give_back()
                    more = False
                    break
                yield from pieces
                del pieces
                batch = self._batches.popleft()
                self._end = batch.offset + batch.length
                self._spare.append(batch.buffer)
        self._spare.clear()
        if self._end is None or self._source.window():
            yield from self._codec.read_members(self._source, self._memory, self._end)

    def _is_full(self) -> bool:
        return (
            len(self._batches) > self._threads + 1
            # Another of its kind would be too much.
            or sum(batch.cost for batch in self._batches) + self._batches[-1].cost > _MOST_UNDER_WAY
            or self._batches[0].pieces.done()
        )

    def _start_batch(self) -> bool:
        """Hand the next members to the pool; False if what follows must be read in turn."""
        buffer = self._spare.pop() if self._spare else bytearray()
        gathered = Gathered(self._source, buffer)
        offset = gathered.start
        length = plain = 0
        more = True
        while more and max(length, plain) < _BATCH:
            try:
                member, told = self._codec.measure(gathered, offset + length)
                gathered.require(offset + length + member)
            except Exception:  # which reading in turn will meet again
                more = False
            else:
                more = told <= _MOST_PLAIN
                length += member if more else 0
                plain += told if more else 0
        gathered.give_back(length)
        if length:
            pieces = self._pool.submit(self._decode, buffer, length, offset, plain)
            self._batches.append(_Batch(buffer, length, offset, plain, pieces))
        return more

    def _decode(
        self, buffer: bytearray, length: int, offset: int, plain: int
    ) -> list[bytes] | None:
        """Run in a thread of the pool; None unless these are whole members and no more."""
        source = ChunkCursor(iter([memoryview(buffer)[:length]]), offset)
        pieces: list[bytes] = []
        try:
            while source.window() and not self._stop.is_set():
                for piece in self._codec.read_member(source, self._codec.frugal):
                    pieces.append(piece)
                    plain -= len(piece)
                    if plain < 0 or self._stop.is_set():
                        return None
                pieces.append(Border(source.tell()))
        except SavefmtError:
            return None
        return pieces

    def _give_back(self) -> None:
        """Put all back that was not handed out, and let the threads forget it."""
        self._stop.set()
        self._spare.clear()
        while self._batches:
            batch = self._batches.pop()
            batch.pieces.cancel()
            self._source.rewind(bytes(batch.buffer[: batch.length]))
