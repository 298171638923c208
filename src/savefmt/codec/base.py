"""What a codec is, and what its readers hand out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, ClassVar, Protocol

from savefmt.errors import FormatError, SavefmtError, UnsupportedError
from savefmt.format.cursor import Cursor

if TYPE_CHECKING:
    from savefmt.codec.boundaries import Read
    from savefmt.codec.segments import Segments

Bytes = bytes | memoryview

PIECE_LENGTH = 256 << 10
"""Most bytes that a reader hands out at a time, however well they were compressed."""

SLICE_LENGTH = 256 << 10
"""Compressed bytes that a decoder gets at a time: enough for speed, and so few that even
bzip2 answers Ctrl-C at once."""

_MOST_MEMORY = 128 << 20  # what `zstd -dc` accepts by default; xz -9 needs 65 MiB
_LEAST_MEMORY = 68 << 20
_MEMORY_RATIO = 64


def memory_limit(length: int | None) -> int:
    """Tell how much memory a decoder may take for a file.

    Parameters
    ----------
    length : int or None
        Bytes of the file; None where nobody knows, as in a pipe.

    Returns
    -------
    int
        68 to 128 MiB.
    """
    if length is None:
        return _MOST_MEMORY
    return min(max(_MEMORY_RATIO * length, _LEAST_MEMORY), _MOST_MEMORY)


class Border(bytes):
    """An empty piece that a reader hands out behind each member.

    All plain bytes before it are proven: the member's checksum was right.  What follows may be
    another member, or bytes that do not belong to the codec, such as what a block device held
    before. Such bytes are an error only when somebody needs more plain bytes.

    Attributes
    ----------
    offset : int
        Where in the file the member ended.
    failure : SavefmtError or None
        What to raise if more bytes are needed; None if the file ends or another member may
        follow.
    """

    offset: int
    failure: SavefmtError | None

    def __new__(cls, offset: int, failure: SavefmtError | None = None) -> Border:
        """Make one."""
        border = super().__new__(cls)
        border.offset = offset
        border.failure = failure
        return border


def read_in_turn(
    source: Cursor, read_one: Callable[[], Iterator[Bytes]], *, behind: int | None = None
) -> Iterator[Bytes]:
    """Read members one after another, as long as they are members.

    Parameters
    ----------
    source : Cursor
        At the beginning of a member.
    read_one : callable
        Reads one member from the cursor.
    behind : int, optional
        Where the member before ended, if there was one.

    Yields
    ------
    bytes or memoryview
        The plain bytes, and a `Border` behind each member.
    """
    while True:
        member = read_one()
        if behind is not None:
            # Bytes that fail at once behind a whole member may not belong to the codec.
            try:
                first = next(member, b"")
            except (FormatError, UnsupportedError) as error:
                yield Border(behind, error)
                return
            yield first
        yield from member
        behind = source.tell()
        yield Border(behind)
        if not source.window():
            return


def refuse_foreign(pieces: Iterator[Bytes]) -> Iterator[Bytes]:
    """Pass plain bytes on, and raise where something follows that is not the codec's.

    Parameters
    ----------
    pieces : iterator of bytes or memoryview
        From `Codec.open_reader`.

    Yields
    ------
    bytes or memoryview
        The same pieces.
    """
    for piece in pieces:
        if isinstance(piece, Border) and piece.failure is not None:
            raise piece.failure
        yield piece


class Writer(Protocol):
    """Takes plain bytes and passes compressed ones on to the `write` it was opened with."""

    def write(self, data: Bytes) -> None:
        """Take the next bytes; they may be overwritten as soon as this returns.

        Parameters
        ----------
        data : bytes or memoryview
            Any number of them.
        """

    def close(self) -> None:
        """Pass on all that is left, then release everything; a second call does nothing."""

    def abort(self) -> None:
        """Release everything without finishing; does nothing when closed or aborted."""


class Decompressor(Protocol):
    """What the codec libraries agree on: decodes one member."""

    @property
    def eof(self) -> bool:
        """Whether the member is complete, its checksum included."""

    @property
    def needs_input(self) -> bool:
        """Whether nothing more comes without more input."""

    @property
    def unused_data(self) -> bytes:
        """Input that lies behind the member."""

    def decompress(self, data: Bytes, /, max_length: int) -> bytes:
        """Take input, give at most `max_length` bytes of output."""


class Compressor(Protocol):
    """What the codec libraries agree on: encodes one member."""

    def compress(self, data: memoryview, /) -> bytes:
        """Take input, give some output."""

    def flush(self) -> bytes:
        """Give the rest of the output."""


class Codec(ABC):
    """One compression format.

    Attributes
    ----------
    name : str
        Name of the format and of the program.
    libvirt_format : int
        Its number in libvirt's header (format.md 2.5).
    magic : bytes
        How its data begin.
    levels : range
        What `open_writer` takes as level.
    default_level : int
        What it takes when not told.
    """

    name: ClassVar[str]
    libvirt_format: ClassVar[int]
    magic: ClassVar[bytes]
    levels: ClassVar[range]
    default_level: ClassVar[int]

    def begins(self, head: bytes) -> bool:
        """Tell whether compressed data may begin like this.

        Parameters
        ----------
        head : bytes
            Their first bytes; when these are fewer than `magic` has, as far as they go.

        Returns
        -------
        bool
            False if this is another format.
        """
        return self.magic.startswith(head[: len(self.magic)])

    @abstractmethod
    def open_reader(
        self,
        pieces: Iterator[Bytes],
        *,
        offset: int,
        threads: int = 1,
        length: int | None = None,
    ) -> Iterator[Bytes]:
        """Decompress a stream, lazily.

        Parameters
        ----------
        pieces : iterator of bytes or memoryview
            The compressed bytes up to the end of the file, in pieces of any length; each must
            stay valid until the next one is asked for.
        offset : int
            Where in the file they begin. Errors use it: they count compressed bytes.
        threads : int
            How many members to decompress at a time, if their lengths are known. The bytes and
            the errors do not depend on it.
        length : int, optional
            The length of the file, which limits the memory that decoding may take.

        Returns
        -------
        iterator of bytes or memoryview
            The plain bytes, at most 4 MiB at a time, each piece valid until the next is
            asked for, and a `Border` behind each member.  Closing it ends its threads.  It
            raises `TruncatedError` where a member ends too soon, `CorruptError` where one
            is damaged, and `UnsupportedError` where decoding would take too much memory.
            Behind a whole member it ends if no other member follows.
        """

    @abstractmethod
    def open_writer(
        self, write: Callable[[bytes], None], *, threads: int, level: int | None = None
    ) -> Writer:
        """Start to compress.

        Parameters
        ----------
        write : callable
            Gets the compressed bytes, in order, called only from within the writer's
            `write` and `close`.
        threads : int
            How many members to compress at a time; the output does not depend on it.
        level : int, optional
            One of `levels`.

        Returns
        -------
        Writer
            To be ended with `close` or `abort`.
        """

    def _level(self, level: int | None) -> int:
        if level is None:
            return self.default_level
        if level not in self.levels:
            raise ValueError(
                f"{self.name} has levels {self.levels[0]} to {self.levels[-1]}, not {level}"
            )
        return level

    def find_segments(self, read: Read, start: int, end: int) -> Segments | None:
        """Find the parts of a compressed stream that can be unpacked alone.

        Parameters
        ----------
        read : callable
            Gives bytes of the file.
        start, end : int
            Where the compressed stream begins, and where the file ends.

        Returns
        -------
        Segments or None
            None if there are none, if they are too long, or if the data are not sound: then
            only reading in order can find them.
        """
        from savefmt.codec.boundaries import NoBoundaryError

        def checked(length: int, offset: int) -> bytes:
            if not start <= offset <= offset + length <= end:
                raise NoBoundaryError
            return read(length, offset)

        try:
            segments = self._find_segments(checked, start, end)
        except (NoBoundaryError, SavefmtError):
            return None
        return segments if len(segments) else None

    def _find_segments(self, read: Read, start: int, end: int) -> Segments:
        """Do so; `NoBoundaryError` means None."""
        from savefmt.codec.boundaries import NoBoundaryError

        raise NoBoundaryError

    def _unpack_segment(self, data: bytes, length: int, offset: int) -> bytes:
        """Unpack a segment: little more than `length`, should that be a lie."""
        parts: list[bytes] = []
        total = 0
        for piece in refuse_foreign(self.open_reader(iter([data]), offset=offset)):
            parts.append(bytes(piece))
            total += len(piece)
            if total > length:
                break  # the length is wrong, and the file may be a decompression bomb
        return b"".join(parts)
