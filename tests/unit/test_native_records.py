"""Taking records from a cursor: ends, errors, and what they leave behind."""

from __future__ import annotations

import errno
import gc
import os
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from builder import EOS, Record, pack_records, word

from savefmt.errors import CorruptError, ImageIOError, TruncatedError, UnsupportedError
from savefmt.format.cursor import ChunkCursor
from savefmt.model import IOOptions
from savefmt.native.core import NeedContentError
from savefmt.native.file import File
from savefmt.native.pages import BlockPages, SumKey
from savefmt.native.records import RecordCounts, Scanner, Scatter, Tally

PAGE_SIZE = 4096
COUNT = 1024
START = 100
MIB = 1 << 20
IO = IOOptions(threads=2, window=MIB)
DATA = b"x" * PAGE_SIZE


def new_scanner() -> Scanner:
    return Scanner(PAGE_SIZE, [(b"ram", COUNT * PAGE_SIZE)])


def cursor_over(*pieces: bytes | memoryview) -> ChunkCursor:
    return ChunkCursor(iter(pieces), START)


def drain(steps: Iterator[int]) -> int:
    """Run to the end and return the last offset."""
    return deque(steps, maxlen=1).pop()


def threads_now() -> int:
    return len(os.listdir("/proc/self/task"))


def check_threads(before: int) -> None:
    """A joined thread may take a moment to leave /proc."""
    deadline = time.monotonic() + 5
    while threads_now() > before and time.monotonic() < deadline:
        time.sleep(0.001)
    assert threads_now() <= before


@contextmanager
def scattering(*, write: bool = True) -> Iterator[tuple[Scatter, File]]:
    """A scatter into a fresh file; without `write` into one that cannot be written."""
    before = threads_now()
    with tempfile.NamedTemporaryFile() as stored:
        os.truncate(stored.name, 2 * MIB + COUNT * PAGE_SIZE)
        fd = os.open(stored.name, os.O_RDWR if write else os.O_RDONLY)
        with File(fd, path="target", write=write) as file:
            block = BlockPages(b"ram", COUNT, PAGE_SIZE, 2 * MIB, bytearray(COUNT // 8))
            scatter = Scatter(new_scanner(), file, [block], IO, key=None, path="source")
            try:
                yield scatter, file
            finally:
                scatter.abort()
                os.close(fd)
    check_threads(before)


# Sound input.


def test_the_cursor_stands_behind_the_end_marker() -> None:
    wire = pack_records([Record("ram", 0, DATA), Record("ram", 1)], PAGE_SIZE) + EOS
    cursor = cursor_over(wire[:20], wire[20:] + b"next section")
    tally = Tally(new_scanner(), None, "source")

    assert drain(tally.take(cursor)) == START + len(wire)
    assert cursor.read(12) == b"next section"


def test_counts_live_as_long_as_the_scanner() -> None:
    scanner = new_scanner()
    tally = Tally(scanner, None, "source")
    records = [Record("ram", 0, DATA), Record("ram", 1), Record("ram", 2, delta=b"")]
    for _ in range(2):
        drain(tally.take(cursor_over(pack_records(records, PAGE_SIZE) + word(0, 0x200) + EOS)))

    assert scanner.counts == RecordCounts(pages=2, zeros=2, deltas=2, flushes=2)


def test_a_stopped_guest_makes_a_short_index() -> None:
    records = [Record("ram", page, DATA if page < 600 else None) for page in range(1000)]
    tally = Tally(new_scanner(), None, "source")
    drain(tally.take(cursor_over(pack_records(records, PAGE_SIZE) + EOS)))

    runs = list(tally.indexes[0].runs())

    assert [(run.kind, run.pages.first, run.pages.count) for run in runs] == [
        ("data", 0, 600),
        ("zero", 600, 400),
        ("absent", 1000, 24),
    ]
    assert (runs[0].offset, runs[0].stride) == (START + 8 + 4, 8 + PAGE_SIZE)


def test_many_windows_at_once() -> None:
    """More than the scatter keeps open, each met again and again."""
    pages = [(turn * 257) % COUNT for turn in range(COUNT)] * 2
    records = [
        Record("ram", page, b"%8d" % turn * (PAGE_SIZE // 8)) for turn, page in enumerate(pages)
    ]
    wire = pack_records(records, PAGE_SIZE) + EOS
    with scattering() as (scatter, file):
        drain(scatter.take(cursor_over(wire[: 3 * MIB], memoryview(wire)[3 * MIB :])))
        scatter.close()
        read = file.read(COUNT * PAGE_SIZE, 2 * MIB)

    last = {record.page: record.data for record in records}
    assert read == b"".join(last[page] or b"" for page in range(COUNT))


# Errors.


@pytest.mark.parametrize(
    ("wire", "kind", "offset"),
    [
        (word(0, 0x22) + b"\0", CorruptError, 0),
        (word(0, 0x02) + b"\3rom\0", CorruptError, 0),
        (word(COUNT * PAGE_SIZE, 0x02) + b"\3ram\0", CorruptError, 0),
        (word(0, 0x02) + b"\3ram\1", CorruptError, 12),
        (word(0, 0x40) + b"\3ram\1\0\1z", NeedContentError, 15),
        (word(0, 0x100) + b"\3ram", UnsupportedError, 0),
        (word(0, 0x02) + b"\3ram\0" + word(0, 0x01), CorruptError, 13),
        (b"", TruncatedError, 0),
        (word(0, 0x08) + b"\3ram" + DATA[:-1], TruncatedError, 12 + PAGE_SIZE - 1),
    ],
)
def test_errors_have_their_place(wire: bytes, kind: type[CorruptError], offset: int) -> None:
    tally = Tally(new_scanner(), SumKey.fixed(), "source")

    with pytest.raises(kind) as caught:
        drain(tally.take(cursor_over(wire)))

    assert caught.value.offset == START + offset
    assert caught.value.path == "source"


def test_errors_in_a_cycle_do_not_crash_the_collector() -> None:
    """CPython dies of a memoryview in a cycle whose buffer cffi still holds."""
    for _ in range(20):
        tally = Tally(new_scanner(), None, "source")
        try:
            drain(tally.take(cursor_over(memoryview(bytes(9)))))
        except CorruptError as error:
            error.cycle = error  # type: ignore[attr-defined]
        gc.collect()


def test_errors_while_writing_in_a_cycle_neither() -> None:
    for _ in range(20):
        with tempfile.NamedTemporaryFile() as stored:
            fd = os.open(stored.name, os.O_RDONLY)
            try:
                with File(fd, path="target", write=True) as file:
                    file.write(memoryview(b"x"), 0)
            except ImageIOError as error:
                error.cycle = error  # type: ignore[attr-defined]
            os.close(fd)
        gc.collect()


def take_and_close(scatter: Scatter, wire: bytes) -> None:
    drain(scatter.take(cursor_over(wire)))
    scatter.close()


def test_writing_fails_in_the_name_of_the_target() -> None:
    records = [Record("ram", page, DATA) for page in range(COUNT)]
    wire = pack_records(records * 5, PAGE_SIZE) + EOS
    with (
        scattering(write=False) as (scatter, _),
        pytest.raises(ImageIOError, match="cannot write") as caught,
    ):
        take_and_close(scatter, wire)

    assert (caught.value.path, caught.value.errno) == ("target", errno.EBADF)
    assert caught.value.offset is not None
    assert caught.value.offset >= 2 * MIB


def test_bad_records_fail_in_the_name_of_the_source() -> None:
    with scattering() as (scatter, _), pytest.raises(CorruptError) as caught:
        drain(scatter.take(cursor_over(word(0, 0x40) + b"\3ram\1\0\2\0\0")))

    assert (caught.value.path, caught.value.offset) == ("source", START + 15)


@pytest.mark.parametrize("end", [Scatter.close, Scatter.abort])
def test_a_scatter_ends_once(end: object) -> None:
    assert callable(end)
    with scattering() as (scatter, _):
        end(scatter)
        scatter.abort()
        scatter.close()
        with pytest.raises(ValueError, match="closed"):
            drain(scatter.take(cursor_over(EOS)))


def test_an_aborted_scatter_leaves_no_thread() -> None:
    records = [Record("ram", page, DATA) for page in range(COUNT)]
    with scattering() as (scatter, _):
        drain(scatter.take(cursor_over(pack_records(records, PAGE_SIZE) + EOS)))


@pytest.mark.parametrize("page_size", [0, 100, 4095, 1 << 17])
def test_impossible_page_sizes_are_refused(page_size: int) -> None:
    with pytest.raises(ValueError, match="page size"):
        Scanner(page_size, [])


def test_impossible_names_are_refused() -> None:
    with pytest.raises(ValueError, match="name"):
        Scanner(PAGE_SIZE, [(b"x" * 256, PAGE_SIZE)])
