"""What a codec is, and what those share whose data are members."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, ClassVar, Protocol

from savefmt.errors import CorruptError, SavefmtError, TruncatedError
from savefmt.format.cursor import ChunkCursor, Cursor

if TYPE_CHECKING:
    from savefmt.codec.boundaries import Lookahead

Bytes = bytes | memoryview

PIECE_LENGTH = 256 << 10
"""Most bytes that a reader hands out at a time, however well they were compressed."""

SLICE_LENGTH = 256 << 10
"""Compressed bytes that a decoder gets at a time: enough for speed, and so few that even
bzip2 answers Ctrl-C at once."""


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
        self, pieces: Iterator[Bytes], *, offset: int, threads: int = 1
    ) -> Iterator[Bytes]:
        """Decompress a stream, lazily.

        Parameters
        ----------
        pieces : iterator of bytes or memoryview
            The compressed bytes up to the end of the file, in pieces of any length; each
            need stay valid only until the next is asked for.
        offset : int
            Where in the file they begin, for the errors: those count compressed bytes.
        threads : int
            How many members to decompress at a time, where their lengths can be told;
            neither the bytes nor the errors depend on it.

        Returns
        -------
        iterator of bytes or memoryview
            The plain bytes, at most 4 MiB at a time, each piece valid until the next is
            asked for.  Closing it ends its threads.  It raises `TruncatedError` where the
            data end too soon, `CorruptError` where they are damaged or garbage follows
            them, and `UnsupportedError` where decoding would take too much memory.
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


class MemberCodec(Codec):
    """A codec whose data are members, one after another, each complete in itself.

    Attributes
    ----------
    noun : str
        What the format calls a member, for messages.
    member_length : int
        Plain bytes that the writer puts into one.
    most_threads, most_readers : int
        More would go beyond the bound on memory, in compressing and decompressing.
    """

    noun: ClassVar[str]
    member_length: ClassVar[int]
    most_threads: ClassVar[int] = 8
    most_readers: ClassVar[int] = 4

    def open_reader(
        self, pieces: Iterator[Bytes], *, offset: int, threads: int = 1
    ) -> Iterator[Bytes]:
        """Decompress a stream, lazily; see `Codec.open_reader`."""
        if threads == 1:
            return self.read_members(ChunkCursor(pieces, offset))
        from savefmt.codec.memberreader import MemberReader

        most = min(threads, self.most_readers)
        return MemberReader(self, pieces, offset=offset, threads=most).read()

    def read_members(self, source: Cursor) -> Iterator[bytes]:
        """Decompress all members from the cursor on, one after another.

        Parameters
        ----------
        source : Cursor
            At the beginning of a member.

        Yields
        ------
        bytes
            As `open_reader` does.
        """
        while True:
            yield from self.read_member(source)
            if self.ends(source):
                return

    def ends(self, source: Cursor) -> bool:
        """Tell behind a member whether it was the last; consume the padding there.

        Parameters
        ----------
        source : Cursor
            Behind a member.

        Returns
        -------
        bool
            False if another must begin here.

        Raises
        ------
        CorruptError
            If padding stands where none may.
        """
        zeros = _skip_zeros(source)
        last = not source.window()
        if not self._allows_padding(zeros, last=last):
            raise self._garbage(source.tell() - zeros)
        return last

    def measure(self, ahead: Lookahead, start: int) -> tuple[int, int]:
        """Tell how long a member is without decompressing it.

        Parameters
        ----------
        ahead : Lookahead
            The stream.
        start : int
            Where the member begins.

        Returns
        -------
        tuple of (int, int)
            Bytes that it takes in the file, and the most that it should hold.  A hint:
            only decompressing proves it.

        Raises
        ------
        NoBoundaryError
            If it does not tell.
        """
        from savefmt.codec.boundaries import NoBoundaryError

        raise NoBoundaryError

    def open_writer(
        self, write: Callable[[bytes], None], *, threads: int, level: int | None = None
    ) -> Writer:
        """Start to compress members in parallel; see `Codec.open_writer`."""
        from savefmt.codec.memberwriter import MemberWriter

        checked = self._level(level)
        return MemberWriter(
            write,
            lambda length: self._compressor(checked, length),
            member_length=self.member_length,
            threads=min(threads, self.most_threads),
        )

    def read_member(self, source: Cursor, *, frugal: bool = False) -> Iterator[bytes]:
        """Decompress one member.

        Parameters
        ----------
        source : Cursor
            At its beginning; afterwards behind it.
        frugal : bool
            Refuse what takes more memory than ordinary members do.

        Yields
        ------
        bytes
            As `open_reader` does.
        """
        begin = source.tell()
        if not self.begins(source.peek(len(self.magic))):
            raise self._garbage(begin)
        self._skip_header(source)
        decompressor = self._decompressor(frugal=frugal)
        errors = self._errors()
        while not decompressor.eof:
            # No slice goes beyond a border, so that errors do not depend on the pieces.
            beyond = (source.tell() - begin) % SLICE_LENGTH
            fed = source.window()[: SLICE_LENGTH - beyond]
            if not fed:
                raise TruncatedError(
                    f"the file ends inside a {self.noun}, at compressed offset "
                    f"{source.tell():#x}; it was cut short, so get a complete copy",
                    offset=source.tell(),
                )
            # Consumed only once it is used up: the member may end within the slice.
            unfed: Bytes = fed
            while True:
                try:
                    piece = decompressor.decompress(unfed, PIECE_LENGTH)
                except errors as error:
                    raise self._failure(str(error), source.tell() - beyond) from error
                if piece:
                    yield piece
                if decompressor.eof or decompressor.needs_input:
                    break
                unfed = b""
            unused = len(decompressor.unused_data) if decompressor.eof else 0
            source.advance(len(fed) - unused)

    def _garbage(self, offset: int) -> CorruptError:
        return CorruptError(
            f"no {self.noun} begins at compressed offset {offset:#x}, "
            "where the file must end or another one follow",
            offset=offset,
        )

    def _failure(self, reason: str, offset: int) -> SavefmtError:
        return CorruptError(
            f"damaged {self.noun} near compressed offset {offset:#x}: {reason}", offset=offset
        )

    def _allows_padding(self, zeros: int, *, last: bool) -> bool:
        """Tell whether so many zero bytes may follow a member, `last` at the end."""
        return zeros == 0

    def _skip_header(self, source: Cursor) -> None:
        """Consume what the decompressor does not want to see."""

    @abstractmethod
    def _decompressor(self, *, frugal: bool = False) -> Decompressor: ...

    @abstractmethod
    def _errors(self) -> tuple[type[Exception], ...]:
        """What the decompressor raises."""

    @abstractmethod
    def _compressor(self, level: int, length: int) -> Compressor: ...


def _skip_zeros(source: Cursor) -> int:
    start = source.tell()
    while window := source.window():
        if window[0]:
            break
        zeros = len(window) - len(bytes(window).lstrip(b"\0"))
        source.advance(zeros)
    return source.tell() - start
