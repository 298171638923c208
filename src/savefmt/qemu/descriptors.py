"""Files that QEMU uses: descriptors passed over its socket, and taken back."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from savefmt.errors import ImageIOError
from savefmt.model import StrPath
from savefmt.qemu.pump import Pump
from savefmt.qmp import CommandError, Monitor

_PIPE_NAME = "savefmt"


@contextmanager
def file_in_set(
    monitor: Monitor, path: StrPath, offset: int, access: int, kinds: Sequence[str]
) -> Iterator[str]:
    """Give QEMU a file as a set of descriptors (format.md 10.3).

    QEMU picks the member whose access mode and O_DIRECT flag are what it needs, so each
    kind is one more descriptor.

    Parameters
    ----------
    monitor : Monitor
        Over a UNIX socket.
    path : str or os.PathLike
        The file, which is ours to open; QEMU needs no right to it.
    offset : int
        Where the stream begins.
    access : int
        ``os.O_RDONLY`` or ``os.O_WRONLY``.
    kinds : sequence of str
        ``plain``, ``direct``.

    Yields
    ------
    str
        The URI for ``migrate`` or ``migrate-incoming``.

    Raises
    ------
    ImageIOError
        If the file cannot be opened so.
    MonitorError
        If QEMU takes no descriptors.
    """
    number: int | None = None
    try:
        for kind in kinds:
            with opened(path, access | (os.O_DIRECT if kind == "direct" else 0)) as fd:
                number = monitor.add_fd(fd, number)
        yield f"file:/dev/fdset/{number},offset={offset:#x}"
    finally:
        if number is not None and not monitor.lost:
            with contextlib.suppress(CommandError):  # QEMU may have dropped it by itself
                monitor.execute("remove-fd", fdset_id=number)


@contextmanager
def opened(path: StrPath, flags: int) -> Iterator[int]:
    """Open a file for the time of a ``with`` block."""
    try:
        fd = os.open(path, flags | os.O_CLOEXEC)
    except OSError as error:
        raise ImageIOError.from_os(error, path=path) from error
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def pipe_end(monitor: Monitor, pump: Pump) -> Iterator[str]:
    """Give QEMU its end of a pipe; our own copy is closed.

    Parameters
    ----------
    monitor : Monitor
        Over a UNIX socket.
    pump : Pump
        Whose far end is QEMU's.

    Yields
    ------
    str
        The URI; descriptors that QEMU has not used by the end are taken back.
    """
    monitor.send_fd(pump.far_end)
    monitor.execute("getfd", fdname=_PIPE_NAME)
    pump.release()
    try:
        yield f"fd:{_PIPE_NAME}"
    finally:
        if not monitor.lost:
            with contextlib.suppress(CommandError):  # a migration has taken it for good
                monitor.execute("closefd", fdname=_PIPE_NAME)
