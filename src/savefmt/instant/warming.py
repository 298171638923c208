"""Read into the page cache what a guest will touch first, and record what it touched."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from savefmt.errors import ConversionError, ImageIOError
from savefmt.instant.backends import MappedBlock
from savefmt.model import StrPath
from savefmt.native.file import File
from savefmt.writing.output import OutputFile

STEP_SECONDS = 0.05
_FIRST_LINE = b"savefmt touched 1\n"
_MOST_BYTES = 256 << 20
_AHEAD_LENGTH = 2 << 20
_RUN = re.compile(rb"\x01+")

Range = tuple[int, int]
"""Offset in the image, and length."""


def stored_ranges(file: File, blocks: Iterable[MappedBlock]) -> Iterator[Range]:
    """Yield what the file stores of blocks, in order."""
    for block in blocks:
        yield from file.extents(block.offset, block.offset + block.length)


@contextmanager
def warmed(path: StrPath, ranges: Iterable[Range]) -> Iterator[Callable[[], int]]:
    """Read ranges into the page cache, in their order, in a thread.

    Parameters
    ----------
    path : str or os.PathLike
        The image.
    ranges : iterable of (int, int)
        Used by the thread alone until the ``with`` block ends.

    Yields
    ------
    callable
        Waits for the end and returns the bytes; leaving the block without stops early.
    """
    stopped = threading.Event()
    done = 0

    def work() -> None:
        nonlocal done
        # What cannot be read ahead is read when the guest wants it.
        with contextlib.suppress(OSError), open(path, "rb", buffering=0) as file:
            for start, length in ranges:
                for at in range(start, start + length, _AHEAD_LENGTH):
                    if stopped.is_set():
                        return
                    count = min(_AHEAD_LENGTH, start + length - at)
                    os.posix_fadvise(file.fileno(), at, count, os.POSIX_FADV_WILLNEED)
                    os.pread(file.fileno(), 1, at + count - 1)  # wait: the next must not overtake
                    done += count

    def finish() -> int:
        while thread.is_alive():
            thread.join(STEP_SECONDS)
        return done

    thread = threading.Thread(target=work, name="warm", daemon=True)
    thread.start()
    try:
        yield finish
    finally:
        stopped.set()
        thread.join()


def forget(path: StrPath) -> None:
    """Drop an image from the page cache, so that what comes back was touched."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def watch_touched(
    path: StrPath, blocks: Sequence[MappedBlock], seconds: float, tick: Callable[[float], None]
) -> list[Range]:
    """Watch which pages of blocks come into the page cache, in the order of their coming.

    Parameters
    ----------
    path : str or os.PathLike
        The image; best forgotten before.
    blocks : sequence of MappedBlock
        Those that the guest has mapped.
    seconds : float
        How long.
    tick : callable
        Told of the seconds so far; may raise to end it.

    Returns
    -------
    list of (int, int)
        Whole pages of the host.
    """
    found: list[Range] = []
    seen = [0] * len(blocks)
    began = time.monotonic()
    with _residency(path) as resident:
        while True:
            for i, block in enumerate(blocks):
                now = int.from_bytes(resident(block.offset, block.length), "little")
                count = -(-block.length // mmap.PAGESIZE)
                fresh = (now & ~seen[i]).to_bytes(count, "little")
                seen[i] |= now
                found += (
                    (block.offset + m.start() * mmap.PAGESIZE, len(m[0]) * mmap.PAGESIZE)
                    for m in _RUN.finditer(fresh)
                )
            elapsed = time.monotonic() - began
            if elapsed >= seconds:
                return found
            tick(elapsed)
            time.sleep(STEP_SECONDS)


@contextmanager
def _residency(path: StrPath) -> Iterator[Callable[[int, int], bytes]]:
    """Give a function that tells, with a byte a page, what of a file is in the page cache."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        length = os.fstat(fd).st_size
        address = libc.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    finally:
        os.close(fd)
    if address in (None, ctypes.c_void_p(-1).value):
        raise ImageIOError.from_os(OSError(ctypes.get_errno(), "cannot map"), path=path)

    def resident(offset: int, count: int) -> bytes:
        states = ctypes.create_string_buffer(-(-count // mmap.PAGESIZE))
        if libc.mincore(address + offset, count, states):
            raise ImageIOError.from_os(OSError(ctypes.get_errno(), "mincore failed"), path=path)
        return bytes(states).translate(_LOW_BIT)

    try:
        yield resident
    finally:
        libc.munmap(address, length)


_LOW_BIT = bytes(byte & 1 for byte in range(256))


def require_order(path: StrPath) -> None:
    """Refuse to replace a file that `write_order` did not write.

    Raises
    ------
    ConversionError
        If it holds something else.
    ImageIOError
        If it cannot be read.
    """
    if not os.path.isfile(path):
        return
    try:
        with open(path, "rb") as file:
            head = file.read(len(_FIRST_LINE))
    except OSError as error:
        raise ImageIOError.from_os(error, path=path) from error
    if head != _FIRST_LINE:
        raise ConversionError(
            "this file holds something else and is left alone; name another one", path=path
        )


def write_order(path: StrPath, ranges: Iterable[Range]) -> None:
    """Keep ranges in a file, replacing an older one of this kind."""
    require_order(path)
    text = b"".join(b"%d %d\n" % pair for pair in ranges)
    with OutputFile(path, overwrite=True, direct=False) as output:
        output.file.write(_FIRST_LINE + text, 0)
        output.commit(warn=True)


def read_order(path: StrPath, blocks: Sequence[MappedBlock]) -> list[Range]:
    """Read what `write_order` wrote; places outside of all blocks are left out.

    Raises
    ------
    ConversionError
        If the file is another.
    ImageIOError
        If it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_MOST_BYTES)
    except OSError as error:
        raise ImageIOError.from_os(error, path=path) from error
    if not data.startswith(_FIRST_LINE) or not re.fullmatch(
        rb"(?:[0-9]{1,18} [0-9]{1,18}\n)*", data[len(_FIRST_LINE) :]
    ):
        raise ConversionError(
            "this file was not written by savefmt restore --record", path=Path(path)
        )
    pairs = (line.split() for line in data[len(_FIRST_LINE) :].splitlines())
    found = [(int(offset), int(length)) for offset, length in pairs]
    return [
        (offset, length)
        for offset, length in found
        if any(b.offset <= offset and offset + length <= b.offset + b.length for b in blocks)
    ]
