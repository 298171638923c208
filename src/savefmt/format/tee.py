"""Cursors that pass on what is read through them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from savefmt.errors import TruncatedError, UnsupportedError
from savefmt.format.cursor import Cursor, cut_short

MAX_KEPT = 1 << 30


class Tee(Cursor):
    """Reads through another cursor and tells somebody what was consumed.

    Parameters
    ----------
    cursor : Cursor
        The other one.
    take : callable
        Gets the bytes in order, each piece valid only during the call.
    """

    def __init__(self, cursor: Cursor, take: Callable[[bytes | memoryview], object]) -> None:
        super().__init__(cursor.tell())
        self._cursor = cursor
        self._take = take

    def _pull(self) -> memoryview:
        raise AssertionError("every method below goes to the other cursor")

    def tell(self) -> int:
        """Return the offset of the next byte."""
        return self._cursor.tell()

    def window(self) -> memoryview:
        """Return the unread bytes of the window."""
        return self._cursor.window()

    def advance(self, count: int) -> None:
        """Consume the first bytes of the window."""
        self._take(self._cursor.window()[:count])
        self._cursor.advance(count)

    def peek(self, count: int) -> bytes:
        """Return the next bytes without consuming them."""
        return self._cursor.peek(count)

    def read(self, count: int, what: str = "") -> bytes:
        """Consume exactly `count` bytes."""
        data = self._cursor.read(count, what)
        self._take(data)
        return data

    def skip(self, count: int, what: str = "") -> None:
        """Consume exactly `count` bytes."""
        left = count
        while left:
            window = self.window()
            if not window:
                raise TruncatedError(cut_short(what, count, count - left), offset=self.tell())
            taken = min(len(window), left)
            self.advance(taken)
            left -= taken

    def ahead(self) -> AbstractContextManager[Cursor]:
        """A second cursor that starts here; nobody is told what it consumes."""
        return self._cursor.ahead()


class Recorder(Tee):
    """Reads through another cursor and keeps what was consumed in `kept`.

    Parameters
    ----------
    cursor : Cursor
        The other one.
    most : int
        Bytes to keep at most.
    """

    def __init__(self, cursor: Cursor, most: int = MAX_KEPT) -> None:
        super().__init__(cursor, self._keep)
        self.kept = bytearray()
        self._most = most

    def _keep(self, piece: bytes | memoryview) -> None:
        if len(self.kept) + len(piece) > self._most:
            raise UnsupportedError(
                f"an item is longer than {self._most >> 20} MiB", offset=self.tell()
            )
        self.kept += piece
