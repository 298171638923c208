"""The writer of members: compress them in parallel and pass them on in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from threading import Event
from typing import TYPE_CHECKING

from savefmt.codec.base import Bytes, Compressor
from savefmt.errors import SavefmtError

if TYPE_CHECKING:
    from concurrent.futures import Future

_SLICE_LENGTH = 256 << 10  # compressed between two looks at the stop sign


class MemberWriter:
    """A `savefmt.codec.base.Writer` for formats whose members may follow each other.

    The bytes are cut into members of equal length whatever the number of threads, so the output
    is always the same.  Memory is limited: one member is being filled, and at most `threads` +
    1 others wait or are being compressed.

    Parameters
    ----------
    write : callable
        Gets the compressed bytes.
    open_compressor : callable
        ``open_compressor(length)`` starts a member of so many plain bytes.  Its
        ``compress`` must release the interpreter lock for threads to be of use.
    errors : tuple of types
        What the compressor raises, for example when memory runs out.
    member_length : int
        Plain bytes in each member but the last.
    threads : int
        How many to compress at a time.
    """

    def __init__(
        self,
        write: Callable[[bytes], None],
        open_compressor: Callable[[int], Compressor],
        *,
        errors: tuple[type[Exception], ...],
        member_length: int,
        threads: int,
    ) -> None:
        from concurrent.futures import ThreadPoolExecutor  # which takes 7 ms to load

        if threads < 1:
            raise ValueError(f"threads must be at least 1, not {threads}")
        self._write = write
        self._open_compressor = open_compressor
        self._errors = errors
        self._member_length = member_length
        self._most_pending = threads + 1
        self._pool = ThreadPoolExecutor(threads, "savefmt-compress")
        self._stop = Event()
        self._closed = False
        self._buffer = bytearray(member_length)
        self._filled = 0
        self._spare: list[bytearray] = []
        self._pending: deque[tuple[Future[list[bytes]], bytearray]] = deque()
        self._members = 0

    def write(self, data: Bytes) -> None:
        """Take the next bytes; they may be overwritten as soon as this returns.

        Parameters
        ----------
        data : bytes or memoryview
            Any number of them.

        Raises
        ------
        ValueError
            If the writer is closed: a bug of the caller.
        """
        if self._closed:
            raise ValueError("write to a closed compressor")
        rest = memoryview(data).cast("B")
        while rest:
            taken = min(len(rest), self._member_length - self._filled)
            self._buffer[self._filled : self._filled + taken] = rest[:taken]
            self._filled += taken
            rest = rest[taken:]
            if self._filled == self._member_length:
                self._start_member()

    def close(self) -> None:
        """Pass on all that is left, then end the threads; a second call does nothing."""
        if self._closed:
            return
        # No bytes at all still make one empty member: the tools refuse an empty file.
        if self._filled or not self._members:
            self._start_member()
        while self._pending:
            self._finish_member()
        self._closed = True
        self._pool.shutdown()

    def abort(self) -> None:
        """End the threads without finishing; does nothing when closed or aborted."""
        self._closed = True
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)
        self._pending.clear()
        self._spare.clear()

    def _start_member(self) -> None:
        data, length = self._buffer, self._filled
        self._pending.append((self._pool.submit(self._compress, data, length), data))
        self._members += 1
        while len(self._pending) > self._most_pending or self._first_is_done():
            self._finish_member()
        self._buffer = self._spare.pop() if self._spare else bytearray(self._member_length)
        self._filled = 0

    def _first_is_done(self) -> bool:
        return bool(self._pending) and self._pending[0][0].done()

    def _finish_member(self) -> None:
        future, data = self._pending[0]
        parts = future.result()
        self._pending.popleft()
        self._spare.append(data)
        for part in parts:
            self._write(part)

    def _compress(self, data: bytearray, length: int) -> list[bytes]:
        """Run in a thread of the pool."""
        try:
            compressor = self._open_compressor(length)
            parts = []
            with memoryview(data) as view:
                for start in range(0, length, _SLICE_LENGTH):
                    if self._stop.is_set():
                        return []
                    end = min(start + _SLICE_LENGTH, length)
                    parts.append(compressor.compress(view[start:end]))
            parts.append(compressor.flush())
        except self._errors as error:
            raise SavefmtError(f"the compressor failed: {error}") from error
        return [part for part in parts if part]
