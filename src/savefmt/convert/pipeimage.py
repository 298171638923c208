"""An image that comes through a pipe: it can be read once, forwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from savefmt.errors import ImageIOError, NotASaveImageError, located
from savefmt.model import IOOptions, Layout
from savefmt.pipes import read_some
from savefmt.reading.container import read_form
from savefmt.reading.plainstream import Packing, PlainCursor, plain_stream

_PIECE_LENGTH = 1 << 20


class PipeImage:
    """A sequential image on a descriptor, open for one pass.

    Parameters
    ----------
    fd : int
        The caller closes it.
    name : str
        For error messages.
    """

    layout = Layout.SEQUENTIAL

    def __init__(self, fd: int, name: str) -> None:
        self.filename = name
        self.received = 0
        self._fd = fd
        self._cursor = PlainCursor(self._pieces(), 0)
        with located(name):
            if not self._cursor.peek(1):
                raise NotASaveImageError("nothing came through the pipe")
            form = read_form(self._cursor, self._unpack, name=name)
        self.envelope = form.envelope
        self.codec = form.packing.codec
        self.stream_offset = form.stream_offset

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

    def _unpack(self, codec: str) -> PlainCursor:
        """Go on with the plain bytes of a file that was compressed as a whole."""
        from savefmt.codec.registry import find_codec

        reader = find_codec(codec).open_reader(self._cursor.rest(), offset=0)
        self._cursor = PlainCursor(reader, 0)
        return self._cursor

    @contextmanager
    def stream(self, io: IOOptions) -> Iterator[PlainCursor]:
        """A cursor over the decompressed stream from its magic on.

        Parameters
        ----------
        io : IOOptions
            How many threads decompress.

        Yields
        ------
        PlainCursor
            Only once.
        """
        with plain_stream(
            self._cursor.rest(),
            Packing(self.codec),
            offset=self.stream_offset,
            threads=io.worker_count,
            patient=False,
        ) as cursor:
            yield cursor
