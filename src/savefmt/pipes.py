"""Descriptors that may not be ready: another program may have made them non-blocking.

O_NONBLOCK belongs to the open file and not to a process.  Any program that has the same
terminal or pipe sets it for all of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable

STANDARD_INPUT = "standard input"
STANDARD_OUTPUT = "standard output"
_STANDARD_OUTPUT_FD = 1
_witnesses: list[Callable[[memoryview], object]] = []


class ClosedOutputError(BrokenPipeError):
    """Nobody reads standard output any more."""


def wait_readable(fd: int, seconds: float | None = None) -> bool:
    """Wait until a read would return at once.

    Parameters
    ----------
    fd : int
        The descriptor.
    seconds : float, optional
        No longer than this.

    Returns
    -------
    bool
        False if the time is over.
    """
    return _wait(fd, "POLLIN", seconds)


def wait_writable(fd: int, seconds: float | None = None) -> bool:
    """Wait until a write would take something at once, or fail; otherwise as `wait_readable`."""
    return _wait(fd, "POLLOUT", seconds)


def _wait(fd: int, event: str, seconds: float | None) -> bool:
    import select  # late: `savefmt info` hardly ever waits

    # Unlike select(), poll() takes descriptors above 1023.
    poll = select.poll()
    poll.register(fd, getattr(select, event))
    return bool(poll.poll(None if seconds is None else seconds * 1000))


def read_some(fd: int, length: int) -> bytes:
    """Read what is there, as soon as anything is; nothing means the end."""
    while True:
        try:
            return os.read(fd, length)
        except BlockingIOError:
            wait_readable(fd)


def write_some(
    fd: int,
    data: bytes | memoryview,
    name: str,
    await_room: Callable[[int], object] = wait_writable,
) -> int:
    """Write as much as the descriptor takes at a time.

    Parameters
    ----------
    fd : int
        The descriptor.
    data : bytes or memoryview
        What to write.
    name : str
        The name of what is behind the descriptor, for errors.
    await_room : callable
        Returns when another try makes sense.

    Returns
    -------
    int
        How many bytes were taken, one at least.

    Raises
    ------
    ClosedOutputError
        If the reader of standard output has gone.
    OSError
        Whatever else the operating system says, with the name in it.
    """
    while True:
        try:
            count = os.write(fd, data)
        except BlockingIOError:
            await_room(fd)
        except OSError as error:
            if isinstance(error, BrokenPipeError) and fd == _STANDARD_OUTPUT_FD:
                raise ClosedOutputError(error.errno, error.strerror, name) from error
            error.filename = name
            raise
        else:
            if _witnesses and fd == _STANDARD_OUTPUT_FD:
                _witnesses[-1](memoryview(data)[:count])
            return count


def witness_output(witness: Callable[[memoryview], object]) -> None:
    """Let `witness` see, from now on, all that standard output takes."""
    _witnesses[:] = [witness]
