"""Parallel jobs over the pages of a mapped-ram file, and the loop that waits for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from savefmt.frozen import dataclass
from savefmt.model import IOOptions, Pace, StrPath
from savefmt.native.core import WAIT_MS, Owned, call, cell, ffi, lib
from savefmt.native.file import File, windows
from savefmt.native.pages import BlockPages, SumKey, Table, Watch, pack_blocks, pack_tables

OnBytes = Callable[[int], None]
"""Called with the bytes done so far; what it raises ends the job."""


@dataclass(frozen=True, slots=True)
class _Work:
    """What one job does: the call that starts it, and what it must not outlive."""

    borrowed: Sequence[Any]
    start: Any
    args: Sequence[Any]
    path: StrPath
    target: StrPath | None = None


def _run(*works: _Work, on_bytes: OnBytes) -> None:
    """Start jobs and wait for all; any exception in between cancels them first."""
    progress = ffi.new("struct sf_progress *")

    def done(job: Any, wait_ms: int = 0) -> tuple[bool, int]:
        ended = lib.sf_job_wait(job[0], wait_ms, progress) == lib.SF_OK
        return ended, progress.done

    with ExitStack() as stack:
        jobs = []
        for work in works:
            jobs.append(stack.enter_context(cell("sf_job", *work.borrowed)))
            call(work.start, *work.args, jobs[-1], path=work.path)
        for job in jobs:
            while not done(job, WAIT_MS)[0]:
                on_bytes(sum(done(one)[1] for one in jobs))
        on_bytes(sum(done(job)[1] for job in jobs))
        for job, work in zip(jobs, works, strict=True):
            call(lib.sf_job_end, job, path=work.path, target=work.target)


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
    borrowed = [source, target, pages, *bitmaps, offsets, sums, *(tables or ()), key, watch]
    written = target.path if target else None
    _run(
        _Work(borrowed, lib.sf_move_start, (move,), source.path, written),
        on_bytes=on_bytes,
    )
    return tables


def read_pages(
    sources: Sequence[File], blocks: Sequence[BlockPages], io: Pace, on_bytes: OnBytes
) -> None:
    """Read all present pages of several files at once and forget them, for measuring.

    Parameters
    ----------
    sources : sequence of File
        Each with the same pages at the same places.
    blocks : sequence of BlockPages
        The places.
    io : Pace
        Window and threads, for each file; a window may be as small as a page.
    on_bytes : callable
        Progress of all.
    """
    pages, bitmaps = pack_blocks(blocks)
    works = []
    for source in sources:
        move = ffi.new("struct sf_move *")
        move.source = source.handle
        setattr(move, "from", pages)  # a keyword in Python
        move.nblocks = len(blocks)
        move.nthreads = io.worker_count
        move.window = io.window
        works.append(
            _Work([source, move, pages, *bitmaps], lib.sf_move_start, (move,), source.path)
        )
    _run(*works, on_bytes=on_bytes)


def fill_pages(
    targets: Sequence[File], blocks: Sequence[BlockPages], io: Pace, on_bytes: OnBytes
) -> None:
    """Write made-up content for all present pages to several files at once, for measuring.

    All pages of a file are different.

    Parameters
    ----------
    targets : sequence of File
        Where the pages go.
    blocks : sequence of BlockPages
        Their places in each.
    io : Pace
        Window and threads, for each file; a window may be as small as a page.
    on_bytes : callable
        Progress of all.
    """
    pages, bitmaps = pack_blocks(blocks)
    works = [
        _Work(
            [target, pages, *bitmaps],
            lib.sf_fill_start,
            (target.handle, pages, len(blocks), io.window, io.worker_count),
            target.path,
        )
        for target in targets
    ]
    _run(*works, on_bytes=on_bytes)


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
        self._owned = Owned(
            "sf_emit", source, array, *names, *views, *bitmaps, sums, *(self.tables or ()), key
        )
        call(
            lib.sf_emit_new,
            source.handle,
            array,
            len(blocks),
            sums,
            key.handle if key else ffi.NULL,
            self._owned.cell,
            path=source.path,
        )

    @property
    def length(self) -> int:
        """Bytes of all records."""
        return int(lib.sf_emit_length(self._owned.content))

    def write(self, target: File, offset: int, io: IOOptions, on_bytes: OnBytes) -> None:
        """Write all records to their places in `target`, in parallel."""
        work = _Work(
            [self._owned, target],
            lib.sf_emit_write_start,
            (self._owned.content, target.handle, offset, io.window, io.worker_count),
            self._source.path,
            target.path,
        )
        _run(work, on_bytes=on_bytes)

    def chunks(self, io: IOOptions) -> Iterator[memoryview]:
        """Yield all records in order; each piece is valid until the next is asked for."""
        path = self._source.path
        with cell("sf_ring", self._owned) as ring:
            call(
                lib.sf_emit_ring_start,
                self._owned.content,
                io.window,
                io.worker_count,
                ring,
                path=path,
            )
            yield from windows(ring[0], path)
