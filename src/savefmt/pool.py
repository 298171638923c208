"""Threads that take turns at calls: what of the standard library's pool is needed here.

That one loads logging, tracebacks and a tokenizer, which takes 7 ms, a tenth of a short run.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Generic, TypeVar

T = TypeVar("T")


class Task(Generic[T]):
    """A call that a pool makes.

    Parameters
    ----------
    call : callable
        Takes nothing.
    """

    def __init__(self, call: Callable[[], T]) -> None:
        self._call: Callable[[], T] | None = call
        self._value: T
        self._error: BaseException | None = None
        self._running = Lock()  # or waiting
        self._running.acquire()

    def run(self) -> None:
        """Make the call, unless it was cancelled."""
        call, self._call = self._call, None  # what it holds can go
        try:
            if call is not None:
                self._value = call()
        except BaseException as error:
            self._error = error
        finally:
            self._running.release()

    def done(self) -> bool:
        """Whether the call is over."""
        return not self._running.locked()

    def result(self) -> T:
        """Wait for what the call returns, or raise what it raised."""
        with self._running:
            pass
        if self._error is None:
            return self._value
        try:
            raise self._error
        finally:
            del self  # the error knows this frame, which must not know the error

    def cancel(self) -> None:
        """Let it do nothing, if it has not begun; nobody may ask for its result then."""
        self._call = None


class Pool:
    """Some threads, started when there is something to do.

    Parameters
    ----------
    threads : int
        How many at most.
    name : str
        Of the threads.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._most = threads
        self._name = name
        self._threads: list[Thread] = []
        self._waiting: SimpleQueue[Task[object] | None] = SimpleQueue()

    def submit(self, work: Callable[..., T], *given: object) -> Task[T]:
        """Call ``work(*given)`` in one of the threads, in the order of submission."""
        task = Task(partial(work, *given))
        if len(self._threads) < self._most:
            thread = Thread(target=_serve, args=(self._waiting,), name=self._name, daemon=True)
            thread.start()
            self._threads.append(thread)
        self._waiting.put(task)  # type: ignore[arg-type]  # its result is the caller's alone
        return task

    def shutdown(self, *, cancel: bool = False) -> None:
        """End the threads, when all is done or what has begun is; harmless when repeated."""
        with suppress(Empty):
            while cancel:
                task = self._waiting.get_nowait()  # or a thread takes it
                if task is not None:
                    task.cancel()
        self._waiting.put(None)
        for thread in self._threads:
            thread.join()


def _serve(waiting: SimpleQueue[Task[object] | None]) -> None:
    while (task := waiting.get()) is not None:
        task.run()
        del task  # with all that it holds, while this thread waits
    waiting.put(None)  # for the others
