"""A thread between QEMU's pipe and an image; another thread talks to QEMU.

This must be a separate thread: at the end of a save, QEMU does not answer before the pipe has
taken the rest.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from savefmt.pipes import wait_readable, wait_writable

PIPE_LENGTH = 1 << 20
"""Bytes that the pipe should hold; the kernel may grant less."""

_POLL_SECONDS = 0.1


class Outlet(Protocol):
    """What takes the stream."""

    def write(self, data: bytes | memoryview) -> None:
        """Take all of `data`."""

    def close(self) -> None:
        """Finish."""

    def abort(self) -> None:
        """Give up without finishing; harmless when repeated or after `close`."""


class Pump:
    """Bytes on their way.

    Attributes
    ----------
    far_end : int
        The descriptor for QEMU, ours until `release`.
    moved : int
        How many so far.
    error : BaseException or None
        What stopped it early.
    """

    def __init__(
        self, far_end: int, work: Callable[[Pump], None], stopped: threading.Event
    ) -> None:
        self.far_end = far_end
        self.moved = 0
        self.error: BaseException | None = None
        self._stopped = stopped
        self._work = work
        self._thread = threading.Thread(target=self._run, name="pump", daemon=True)

    def _run(self) -> None:
        try:
            self._work(self)
        except BaseException as error:
            self.error = error

    @property
    def stopped(self) -> bool:
        """Whether it should end early."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """Let it end early, which breaks the pipe; it may take a moment."""
        self._stopped.set()

    def release(self) -> None:
        """Close our copy of QEMU's end; harmless when repeated."""
        if self.far_end >= 0:
            os.close(self.far_end)
            self.far_end = -1

    def check(self) -> None:
        """Raise what stopped it, if anything did."""
        if self.error is not None:
            raise self.error

    def finish(self) -> None:
        """Wait until all is moved, and raise what went wrong."""
        while self._thread.is_alive():
            self._thread.join(_POLL_SECONDS)
        self.check()

    @contextmanager
    def running(self) -> Iterator[Pump]:
        """Run for the time of a ``with`` block."""
        try:
            self._thread.start()
            yield self
        finally:
            self.stop()
            self.release()
            with suppress(RuntimeError):  # a signal came before it had begun
                self._thread.join()


@contextmanager
def from_qemu(sink: Outlet, stopped: threading.Event) -> Iterator[Pump]:
    """Move what QEMU writes into a sink, and close the sink at the end.

    Parameters
    ----------
    sink : Outlet
        Belongs to the thread from now on.
    stopped : threading.Event
        Set when the thread shall end early.  A sink whose writes may hang must watch it.

    Yields
    ------
    Pump
        At work.
    """
    reader, writer = _new_pipe()
    pump = Pump(writer, lambda pump: _drain(reader, sink, pump), stopped)
    with pump.running():
        yield pump


def _drain(reader: int, sink: Outlet, pump: Pump) -> None:
    buffer = bytearray(PIPE_LENGTH)
    view = memoryview(buffer)
    try:
        while not pump.stopped:
            if not wait_readable(reader, _POLL_SECONDS):
                continue
            count = os.readv(reader, [buffer])
            if count == 0:
                if not pump.stopped:
                    sink.close()
                return
            sink.write(view[:count])
            pump.moved += count
    finally:
        os.close(reader)  # or QEMU would wait for us, and answer nobody
        sink.abort()


@contextmanager
def to_qemu(pieces: Iterator[bytes | memoryview]) -> Iterator[Pump]:
    """Move pieces into a pipe that QEMU reads.

    Parameters
    ----------
    pieces : iterator of bytes or memoryview
        Used by the thread alone until the ``with`` block ends.

    Yields
    ------
    Pump
        At work.
    """
    reader, writer = _new_pipe()
    os.set_blocking(writer, False)
    pump = Pump(reader, lambda pump: _fill(writer, pieces, pump), threading.Event())
    with pump.running():
        yield pump


def _fill(writer: int, pieces: Iterator[bytes | memoryview], pump: Pump) -> None:
    try:
        for piece in pieces:
            view = memoryview(piece)
            while len(view) and not pump.stopped:
                if wait_writable(writer, _POLL_SECONDS):
                    count = os.write(writer, view)
                    pump.moved += count
                    view = view[count:]
            if pump.stopped:
                return
    except BrokenPipeError:
        pass  # QEMU has read all it needs, or it reports the reason itself
    finally:
        os.close(writer)


def _new_pipe() -> tuple[int, int]:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    with contextlib.suppress(OSError):  # the user may have used up what the kernel grants
        fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, PIPE_LENGTH)
    return reader, writer
