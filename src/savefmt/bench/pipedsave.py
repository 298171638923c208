"""A sequential save as libvirt makes it: QEMU into a pipe, one helper out of it."""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, suppress

from savefmt.native.core import WAIT_MS
from savefmt.native.file import File

PIECE = 1 << 20
"""What libvirt's iohelper reads and writes at a time."""


def write_streams(files: Sequence[File], length: int, on_bytes: Callable[[int], None]) -> None:
    """Write `length` bytes that come through a pipe to each file at the same time, then sync.

    Parameters
    ----------
    files : sequence of File
        Where to, direct or not as they were opened.
    length : int
        A multiple of `PIECE`.
    on_bytes : callable
        Told of the bytes done, of all; what it raises ends the work.
    """
    done = [0] * len(files)
    stop = threading.Event()
    errors: list[BaseException] = []

    def save(number: int) -> None:
        try:
            with closing(_stream(files[number], length)) as ends:
                for end in ends:
                    done[number] = end
                    if stop.is_set():
                        return
            files[number].sync()
        except BaseException as error:  # raised again where the work was asked for
            errors.append(error)
            stop.set()

    threads = [threading.Thread(target=save, args=(i,)) for i in range(len(files))]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(WAIT_MS / 1000)
                on_bytes(sum(done))
    finally:
        stop.set()
        for thread in threads:
            if thread.ident is not None:
                thread.join()
    if errors:
        raise errors[0]


def _stream(file: File, length: int) -> Generator[int, None, None]:
    """Feed one file through a pipe and yield how much of it is written."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    with suppress(OSError):  # more than a user may have
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIECE)
    feeder = threading.Thread(target=_feed, args=(writer, length))
    feeder.start()
    try:
        yield from _drain(reader, file, length)
    finally:
        os.close(reader)  # a feeder still writing gets EPIPE
        feeder.join()


def _feed(writer: int, length: int) -> None:
    """Be QEMU."""
    with mmap.mmap(-1, PIECE) as noise:
        noise[:] = os.urandom(PIECE)
        view = memoryview(noise)
        try:
            while length:
                length -= os.write(writer, view[: min(length, PIECE)])
        except BrokenPipeError:
            pass
        finally:
            view.release()
            os.close(writer)


def _drain(reader: int, file: File, length: int) -> Iterator[int]:
    """Do the work of libvirt's helper: fill a page-aligned piece, write it, begin again."""
    with mmap.mmap(-1, PIECE) as piece, memoryview(piece) as view:
        for at in range(0, length, PIECE):
            filled = 0
            while filled < PIECE:
                filled += os.readv(reader, [view[filled:]])
            file.write(view, at)
            yield at + PIECE
