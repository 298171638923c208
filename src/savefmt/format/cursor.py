"""Sequential readers that know where they are and refuse to run past the end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from savefmt.errors import TruncatedError, UnsupportedError

CHUNK_LENGTH = 64 << 10
"""Bytes that a `FileCursor` fetches at a time."""

MAX_HELD = 64 << 20
"""Bytes that a cursor over pieces holds, at most, while another one looks ahead."""

_SEARCH_STEPS = (1 << 10, 8 << 10, 64 << 10)
"""Bytes of a window that are searched at a time: the next find may be near."""

_NOTHING = memoryview(b"")


class Cursor(ABC):
    """A place in the image from which one reads forwards.

    Offsets are absolute in the file, or in the decompressed file where a codec lies
    below.  Numbers are big-endian, as everything in a QEMU stream is (format.md 3).
    Every reading method takes a `what` that names the item in the error message.

    Parameters
    ----------
    offset : int
        Where the first byte to read lies.

    Attributes
    ----------
    origin : int
        Where offset 0 lies in a larger file, if that is known.
    """

    origin = 0

    def __init__(self, offset: int) -> None:
        self._offset = offset
        # Unread bytes are in `_rest`, then in `_ahead`: a peek across a border keeps a copy of
        # the old piece's tail, and the new piece without a copy.
        self._rest = _NOTHING
        self._ahead = _NOTHING

    @abstractmethod
    def _pull(self) -> memoryview:
        """Return the piece after all that is held, empty only at the end."""

    def tell(self) -> int:
        """Return the offset of the next byte.

        Returns
        -------
        int
            Absolute, in bytes.
        """
        return self._offset

    def window(self) -> memoryview:
        """Return the unread bytes of the window, after fetching more if there are none.

        Returns
        -------
        memoryview
            Empty only at the end.  Valid until the next call of any other method but
            `tell` and `advance`.
        """
        if not self._rest:
            self._rest, self._ahead = self._ahead, _NOTHING
            if not self._rest:
                self._rest = self._pull()
        return self._rest

    def advance(self, count: int) -> None:
        """Consume the first `count` bytes of the window.

        Parameters
        ----------
        count : int
            At most the length of the window.

        Raises
        ------
        ValueError
            If the window is shorter: a bug of the caller, never the file's.
        """
        if not 0 <= count <= len(self._rest):
            raise ValueError(f"cannot advance {count} bytes in a window of {len(self._rest)}")
        self._rest = self._rest[count:]
        self._offset += count

    def peek(self, count: int) -> bytes:
        """Return the next bytes without consuming them.

        Parameters
        ----------
        count : int
            How many.

        Returns
        -------
        bytes
            Fewer than `count` only at the end.
        """
        rest = self._rest or self.window()
        if count <= len(rest):
            return bytes(rest[:count])
        held = bytearray(rest)
        piece = self._ahead
        while len(held) + len(piece) < count:
            held += piece  # a copy, because pulling may overwrite the piece
            piece = self._pull()
            if not piece:
                break
        self._rest, self._ahead = memoryview(bytes(held)), piece
        return bytes(held) + bytes(piece[: count - len(held)])

    def read(self, count: int, what: str = "") -> bytes:
        """Consume exactly `count` bytes.

        Callers cap `count` when it comes from the file: memory grows with the bytes
        that are there, not with the bytes that are promised, but it does grow.

        Parameters
        ----------
        count : int
            How many.
        what : str
            The item, for the error message.

        Returns
        -------
        bytes
            Of length `count`.

        Raises
        ------
        TruncatedError
            If the file ends sooner; its offset is the end of the file.
        """
        rest = self._rest
        if 0 <= count <= len(rest):  # `advance` by hand: streams of a million items come here
            self._rest = rest[count:]
            self._offset += count
            return bytes(rest[:count])
        self._require(count, what)
        gathered = bytearray()
        while len(gathered) < count:
            window = self.window()
            if not window:
                raise TruncatedError(cut_short(what, count, len(gathered)), offset=self._offset)
            taken = min(len(window), count - len(gathered))
            gathered += window[:taken]
            self.advance(taken)
        return bytes(gathered)

    def _require(self, count: int, what: str) -> None:
        """Refuse to read what cannot be there, before memory is taken for it."""
        if count < 0:
            raise ValueError(f"cannot read {count} bytes")

    def skip(self, count: int, what: str = "") -> None:
        """Consume exactly `count` bytes unseen.

        Parameters
        ----------
        count : int
            How many.
        what : str
            The item, for the error message.

        Raises
        ------
        TruncatedError
            If the file ends sooner; its offset is the end of the file.
        """
        left = count
        while left:
            window = self._rest or self.window()
            if not window:
                raise TruncatedError(cut_short(what, count, count - left), offset=self._offset)
            taken = min(len(window), left)
            self.advance(taken)
            left -= taken

    def skip_to(self, pattern: bytes, what: str = "") -> None:
        """Consume all bytes before the next place where some bytes stand.

        Parameters
        ----------
        pattern : bytes
            What is then the next to read.
        what : str
            The item, for the error message.

        Raises
        ------
        TruncatedError
            If the pattern does not come.
        """
        overlap = len(pattern) - 1
        tries = 0
        while True:
            step = _SEARCH_STEPS[min(tries, len(_SEARCH_STEPS) - 1)]
            data = bytes(self.window()[:step])
            if len(data) <= 2 * overlap:
                data = self.peek(2 * overlap + 1)  # across the border of two pieces
            found = data.find(pattern)
            if found >= 0:
                return self.skip(found)
            if len(data) <= overlap:
                self.skip(len(data))
                message = f"the file ends inside {what or 'an item'}; it was cut short"
                raise TruncatedError(message, offset=self.tell())
            self.skip(len(data) - overlap)
            tries += 1

    @abstractmethod
    def ahead(self) -> AbstractContextManager[Cursor]:
        """A second cursor that starts here; what it consumes is still there for this one."""

    def u8(self, what: str = "") -> int:
        """Consume one byte.

        Parameters
        ----------
        what : str
            The item, for the error message.

        Returns
        -------
        int
            Its value.
        """
        return self.read(1, what)[0]

    def u16(self, what: str = "") -> int:
        """Consume a big-endian 16-bit number.

        Parameters
        ----------
        what : str
            The item, for the error message.

        Returns
        -------
        int
            Its value.
        """
        return int.from_bytes(self.read(2, what), "big")

    def u32(self, what: str = "") -> int:
        """Consume a big-endian 32-bit number.

        Parameters
        ----------
        what : str
            The item, for the error message.

        Returns
        -------
        int
            Its value.
        """
        return int.from_bytes(self.read(4, what), "big")

    def u64(self, what: str = "") -> int:
        """Consume a big-endian 64-bit number.

        Parameters
        ----------
        what : str
            The item, for the error message.

        Returns
        -------
        int
            Its value.
        """
        return int.from_bytes(self.read(8, what), "big")

    def counted(self, what: str = "") -> bytes:
        """Consume a counted string: one length byte, then that many bytes.

        Parameters
        ----------
        what : str
            The item, for the error message.

        Returns
        -------
        bytes
            The string without its length.
        """
        return self.read(self.u8(what), what)


class FileCursor(Cursor):
    """A cursor over a file that can be read anywhere.

    Parameters
    ----------
    pread : callable
        ``pread(length, offset)`` returns bytes of the file: fewer than asked where
        the kernel pleases, none only at the end.
    offset : int
        Where to begin.
    end : int
        Where the file ends.
    origin : int
        Where this file begins in a larger one, in which offsets that it holds may count.
    """

    def __init__(
        self, pread: Callable[[int, int], bytes], offset: int, end: int, *, origin: int = 0
    ) -> None:
        super().__init__(offset)
        self.pread = pread
        self.origin = origin
        self._end = end
        self._fetched = offset

    @property
    def end(self) -> int:
        """Where the file ends."""
        return self._end

    def _pull(self) -> memoryview:
        length = min(CHUNK_LENGTH, self._end - self._fetched)
        if length <= 0:
            return _NOTHING
        data = self.pread(length, self._fetched)
        self._fetched += len(data)
        return memoryview(data)

    @contextmanager
    def ahead(self) -> Iterator[FileCursor]:
        """A second cursor that starts here, in the same file."""
        yield FileCursor(self.pread, self._offset, self._end, origin=self.origin)

    def seek(self, offset: int) -> None:
        """Continue at another place.

        Parameters
        ----------
        offset : int
            Absolute; the end of the file itself is allowed.

        Raises
        ------
        TruncatedError
            If the file ends before that place.
        ValueError
            If `offset` is negative: a bug of the caller, never the file's.
        """
        if offset < 0:
            raise ValueError(f"cannot seek to {offset}")
        if offset > self._end:
            raise TruncatedError(
                f"the file ends before offset {offset:#x}, which its headers point to; "
                "it was cut short, so get a complete copy",
                offset=self._end,
            )
        ahead = offset - self._offset
        if 0 <= ahead <= len(self._rest):
            self.advance(ahead)
        else:
            self._rest = self._ahead = _NOTHING
            self._offset = self._fetched = offset

    def skip(self, count: int, what: str = "") -> None:
        """Consume exactly `count` bytes without reading them.

        Parameters
        ----------
        count : int
            How many.
        what : str
            The item, for the error message.
        """
        rest = self._rest
        if 0 <= count <= len(rest):
            self._rest = rest[count:]
            self._offset += count
            return
        self._require(count, what)
        if count <= len(rest) + len(self._ahead):  # behind a peek across a border
            self._rest, self._ahead = self._ahead[count - len(rest) :], _NOTHING
            self._offset += count
            return
        self.seek(self._offset + count)

    def _require(self, count: int, what: str) -> None:
        super()._require(count, what)
        there = max(self._end - self._offset, 0)
        if count > there:
            raise TruncatedError(cut_short(what, count, there), offset=self._end)


class ChunkCursor(Cursor):
    """A cursor over successive pieces, such as a decoder hands out.

    Parameters
    ----------
    chunks : iterator of bytes or memoryview
        The pieces in order; each need stay valid only until the next is asked for.
    offset : int
        Offset of the first piece.
    """

    def __init__(self, chunks: Iterator[bytes | memoryview], offset: int) -> None:
        super().__init__(offset)
        self._chunks = chunks
        self._back: list[memoryview] = []  # the first one last
        self._failure: Exception | None = None

    def _pull(self) -> memoryview:
        if self._back:
            return self._back.pop()
        if self._failure is not None:
            raise self._failure
        try:
            for chunk in self._chunks:
                if chunk:
                    return memoryview(chunk)
        except Exception as error:
            self._failure = error  # for the next caller
            raise
        return _NOTHING

    def rewind(self, data: bytes | bytearray) -> None:
        """Put bytes back in front, which are then the next ones.

        Parameters
        ----------
        data : bytes or bytearray
            As they were consumed; not to be changed any more.
        """
        self._back += [part for part in (self._ahead, self._rest, memoryview(data)) if part]
        self._rest = self._ahead = _NOTHING
        self._offset -= len(data)

    @contextmanager
    def ahead(self) -> Iterator[Cursor]:
        """A second cursor that starts here; what it consumes is still there for this one.

        Yields
        ------
        Cursor
            Valid inside the ``with`` block, where this one must rest.  It holds what it
            passes in memory, and raises `LookaheadError` after `MAX_HELD` bytes.
        """
        other = _HeldCursor(self)
        try:
            yield other
        finally:
            other.give_back()


class LookaheadError(UnsupportedError):
    """The bytes ahead are too many to hold in memory."""


class _HeldCursor(Cursor):
    """Goes ahead of a `ChunkCursor`, and keeps for it what it passes."""

    def __init__(self, base: ChunkCursor) -> None:
        super().__init__(base.tell())
        self._base = base
        self._held: list[bytes] = []
        self._length = 0
        self._rest = self._hold(base._rest)
        self._ahead = self._hold(base._ahead)
        base._rest = base._ahead = _NOTHING

    def _hold(self, piece: memoryview) -> memoryview:
        # A piece that was held before is not copied again.
        kept = piece.obj if isinstance(piece.obj, bytes) and piece.nbytes == len(piece.obj) else b""
        data = kept or bytes(piece)
        if data:
            self._held.append(data)
            self._length += len(data)
        return memoryview(data)

    def _pull(self) -> memoryview:
        if self._length > MAX_HELD:
            raise LookaheadError(
                f"more than {MAX_HELD >> 20} MiB lie between here and the end of the stream",
                offset=self._offset,
            )
        return self._hold(self._base._pull())

    def ahead(self) -> AbstractContextManager[Cursor]:
        """Nobody goes ahead of who goes ahead."""
        raise AssertionError("a cursor ahead of a cursor ahead")

    def give_back(self) -> None:
        """Let the other cursor go on from where it was."""
        self._base._back += [memoryview(piece) for piece in reversed(self._held)]


def cut_short(what: str, wanted: int, there: int) -> str:
    """Say that the file ends inside an item."""
    return (
        f"the file ends inside {what or 'an item'}: {there} of {wanted} bytes are there; "
        "it was cut short, so get a complete copy"
    )
