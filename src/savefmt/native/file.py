"""Files of the C core: positioned reads and writes, read-ahead, write-behind."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from savefmt.errors import (
    ClosedImageError,
    FormatError,
    ImageChangedError,
    ImageIOError,
    UnsupportedError,
)
from savefmt.frozen import dataclass
from savefmt.model import IOOptions, Pace, StrPath
from savefmt.native.core import WAIT_MS, Owned, call, cell, ffi, keep, lib


@dataclass(frozen=True, slots=True)
class View:
    """A view of pieces of one or several files, with zeros between them.

    Attributes
    ----------
    length : int
        Of all of it.
    extents : sequence of (int, int, int) or (int, int, int, int)
        Offset in the view, length, offset in the file, and which file: 0, as without it, is the
        one that shows the view, 1 the first of `others`.  In order; no two neighbours touch
        both in the view and in the file.
    others : sequence of File
        They are closed together with the file that shows the view, and do not show views
        themselves.
    """

    length: int
    extents: Sequence[tuple[int, int, int] | tuple[int, int, int, int]]
    others: Sequence[File] = ()

    def through(self, below: View) -> View:
        """Return the same where the offsets "in the file" are those of another view.

        Raises
        ------
        ValueError
            If the other one shows more than one file.
        """
        if below.others:
            raise ValueError("a view of several files")
        starts = [at for at, *_ in below.extents]
        found: list[tuple[int, int, int, int]] = []
        for at, length, place, *other in self.extents:
            if other and other[0]:
                found.append((at, length, place, other[0]))
                continue
            number = max(bisect_right(starts, place) - 1, 0)
            for inner, count, offset, *_ in below.extents[number:]:
                first, last = max(inner, place), min(inner + count, place + length)
                if inner >= place + length:
                    break
                if first < last:
                    found.append((at + first - place, last - first, offset + first - inner, 0))
        return View(self.length, found, self.others)


@dataclass(frozen=True, slots=True)
class FileState:
    """What tells a file from another one, and from what it was before.

    Attributes
    ----------
    device, inode : int
        Which file it is.
    length : int
        In bytes.
    changed : int
        Time of the last write, in nanoseconds.
    """

    device: int
    inode: int
    length: int
    changed: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileState:
        """Make it from the operating system's status of a file."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class File:
    """One regular file or block device, with a direct descriptor if granted.

    Any thread may use it, and any may close it meanwhile: what is under way then ends well,
    and what comes later is ClosedImageError.

    Parameters
    ----------
    fd : int
        Stays the caller's; the C core works on a copy.
    path : str or os.PathLike
        For error messages.
    write : bool
        The descriptor may be written.
    direct : bool
        Ask for direct I/O.
    engine : str
        One of `savefmt.model.ENGINES`.
    view : View, optional
        What to show in the place of the file's own bytes; such a file is only read.

    Attributes
    ----------
    state : FileState
        What it was when it was opened.
    view : View or None
        As given.

    Raises
    ------
    UnsupportedError
        If io_uring is requested by name and the kernel does not let this process use it.
    """

    def __init__(
        self,
        fd: int,
        *,
        path: StrPath,
        write: bool = False,
        direct: bool = False,
        engine: str = "auto",
        view: View | None = None,
    ) -> None:
        flags = (lib.SF_OPEN_WRITE if write else 0) | (lib.SF_OPEN_DIRECT if direct else 0)
        if engine != "psync":
            flags |= lib.SF_OPEN_URING
        self.path = path
        self._owned = Owned("sf_file")
        call(lib.sf_file_adopt, fd, flags, self._owned.cell, path=path)
        self._handle = self._owned.content
        self._closed = False
        self.view = view
        self._others = view.others if view is not None else ()
        if view is not None:
            self._arrange(view)
        self.state = FileState.of(self.status)
        if engine not in ("auto", self.engine):
            self.close()
            raise UnsupportedError(
                "this kernel does not let savefmt use io_uring (see "
                "/proc/sys/kernel/io_uring_disabled); --engine=psync does the same work",
                path=path,
            )

    def _arrange(self, view: View) -> None:
        extents = ffi.new("struct sf_extent[]", view.extents)
        others = ffi.new("struct sf_file *[]", [file.handle for file in view.others])
        call(
            lib.sf_file_arrange,
            self._handle,
            others,
            len(others),
            extents,
            len(extents),
            view.length,
            path=self.path,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close both descriptors once nobody uses them any more; harmless when repeated."""
        self._closed = True
        lib.sf_file_close(self._handle)
        for other in self._others:
            other.close()

    @property
    def handle(self) -> Any:
        """The C core's file.

        Raises
        ------
        ClosedImageError
            After `close()`.
        """
        if self._closed:
            raise ClosedImageError("the file was closed", path=self.path)
        return self._handle

    @property
    def descriptor(self) -> int:
        """The buffered descriptor, for what the C core does not do; valid until `close()`."""
        return int(lib.sf_file_descriptor(self.handle))

    @property
    def length(self) -> int:
        """Length in bytes when it was opened."""
        return int(lib.sf_file_length(self.handle))

    @property
    def direct(self) -> bool:
        """Whether direct I/O was granted and is still in use."""
        return bool(lib.sf_file_direct_align(self.handle))

    @property
    def start(self) -> int | None:
        """Where in the real file the bytes begin; None where they lie in several places."""
        start = ffi.new("uint64_t *")
        return int(start[0]) if lib.sf_file_start(self.handle, start) else None

    @property
    def status(self) -> os.stat_result:
        """The operating system's status of the file at this moment.

        Raises
        ------
        ImageIOError
            If it tells nothing.
        """
        with cell("sf_hold") as hold:
            call(lib.sf_hold_start, self.handle, hold, path=self.path)
            try:
                return os.fstat(lib.sf_file_descriptor(self._handle))
            except OSError as error:
                raise ImageIOError.from_os(error, path=self.path) from error

    def require_unchanged(self) -> None:
        """Refuse what was read meanwhile, if the file is not what it was when it was opened.

        Every pass over an image ends with this.

        Raises
        ------
        ImageChangedError
            If it was written to.
        """
        if FileState.of(self.status) != self.state:
            raise ImageChangedError(
                "the image changed while it was read; wait until the save has finished",
                path=self.path,
            )
        for other in self._others:
            other.require_unchanged()

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Hold for one pass that the file stays what it was when it was opened."""
        try:
            yield
        except FormatError:
            self.require_unchanged()  # a file that changed explains the error
            raise
        if not self._closed:  # running transfers then end well
            self.require_unchanged()

    def map(self) -> memoryview:
        """Map all bytes into memory, read-only; the map outlives the file.

        Raises
        ------
        ImageIOError
            If the operating system refuses.
        ValueError
            If `start` is None.
        """
        owner = Owned("sf_map")
        call(lib.sf_map_new, self.handle, owner.cell, path=self.path)
        data = keep(lib.sf_map_data(owner.content), owner)
        return memoryview(ffi.buffer(data, self.length)).toreadonly()

    @property
    def engine(self) -> str:
        """What moves the bytes: ``psync`` or ``io_uring``."""
        return "io_uring" if lib.sf_file_has_uring(self.handle) else "psync"

    def measure(self, small_write: int) -> None:
        """Time every request from now on, before any other thread has the file.

        Parameters
        ----------
        small_write : int
            Direct writes from so many bytes on pass the page cache, which else gathers those
            below 64 KiB.
        """
        call(lib.sf_file_measure, self.handle, small_write, path=self.path)

    def take_latencies(self) -> list[tuple[int, int]]:
        """Return how long requests took since it was last asked, of a file that is measured.

        Returns
        -------
        list of (int, int)
            Nanoseconds, at most 3 % too many, and how many requests took that long; in order.
        """
        counts = ffi.new("uint64_t[]", lib.SF_LATENCY_BUCKETS)
        lib.sf_file_take_latencies(self.handle, counts)
        return [(lib.sf_latency_most(i), count) for i, count in enumerate(counts) if count]

    def read(self, length: int, offset: int) -> bytes:
        """Read exactly `length` bytes; TruncatedError where the file ends sooner."""
        return bytes(self.read_array(length, offset))

    def read_array(self, length: int, offset: int) -> bytearray:
        """Read as `read` does, to be changed in place."""
        data = bytearray(length)
        with ffi.from_buffer(data) as view:
            call(lib.sf_file_read, self.handle, view, length, offset, path=self.path)
        return data

    def write(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        """Write all of `data` at `offset`."""
        with ffi.from_buffer(data) as view:
            call(lib.sf_file_write, self.handle, view, len(data), offset, path=self.path)

    def sync(self) -> None:
        """Return when the content is on the disk."""
        call(lib.sf_file_sync, self.handle, path=self.path)

    def extents(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield (offset, length) of what is not a hole between `start` and `end`."""
        found, length = ffi.new("uint64_t *"), ffi.new("uint64_t *")
        while start < end:
            call(lib.sf_file_next_extent, self.handle, start, found, length, path=self.path)
            if not length[0] or found[0] >= end:
                return
            yield found[0], min(length[0], end - found[0])
            start = found[0] + length[0]

    def chunks(self, start: int, end: int, io: Pace) -> Iterator[memoryview]:
        """Read ahead in parallel and yield the bytes in order.

        Each piece is valid until the next is asked for.  Closing the iterator stops the
        threads.
        """
        with cell("sf_ring") as ring:
            call(
                lib.sf_read_start,
                self.handle,
                start,
                end,
                io.window,
                io.worker_count,
                ring,
                path=self.path,
            )
            yield from windows(ring[0], self.path)


def windows(ring: Any, path: StrPath) -> Iterator[memoryview]:
    """Yield a ring's windows in order."""
    data, length = ffi.new("uint8_t **"), ffi.new("size_t *")
    while True:
        if not call(lib.sf_ring_next, ring, WAIT_MS, data, length, path=path):
            continue
        if not length[0]:
            return
        yield memoryview(ffi.buffer(data[0], length[0]))


class WriteBehind:
    """What writes to a file behind the caller's back, by threads of the C core.

    Parameters
    ----------
    owned : Owned
        The empty cell for it.
    flush, drop : callable
        Of the C core: waits until all is written; ends it, harmless when repeated.
    path : str or os.PathLike
        The file, for error messages.
    """

    def __init__(self, owned: Owned, flush: Any, drop: Any, path: StrPath) -> None:
        self._owned = owned
        self._flush = flush
        self._drop = drop
        self._written = path
        self._closed = False

    @property
    def handle(self) -> Any:
        """The thing in the C core; ValueError once it was closed."""
        if self._closed:
            raise ValueError("written to after it was closed")
        return self._owned.content

    def close(self) -> None:
        """Write out the rest, then stop the threads; harmless when repeated."""
        try:
            while not self._closed and not call(
                self._flush, self.handle, WAIT_MS, path=self._written
            ):
                pass
        finally:
            self.abort()

    def abort(self) -> None:
        """Stop the threads and drop what is unwritten; harmless when repeated."""
        self._closed = True
        self._drop(self._owned.cell)


class Appender(WriteBehind):
    """Bytes appended to a file from `offset` on, written behind the caller's back."""

    def __init__(self, file: File, offset: int, io: IOOptions) -> None:
        super().__init__(Owned("sf_append"), lib.sf_append_flush, lib.sf_append_drop, file.path)
        self.offset = offset
        call(
            lib.sf_append_start,
            file.handle,
            offset,
            io.window,
            io.worker_count,
            self._owned.cell,
            path=file.path,
        )

    def write(self, data: bytes | memoryview) -> None:
        """Take all of `data`; returns when it is copied, not when it is on the disk."""
        append = self.handle
        used = ffi.new("size_t *")
        done = 0
        with ffi.from_buffer("uint8_t[]", data) as view:
            while done < len(data):
                call(
                    lib.sf_append_feed,
                    append,
                    view + done,
                    len(data) - done,
                    used,
                    path=self._written,
                )
                done += used[0]
        self.offset += done
