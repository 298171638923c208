"""Codecs whose data are members, one after another, each complete in itself."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, ClassVar

from savefmt.codec.base import (
    PIECE_LENGTH,
    SLICE_LENGTH,
    Bytes,
    Codec,
    Compressor,
    Decompressor,
    Writer,
    memory_limit,
    read_in_turn,
)
from savefmt.errors import CorruptError, SavefmtError, TruncatedError
from savefmt.format.cursor import ChunkCursor, Cursor

if TYPE_CHECKING:
    from savefmt.codec.boundaries import Lookahead


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
    frugal : int
        Bytes of memory that decoding takes at most where members are read in parallel.
    """

    noun: ClassVar[str]
    member_length: ClassVar[int]
    most_threads: ClassVar[int] = 8
    most_readers: ClassVar[int] = 4
    frugal: ClassVar[int] = 0

    def open_reader(
        self,
        pieces: Iterator[Bytes],
        *,
        offset: int,
        threads: int = 1,
        length: int | None = None,
    ) -> Iterator[Bytes]:
        """Decompress a stream, lazily; see `Codec.open_reader`."""
        memory = memory_limit(length)
        if threads == 1:
            return self.read_members(ChunkCursor(pieces, offset), memory)
        from savefmt.codec.reader import MemberReader

        most = min(threads, self.most_readers)
        reader = MemberReader(self, pieces, offset=offset, threads=most, memory=memory)
        return reader.read()

    def read_members(
        self, source: Cursor, memory: int, behind: int | None = None
    ) -> Iterator[Bytes]:
        """Decompress all members from the cursor on; see `read_in_turn`."""
        return read_in_turn(source, lambda: self.read_member(source, memory), behind=behind)

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
        from savefmt.codec.writer import MemberWriter

        checked = self._level(level)
        return MemberWriter(
            write,
            lambda length: self._compressor(checked, length),
            errors=self._errors(),
            member_length=self.member_length,
            threads=min(threads, self.most_threads),
        )

    def read_member(self, source: Cursor, memory: int) -> Iterator[bytes]:
        """Decompress one member.

        Parameters
        ----------
        source : Cursor
            At its beginning; afterwards behind it.
        memory : int
            Bytes that decoding may take.

        Yields
        ------
        bytes
            As `open_reader` does.
        """
        begin = source.tell()
        if not self.begins(source.peek(len(self.magic))):
            raise self._garbage(begin)
        self._skip_header(source)
        decompressor = self._decompressor(memory)
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
                    raise self._failure(str(error), source.tell() - beyond, memory) from error
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
            "where the file must end or another one must follow",
            offset=offset,
        )

    def _failure(self, reason: str, offset: int, memory: int) -> SavefmtError:
        return CorruptError(
            f"damaged {self.noun} near compressed offset {offset:#x}: {reason}", offset=offset
        )

    def _skip_header(self, source: Cursor) -> None:
        """Consume what the decompressor does not want to see."""

    @abstractmethod
    def _decompressor(self, memory: int) -> Decompressor: ...

    @abstractmethod
    def _errors(self) -> tuple[type[Exception], ...]:
        """What the library raises."""

    @abstractmethod
    def _compressor(self, level: int, length: int) -> Compressor: ...
