"""Parallel jobs over the pages of a mapped-ram file, and the loop that waits for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from savefmt.model import IOOptions, StrPath
from savefmt.native.core import WAIT_MS, call, ffi, lib, new_handle
from savefmt.native.file import File, ring_chunks
from savefmt.native.pages import BlockPages, SumKey, Table, Watch, pack_blocks, pack_tables

OnBytes = Callable[[int], None]
"""Called with the bytes done so far; what it raises ends the job."""


def _run(job: Any, on_bytes: OnBytes, path: StrPath, target: StrPath | None) -> None:
    """Wait for a job; any exception in between cancels it first."""
    progress = ffi.new("struct sf_progress *")
    try:
        while lib.sf_job_wait(job, WAIT_MS, progress) != lib.SF_OK:
            on_bytes(progress.done)
        on_bytes(progress.done)
    except BaseException:
        lib.sf_job_cancel(job)
        lib.sf_job_finish(job, ffi.NULL)
        raise
    call(lib.sf_job_finish, job, path=path, target=target)


def move_pages(
    source: File,
    blocks: Sequence[BlockPages],
    io: IOOptions,
    on_bytes: OnBytes,
    *,
    target: File | None = None,
    target_offsets: Sequence[int] = (),
    key: SumKey | None = None,
    watch: Watch | None = None,
) -> list[Table] | None:
    """Read all present pages; copy them to a fresh `target` and sum them on request.

    Parameters
    ----------
    source : File
        A mapped-ram image.
    blocks : sequence of BlockPages
        Where its pages are.
    io : IOOptions
        Window and threads.
    on_bytes : callable
        Progress.
    target : File, optional
        Reads as zeros where pages go.
    target_offsets : sequence of int
        Where each block's page 0 goes in the target.
    key : SumKey, optional
        Sum the pages with it.
    watch : Watch, optional
        Looks at the pages that have a place in the target, whether or not there is one.

    Returns
    -------
    list of Table or None
        Page sums of each block where a key was given.
    """
    tables = [Table(block.count) for block in blocks] if key else None
    pages, views = pack_blocks(blocks)
    offsets = ffi.new("uint64_t[]", list(target_offsets) or [0])
    sums = pack_tables(tables)
    move = ffi.new("struct sf_move *")
    move.source = source.handle
    setattr(move, "from", pages)  # a keyword in Python
    move.target = target.handle if target else ffi.NULL
    move.target_offsets = offsets
    move.sums = sums
    move.key = key.handle if key else ffi.NULL
    move.watch = watch.handle if watch else ffi.NULL
    move.nblocks = len(blocks)
    move.nthreads = io.worker_count
    move.window = io.window
    job = new_handle("sf_job", lib.sf_move_start, move, path=source.path)
    _run(job, on_bytes, source.path, target.path if target else None)
    del views
    return tables


def fill_pages(
    target: File, blocks: Sequence[BlockPages], io: IOOptions, on_bytes: OnBytes
) -> None:
    """Write made-up content for all present pages, no two alike, for measuring.

    Parameters
    ----------
    target : File
        Where the pages go.
    blocks : sequence of BlockPages
        Their places.
    io : IOOptions
        Window and threads.
    on_bytes : callable
        Progress.
    """
    pages, views = pack_blocks(blocks)
    job = new_handle(
        "sf_job",
        lib.sf_fill_start,
        target.handle,
        pages,
        len(blocks),
        io.window,
        io.worker_count,
        path=target.path,
    )
    _run(job, on_bytes, target.path, None)
    del views


class Emitter:
    """The pages of a mapped-ram image as sequential page records.

    Parameters
    ----------
    source : File
        The image.
    blocks : sequence of BlockPages
        In the order of emission.
    key : SumKey or None
        With a key, `tables` get the sums of the pages that go out.
    """

    def __init__(self, source: File, blocks: Sequence[BlockPages], key: SumKey | None) -> None:
        self.tables = [Table(block.count) for block in blocks] if key else None
        self._source = source
        array = ffi.new("struct sf_emit_block[]", max(len(blocks), 1))
        kept: list[Any] = [array, key]
        for i, block in enumerate(blocks):
            name = ffi.from_buffer("char[]", block.name)
            array[i].name = name
            array[i].name_length = len(block.name)
            kept += [name, block.fill(array[i].pages)]
        sums = pack_tables(self.tables)
        self._kept = [*kept, sums]
        handle = new_handle(
            "sf_emit",
            lib.sf_emit_new,
            source.handle,
            array,
            len(blocks),
            sums,
            key.handle if key else ffi.NULL,
        )
        self._handle = ffi.gc(handle, lib.sf_emit_free)

    @property
    def length(self) -> int:
        """Bytes of all records."""
        return int(lib.sf_emit_length(self._handle))

    def write(self, target: File, offset: int, io: IOOptions, on_bytes: OnBytes) -> None:
        """Write all records to their places in `target`, in parallel."""
        job = new_handle(
            "sf_job",
            lib.sf_emit_write_start,
            self._handle,
            target.handle,
            offset,
            io.window,
            io.worker_count,
        )
        _run(job, on_bytes, self._source.path, target.path)

    def chunks(self, io: IOOptions) -> Iterator[memoryview]:
        """Yield all records in order; each piece is valid until the next is asked for."""
        ring = new_handle(
            "sf_ring", lib.sf_emit_ring_start, self._handle, io.window, io.worker_count
        )
        yield from ring_chunks(ring, path=self._source.path)
