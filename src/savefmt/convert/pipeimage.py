"""An image that comes through a pipe: it can be read once, forwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from savefmt.codec.registry import codec_for_format, detect, find_codec
from savefmt.errors import ImageIOError, IncompleteImageError, NotASaveImageError
from savefmt.format.cursor import ChunkCursor
from savefmt.format.envelope import Envelope, is_envelope
from savefmt.format.stream import QEVM_MAGIC
from savefmt.model import IOOptions, Layout
from savefmt.pipes import read_some
from savefmt.reading.prefetch import Pipe, close_pieces, prefetch

_PIECE_LENGTH = 1 << 20
_MAGIC_LENGTH = 16
_LAST_CODEC_FORMAT = 5


class PipeImage:
    """A sequential image on a descriptor, open for one pass.

    Parameters
    ----------
    fd : int
        Stays the caller's.
    name : str
        For error messages.
    """

    layout = Layout.SEQUENTIAL

    def __init__(self, fd: int, name: str) -> None:
        self.filename = name
        self.received = 0
        self._fd = fd
        self._cursor = ChunkCursor(self._pieces(), 0)
        self.envelope = self._read_envelope()
        self.stream_offset = self._cursor.tell()
        self.codec = self._find_codec()

    def _pieces(self) -> Iterator[bytes | memoryview]:
        while True:
            try:
                data = read_some(self._fd, _PIECE_LENGTH)
            except OSError as error:
                raise ImageIOError.from_os(
                    error, path=self.filename, offset=self.received
                ) from error
            if not data:
                return
            self.received += len(data)
            yield data

    def _read_envelope(self) -> Envelope | None:
        head = self._cursor.peek(_MAGIC_LENGTH)
        if not head:
            raise NotASaveImageError("nothing came through the pipe", path=self.filename)
        if not is_envelope(head):
            return None
        envelope = Envelope.read(self._cursor)
        if not envelope.finished:
            raise IncompleteImageError(
                'the save never finished (libvirt\'s "Part" magic); save the guest again',
                path=self.filename,
                offset=0,
            )
        return envelope

    def _find_codec(self) -> str:
        number = self.envelope.stream_format if self.envelope is not None else 0
        if 0 < number <= _LAST_CODEC_FORMAT:
            return codec_for_format(number).name
        head = self._cursor.peek(_MAGIC_LENGTH)
        found = None if head.startswith(QEVM_MAGIC) or self.envelope else detect(head)
        return found or "raw"

    def _rest(self) -> Iterator[bytes | memoryview]:
        while len(window := self._cursor.window()):
            yield window
            self._cursor.advance(len(window))

    @contextmanager
    def stream(self, io: IOOptions, plain: Pipe | None = None) -> Iterator[ChunkCursor]:
        """A cursor over the decompressed stream from its magic on.

        Parameters
        ----------
        io : IOOptions
            How many threads decompress.
        plain : callable, optional
            Wrapped around the decompressed bytes.

        Yields
        ------
        ChunkCursor
            Only once.
        """
        pieces = self._rest()
        if self.codec != "raw":
            decoded = find_codec(self.codec).open_reader(
                pieces, offset=self.stream_offset, threads=io.worker_count
            )
            pieces = prefetch(decoded, patient=False)
        if plain is not None:
            pieces = plain(pieces)
        try:
            yield ChunkCursor(pieces, self.stream_offset)
        finally:
            close_pieces(pieces)
