"""The plain bytes of a stream, in order, unpacked from any compression around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from savefmt.codec.base import Border
from savefmt.errors import SavefmtError, TruncatedError
from savefmt.format.cursor import ChunkCursor, Cursor, FileCursor
from savefmt.frozen import dataclass
from savefmt.reading.prefetch import close_pieces, prefetch

Pieces = Iterator[bytes | memoryview]
Pread = Callable[[int, int], bytes]

_MOST_BEHIND = 64 << 20
"""Plain bytes to read behind a stream for the sake of a checksum; more is a bomb."""


@dataclass(frozen=True, slots=True)
class Packing:
    """How a stream is compressed.

    Attributes
    ----------
    codec : str
        Between envelope and stream, or around a bare stream; ``raw`` if none is.
    outer : str
        Around the file as a whole, envelope included; ``raw`` if none is.
    envelope_length : int
        Plain bytes to pass by inside of `outer`.
    """

    codec: str = "raw"
    outer: str = "raw"
    envelope_length: int = 0

    @property
    def packed(self) -> bool:
        """Whether anything is."""
        return (self.codec, self.outer) != ("raw", "raw")

    @property
    def single(self) -> str | None:
        """The codec, if there is one only."""
        codecs = [codec for codec in (self.outer, self.codec) if codec != "raw"]
        return codecs[0] if len(codecs) == 1 else None


class PlainCursor(ChunkCursor):
    """A cursor over plain bytes that knows where members of the compression end.

    Parameters
    ----------
    pieces : iterator of bytes or memoryview
        The plain bytes, with a `Border` behind each member.
    offset : int
        Of the first piece.
    pread, end : callable and int, optional
        As for `FileCursor`, where these bytes are those of a file.

    Attributes
    ----------
    border : Border or None
        The last one met.
    """

    def __init__(
        self, pieces: Pieces, offset: int, pread: Pread | None = None, end: int = 0
    ) -> None:
        super().__init__(self._watch(pieces), offset)
        self._pread = pread
        self._end = end
        self.border: Border | None = None
        self._pulled = self._proven = offset

    def _watch(self, pieces: Pieces) -> Pieces:
        for piece in pieces:
            self._pulled += len(piece)
            if isinstance(piece, Border):
                self.border = piece
                self._proven = self._pulled
            yield piece

    @contextmanager
    def ahead(self) -> Iterator[Cursor]:
        """A second cursor that starts here; it reads the file itself where it can."""
        if self._pread is not None:
            yield FileCursor(self._pread, self.tell(), self._end)
            return
        with super().ahead() as other:
            yield other

    def rest(self) -> Pieces:
        """Yield all that is left, borders included."""
        seen = self.border
        while True:
            window = self.window()
            if self.border is not None and self.border is not seen:
                seen = self.border
                yield seen
            if not window:
                return
            yield window
            self.advance(len(window))

    def finish(self) -> bool:
        """Read on to the end of the member in which the cursor is.

        Its checksum proves all that was read.  What is found on the way is thrown away, and
        only so much of it is read.

        Returns
        -------
        bool
            Whether all was proven; also True where nothing is compressed.

        Raises
        ------
        CorruptError, TruncatedError
            If the member is damaged or cut short.
        """
        most = self.tell() + _MOST_BEHIND
        while self._proven < self.tell() and self._pulled < most:
            if next(self._chunks, None) is None:
                break
        return self.border is None or self._proven >= self.tell()

    def explain(self, error: SavefmtError) -> SavefmtError:
        """Return the better reason for an error: why no plain bytes are left."""
        if isinstance(error, TruncatedError) and self.border is not None and self.border.failure:
            return self.border.failure
        return error


@contextmanager
def plain_stream(
    pieces: Pieces,
    packing: Packing,
    *,
    offset: int,
    threads: int,
    length: int | None = None,
    ahead: bool = True,
    patient: bool = True,
    pread: Pread | None = None,
) -> Iterator[PlainCursor]:
    """A cursor over a stream, decompressed if need be.

    Parameters
    ----------
    pieces : iterator of bytes or memoryview
        What is stored, from the stream on; of a file compressed as a whole from its
        beginning on.
    packing : Packing
        How it is compressed.
    offset : int
        Where the pieces begin in the file.
    threads : int
        How many decompress.
    length : int, optional
        Of the file, where it is known.
    ahead : bool
        Decompress ahead in a thread.
    patient : bool
        As for `prefetch`.
    pread : callable, optional
        ``pread(length, offset)`` returns bytes of the file, which `length` is of.

    Yields
    ------
    PlainCursor
        Valid inside the ``with`` block.
    """
    opened = [pieces]

    def unpack(codec: str, offset: int) -> None:
        from savefmt.codec.registry import find_codec

        reader = find_codec(codec).open_reader
        decoded = reader(opened[-1], offset=offset, threads=threads, length=length)
        opened.append(prefetch(decoded, patient=patient) if ahead else decoded)

    if packing.outer != "raw":
        unpack(packing.outer, offset)
        opened.append(_without_first(opened[-1], packing.envelope_length))
        offset += packing.envelope_length
    if packing.codec != "raw":
        unpack(packing.codec, offset)
    cursor = PlainCursor(opened[-1], offset, None if packing.packed else pread, length or 0)
    try:
        yield cursor
    except SavefmtError as error:
        better = cursor.explain(error)
        if better is error:
            raise
        raise better from error
    finally:
        # The outermost first: it may hold a thread that reads from the others.
        for layer in reversed(opened):
            close_pieces(layer)


def _without_first(pieces: Pieces, count: int) -> Pieces:
    for piece in pieces:
        if count >= len(piece) > 0:
            count -= len(piece)
        elif count and piece:
            yield memoryview(piece)[count:]
            count = 0
        else:
            yield piece
