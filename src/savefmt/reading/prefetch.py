"""Run an iterator ahead in a thread: decompression in parallel with scanning and writing."""

from __future__ import annotations

from collections.abc import Callable, Iterator

Pipe = Callable[[Iterator[bytes | memoryview]], Iterator[bytes | memoryview]]
"""What is wrapped around pieces on their way, to watch or copy them."""

_DEPTH = 4
_POLL_SECONDS = 0.1


class _End:
    """What ends the queue: the error that ended the iterator, if any."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def close_pieces(pieces: Iterator[bytes | memoryview]) -> None:
    """End an iterator early, if it is one that holds threads or files."""
    close = getattr(pieces, "close", None)
    if close is not None:
        close()


def prefetch(pieces: Iterator[bytes | memoryview], *, patient: bool = True) -> Iterator[bytes]:
    """Yield the same pieces, fetched up to four ahead.

    Closing the generator stops the thread and closes `pieces`.

    Parameters
    ----------
    pieces : iterator of bytes or memoryview
        Each need be valid only until the next is asked for.
    patient : bool
        When closed early, wait until the thread has ended.  Without that a thread that
        hangs in a read from a silent pipe is left behind.

    Yields
    ------
    bytes
        The pieces, for keeps.
    """
    import threading
    from queue import Empty, SimpleQueue

    # Two plain queues, one each way: a `Queue` with a bound is Python all through, which
    # holds the interpreter up just when the decoder wants it back.
    ahead: SimpleQueue[bytes | _End] = SimpleQueue()
    room: SimpleQueue[None] = SimpleQueue()  # an item for each piece that may come
    stop = threading.Event()
    for _ in range(_DEPTH):
        room.put(None)

    def run() -> None:
        error = None
        try:
            room.get()
            for piece in () if stop.is_set() else pieces:
                # `bytes` stay valid and need no copy, and a piece may be a codec's `Border`.
                ahead.put(piece if isinstance(piece, bytes) else bytes(piece))
                room.get()
                if stop.is_set():
                    break
        except BaseException as caught:
            error = caught
        finally:
            close_pieces(pieces)
        ahead.put(_End(error))

    thread = threading.Thread(target=run, name="savefmt-prefetch", daemon=True)
    try:
        thread.start()
        while True:
            # Waits in short steps, so that signals are served in between.
            try:
                item = ahead.get(timeout=_POLL_SECONDS)
            except Empty:
                continue
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            room.put(None)
            yield item
    finally:
        stop.set()
        room.put(None)
        if thread.ident is not None:  # else a signal came before it began
            thread.join(None if patient else _POLL_SECONDS)
