"""Jobs of the C core: progress, cancelling, the interpreter left free, no thread left."""

from __future__ import annotations

import errno
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from savefmt.errors import ImageIOError, TruncatedError
from savefmt.model import IOOptions
from savefmt.native import jobs
from savefmt.native.file import File
from savefmt.native.jobs import Emitter, move_pages
from savefmt.native.pages import BlockPages, SumKey, Table, is_zero

PAGE_SIZE = 4096
COUNT = 4096
MIB = 1 << 20
IO = IOOptions(threads=3, window=MIB)
CONTENT = random.Random(1).randbytes(COUNT * PAGE_SIZE)


class Stopped(Exception):
    """What a callback raises."""


@contextmanager
def source_file() -> Iterator[tuple[File, BlockPages]]:
    with tempfile.TemporaryFile() as stored:
        stored.write(bytes(MIB) + CONTENT)
        stored.flush()
        with File(stored.fileno(), path="source") as file:
            yield file, BlockPages(b"ram", COUNT, PAGE_SIZE, MIB, bytearray(b"\xff" * 512))


@contextmanager
def target_file(*, write: bool = True) -> Iterator[File]:
    """Without `write` a file that cannot be written."""
    with tempfile.NamedTemporaryFile() as stored:
        fd = os.open(stored.name, os.O_RDWR if write else os.O_RDONLY)
        try:
            with File(fd, path="target", write=write) as file:
                yield file
        finally:
            os.close(fd)


def threads_now() -> int:
    return len(os.listdir("/proc/self/task"))


def check_threads(before: int) -> None:
    """A joined thread may take a moment to leave /proc."""
    deadline = time.monotonic() + 5
    while threads_now() > before and time.monotonic() < deadline:
        time.sleep(0.001)
    assert threads_now() <= before


def move(source: File, block: BlockPages, on_bytes: Callable[[int], None]) -> None:
    with target_file() as target:
        move_pages(source, [block], IO, on_bytes, target=target, target_offsets=[0])


def emit(source: File, block: BlockPages, on_bytes: Callable[[int], None]) -> None:
    with target_file() as target:
        Emitter(source, [block], SumKey.fixed()).write(target, 12_345, IO, on_bytes)


JOBS = pytest.mark.parametrize("run", [move, emit])


@JOBS
def test_progress_grows_to_the_end(
    run: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "WAIT_MS", 0)
    seen: list[int] = []
    with source_file() as (source, block):
        run(source, block, seen.append)
        total = Emitter(source, [block], None).length

    assert seen == sorted(seen)
    assert seen[-1] == (COUNT * PAGE_SIZE if run is move else total)


@JOBS
@pytest.mark.parametrize("error", [Stopped, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("wait", [0, 100])
def test_what_the_callback_raises_ends_the_job(
    run: Callable[..., None],
    error: type[BaseException],
    wait: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the middle (no waiting) or when all is done: it passes as it is."""
    monkeypatch.setattr(jobs, "WAIT_MS", wait)
    before = threads_now()

    def refuse(_: int) -> None:
        raise error

    with source_file() as (source, block):
        with pytest.raises(error):
            run(source, block, refuse)
        check_threads(before)
        assert block.read(source, 0, COUNT) == CONTENT  # and the file is usable


def test_a_signal_handler_may_end_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    # A runner in the background may have handed down an ignored signal.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(jobs, "WAIT_MS", 1)
    before = threads_now()

    def interrupt(_: int) -> None:
        signal.raise_signal(signal.SIGINT)

    with source_file() as (source, block), pytest.raises(KeyboardInterrupt):
        move(source, block, interrupt)
    check_threads(before)


def ignore(_: int) -> None:
    """Nobody watches the progress."""


def test_the_file_that_failed_is_named() -> None:
    """ENOSPC and the like concern the target, bad reads the source."""
    before = threads_now()
    with source_file() as (source, block), target_file(write=False) as target:
        with pytest.raises(ImageIOError, match="cannot write") as caught:
            move_pages(source, [block], IO, ignore, target=target, target_offsets=[0])
        assert (caught.value.path, caught.value.errno) == ("target", errno.EBADF)

        emitter = Emitter(source, [block], None)
        with pytest.raises(ImageIOError, match="cannot write") as caught:
            emitter.write(target, 0, IO, ignore)
        assert caught.value.path == "target"

    with source_file() as (source, block), target_file() as target:
        block.offset += 100 * MIB
        for run in (move, emit):
            with pytest.raises(TruncatedError) as short:
                run(source, block, ignore)
            assert short.value.path == "source"
            assert short.value.offset is not None
            assert short.value.offset >= block.offset
        with pytest.raises(TruncatedError) as short:
            next(Emitter(source, [block], None).chunks(IO))
        assert short.value.path == "source"
    check_threads(before)


def test_chunks_left_in_the_middle_leave_no_thread() -> None:
    before = threads_now()
    with source_file() as (source, block):
        chunks = Emitter(source, [block], None).chunks(IO)
        assert len(next(chunks)) == MIB
        del chunks
        check_threads(before)


def test_a_shorter_bitmap_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        BlockPages(b"ram", 65, PAGE_SIZE, 0, bytearray(8))


@pytest.mark.parametrize(("first", "count"), [(-1, 1), (0, -1), (0, COUNT + 1), (COUNT, 1)])
def test_pages_beyond_the_block_are_refused(first: int, count: int) -> None:
    with source_file() as (source, block), pytest.raises(ValueError, match="beyond"):
        block.read(source, first, count)


def test_tables_check_their_index() -> None:
    table = Table(3)

    assert [table[page] for page in range(3)] == [0, 0, 0]
    for page in (-1, 3):
        with pytest.raises(IndexError):
            table[page]
    with pytest.raises(ValueError, match="table"):
        Table((1 << 44) + 1)


def test_blocks_may_be_missing() -> None:
    with source_file() as (source, _):
        assert move_pages(source, [], IO, ignore, key=SumKey.fixed()) == []
        assert list(Emitter(source, [], None).chunks(IO)) == []


def test_other_threads_go_on_meanwhile() -> None:
    """Nobody takes the interpreter away by force here: C must hand it over."""
    turns = 0
    stop = threading.Event()

    def count() -> None:
        nonlocal turns
        while not stop.is_set():
            turns += 1
            time.sleep(0)

    other = threading.Thread(target=count)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        other.start()
        zeros = bytearray(16 * MIB)
        deadline = time.monotonic() + 20
        before = turns
        while turns < before + 3 and time.monotonic() < deadline:
            assert is_zero(zeros)
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        other.join()

    assert turns >= before + 3


def test_jobs_of_several_threads_do_not_mix() -> None:
    results: list[list[Table] | None] = []

    def run() -> None:
        results.append(move_pages(source, [block], IO, ignore, key=SumKey.fixed()))

    with source_file() as (source, block):
        workers = [threading.Thread(target=run) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    assert len(results) == 4
    for tables in results:
        assert tables is not None
        assert results[0] is not None
        assert list(tables[0].differences(results[0][0])) == []
        assert tables[0].count_nonzero() == COUNT
