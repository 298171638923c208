"""Parallel jobs over the pages of a mapped-ram file, and the loop that waits for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from savefmt.model import IOOptions, StrPath
from savefmt.native.core import WAIT_MS, call, cell, ffi, lib
from savefmt.native.file import File, windows
from savefmt.native.pages import BlockPages, SumKey, Table, Watch, pack_blocks, pack_tables

OnBytes = Callable[[int], None]
"""Called with the bytes done so far; what it raises ends the job."""


def _run(
    borrowed: Sequence[Any],
    start: Any,
    *args: Any,
    on_bytes: OnBytes,
    path: StrPath,
    target: StrPath | None = None,
) -> None:
    """Start a job and wait for it; any exception in between cancels it first."""
    progress = ffi.new("struct sf_progress *")
    with cell("sf_job", *borrowed) as job:
        call(start, *args, job, path=path)
        while lib.sf_job_wait(job[0], WAIT_MS, progress) != lib.SF_OK:
            on_bytes(progress.done)
        on_bytes(progress.done)
        call(lib.sf_job_end, job, path=path, target=target)


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
    pages, bitmaps = pack_blocks(blocks)
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
    _run(
        [source, target, pages, *bitmaps, offsets, sums, *(tables or ()), key, watch],
        lib.sf_move_start,
        move,
        on_bytes=on_bytes,
        path=source.path,
        target=target.path if target else None,
    )
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
    pages, bitmaps = pack_blocks(blocks)
    _run(
        [target, pages, *bitmaps],
        lib.sf_fill_start,
        target.handle,
        pages,
        len(blocks),
        io.window,
        io.worker_count,
        on_bytes=on_bytes,
        path=target.path,
    )


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
        names = [ffi.from_buffer("char[]", block.name) for block in blocks]
        views = [block.fill(array[i].pages) for i, block in enumerate(blocks)]
        for i, name in enumerate(names):
            array[i].name = name
            array[i].name_length = len(name)
        sums = pack_tables(self.tables)
        bitmaps = [block.bitmap for block in blocks]
        self._cell = cell(
            "sf_emit", source, array, *names, *views, *bitmaps, sums, *(self.tables or ()), key
        )
        call(
            lib.sf_emit_new,
            source.handle,
            array,
            len(blocks),
            sums,
            key.handle if key else ffi.NULL,
            self._cell,
            path=source.path,
        )

    @property
    def length(self) -> int:
        """Bytes of all records."""
        return int(lib.sf_emit_length(self._cell[0]))

    def write(self, target: File, offset: int, io: IOOptions, on_bytes: OnBytes) -> None:
        """Write all records to their places in `target`, in parallel."""
        _run(
            [self._cell, target],
            lib.sf_emit_write_start,
            self._cell[0],
            target.handle,
            offset,
            io.window,
            io.worker_count,
            on_bytes=on_bytes,
            path=self._source.path,
            target=target.path,
        )

    def chunks(self, io: IOOptions) -> Iterator[memoryview]:
        """Yield all records in order; each piece is valid until the next is asked for."""
        path = self._source.path
        with cell("sf_ring", self._cell) as ring:
            call(
                lib.sf_emit_ring_start,
                self._cell[0],
                io.window,
                io.worker_count,
                ring,
                path=path,
            )
            yield from windows(ring[0], path)
