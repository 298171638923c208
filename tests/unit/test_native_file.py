"""Files of the C core: reads and writes, direct or not, ahead and behind."""

from __future__ import annotations

import errno
import os
import random
import resource
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from savefmt.errors import ClosedImageError, ImageIOError, TruncatedError, UnsupportedError
from savefmt.model import IOOptions
from savefmt.native.file import Appender, File

MIB = 1 << 20
LENGTH = 3 * MIB + 12_345
CONTENT = random.Random(1).randbytes(LENGTH)
IO = IOOptions(threads=3, window=MIB)

DIRECT = pytest.mark.parametrize("direct", [False, True], ids=["buffered", "direct"])


@contextmanager
def opened(path: Path, *, write: bool = False, direct: bool = False) -> Iterator[File]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT if write else os.O_RDONLY, 0o600)
    try:
        with File(fd, path=path, write=write, direct=direct) as file:
            yield file
    finally:
        os.close(fd)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(CONTENT)
    return path


def threads_now() -> int:
    return len(os.listdir("/proc/self/task"))


def check_threads(before: int) -> None:
    """A joined thread may take a moment to leave /proc."""
    deadline = time.monotonic() + 5
    while threads_now() > before and time.monotonic() < deadline:
        time.sleep(0.001)
    assert threads_now() <= before


# Reads and writes.


@DIRECT
def test_reads_anywhere(image: Path, direct: bool) -> None:
    dice = random.Random(2)
    with opened(image, direct=direct) as file:
        assert file.length == LENGTH
        for offset, length in [(0, LENGTH), (0, 0), (4096, 8192), (LENGTH, 0)]:
            assert file.read(length, offset) == CONTENT[offset : offset + length]
        for _ in range(50):
            offset = dice.randrange(LENGTH)
            length = dice.randrange(LENGTH - offset)
            assert file.read(length, offset) == CONTENT[offset : offset + length]


@DIRECT
def test_writes_anywhere(tmp_path: Path, direct: bool) -> None:
    dice = random.Random(3)
    model = bytearray(LENGTH)
    with opened(tmp_path / "new", write=True, direct=direct) as file:
        file.write(bytes(LENGTH), 0)
        for turn in range(30):
            offset = dice.randrange(LENGTH)
            data = dice.randbytes(dice.randrange(MIB))[: LENGTH - offset]
            model[offset : offset + len(data)] = data
            forms: list[bytes | bytearray | memoryview] = [data, bytearray(data), memoryview(data)]
            file.write(forms[turn % 3], offset)
        file.sync()
        assert file.read(LENGTH, 0) == model
    assert (tmp_path / "new").read_bytes() == model


def test_direct_is_what_the_file_system_grants(image: Path) -> None:
    """Asked for and refused is no failure; not asked for is not used."""
    with opened(image) as file:
        assert not file.direct
    with opened(image, direct=True) as file:
        granted = file.direct
        assert file.read(8192, 0) == CONTENT[:8192]
        assert file.direct == granted


def test_the_end_of_the_file_is_told(image: Path) -> None:
    with opened(image) as file, pytest.raises(TruncatedError, match="10 bytes") as caught:
        file.read(110, LENGTH - 100)

    assert caught.value.offset == LENGTH
    assert caught.value.path == image


def test_what_the_kernel_refuses_is_told(image: Path) -> None:
    with opened(image) as file, pytest.raises(ImageIOError, match="cannot write") as caught:
        file.write(b"x", 77)

    assert (caught.value.errno, caught.value.offset) == (errno.EBADF, 77)
    assert caught.value.filename == os.fspath(image)


@DIRECT
def test_a_full_disk_is_told_at_its_offset(tmp_path: Path, direct: bool) -> None:
    with (
        opened(tmp_path / "new", write=True, direct=direct) as file,
        file_limit(MIB),
        pytest.raises(ImageIOError) as caught,
    ):
        file.write(bytes(3 * MIB), 0)

    assert (caught.value.errno, caught.value.offset) == (errno.EFBIG, MIB)


@contextmanager
def file_limit(length: int) -> Iterator[None]:
    """Let no file grow beyond that, as a full disk would."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (length, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_the_descriptor_stays_the_callers(image: Path) -> None:
    fd = os.open(image, os.O_RDONLY)
    before = len(os.listdir("/proc/self/fd"))
    File(fd, path=image, direct=True).close()

    assert len(os.listdir("/proc/self/fd")) == before
    assert os.read(fd, 10) == CONTENT[:10]
    os.close(fd)


def test_only_regular_files_are_taken() -> None:
    full = os.open("/dev/full", os.O_RDWR)
    with pytest.raises(ValueError, match="fixed length"):
        File(full, path="/dev/full", write=True)
    os.close(full)
    with pytest.raises(ImageIOError) as caught:
        File(full, path="/dev/full")
    assert caught.value.errno == errno.EBADF
    assert caught.value.filename == "/dev/full"


def test_a_closed_file_says_so(image: Path) -> None:
    with opened(image) as file:
        file.close()
        file.close()
        with pytest.raises(ClosedImageError) as caught:
            file.read(1, 0)
        assert caught.value.path == image
        with pytest.raises(ClosedImageError):
            next(file.chunks(0, 10, IO))
        with pytest.raises(ClosedImageError):
            _ = file.length


def test_extents_cover_the_data(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as stored:
        stored.write(b"x" * 8192)
        stored.seek(4 * MIB)
        stored.write(b"y" * 8192)
        stored.truncate(8 * MIB)

    with opened(path) as file:
        found = list(file.extents(0, 8 * MIB))
        assert list(file.extents(100, 200)) == [(100, 100)]
        assert list(file.extents(8 * MIB, 8 * MIB)) == []
        assert list(file.extents(5, 5)) == []

    data = path.read_bytes()
    assert found == sorted(found)
    for offset, length in found:
        data = data[:offset] + bytes(length) + data[offset + length :]
    assert not any(data)


# Reading ahead.


@DIRECT
@pytest.mark.parametrize("threads", [1, 4])
def test_chunks_come_in_order_from_any_offset(image: Path, direct: bool, threads: int) -> None:
    before = threads_now()
    places = [0, 1, 4096, MIB - 1, MIB, MIB + 1, 2 * MIB + 77, LENGTH - 1, LENGTH]
    with opened(image, direct=direct) as file:
        for window in (MIB, 2 * MIB, 4 * MIB):
            io = IOOptions(threads=threads, window=window)
            for start in places:
                for end in [place for place in places if place >= start]:
                    pieces = [bytes(piece) for piece in file.chunks(start, end, io)]
                    assert b"".join(pieces) == CONTENT[start:end]
                    assert all(len(piece) <= window for piece in pieces)
    check_threads(before)


def test_closing_the_chunks_ends_the_threads(image: Path) -> None:
    before = threads_now()
    with opened(image) as file:
        chunks = file.chunks(0, LENGTH, IO)
        assert bytes(next(chunks)) == CONTENT[:MIB]
        close = chunks.close  # type: ignore[attr-defined]
        close()
        check_threads(before)
        with pytest.raises(StopIteration):
            next(chunks)


def test_a_consumer_that_fails_leaves_no_thread(image: Path) -> None:
    before = threads_now()
    with opened(image) as file, pytest.raises(ZeroDivisionError):
        sum(len(piece) // 0 for piece in file.chunks(0, LENGTH, IO))
    check_threads(before)


def test_what_became_shorter_is_told(image: Path) -> None:
    with opened(image) as file:
        os.truncate(image, MIB + 5)
        with pytest.raises(TruncatedError, match="shorter") as caught:
            deque(file.chunks(0, LENGTH, IO), maxlen=0)
    assert caught.value.offset == MIB + 5
    assert caught.value.path == image


def test_impossible_ranges_are_refused(image: Path) -> None:
    with opened(image) as file, pytest.raises(ValueError, match="range"):
        next(file.chunks(5, 4, IO))


# Writing behind.


@DIRECT
@pytest.mark.parametrize("offset", [0, 1, MIB - 3, MIB, 5 * MIB + 4096])
def test_appended_bytes_arrive(tmp_path: Path, direct: bool, offset: int) -> None:
    dice = random.Random(offset)
    before = threads_now()
    with opened(tmp_path / "new", write=True, direct=direct) as file:
        appender = Appender(file, offset, IO)
        at = 0
        while at < LENGTH:
            piece = CONTENT[at : at + dice.choice([0, 1, 100, 70_000, MIB, 3 * MIB])]
            appender.write(memoryview(piece) if at % 2 else piece)
            at += len(piece)
            assert appender.offset == offset + at
        appender.close()
        assert file.read(LENGTH, offset) == CONTENT
    assert (tmp_path / "new").stat().st_size == offset + LENGTH
    check_threads(before)


def append_often(appender: Appender) -> None:
    for _ in range(100):
        appender.write(bytes(MIB))


def test_a_full_disk_is_told_sooner_or_later(tmp_path: Path) -> None:
    path = tmp_path / "new"
    before = threads_now()
    with opened(path, write=True) as file, file_limit(MIB + 10):
        appender = Appender(file, 0, IO)
        with pytest.raises(ImageIOError) as caught:
            append_often(appender)
        with pytest.raises(ImageIOError):
            appender.close()
    assert caught.value.errno == errno.EFBIG
    assert caught.value.path == path
    assert caught.value.offset is not None
    assert caught.value.offset >= MIB + 10
    check_threads(before)


def test_an_appender_ends_once(tmp_path: Path) -> None:
    before = threads_now()
    with opened(tmp_path / "new", write=True) as file:
        for end in (Appender.close, Appender.abort):
            appender = Appender(file, 0, IO)
            appender.write(b"x")
            end(appender)
            appender.abort()
            appender.close()
            with pytest.raises(ValueError, match="closed"):
                appender.write(b"x")
            check_threads(before)


# Engines.


@pytest.mark.parametrize("engine", ["auto", "psync", "io_uring"])
@DIRECT
def test_every_engine_moves_the_same_bytes(tmp_path: Path, direct: bool, engine: str) -> None:
    path = tmp_path / "new"
    with path.open("wb+") as plain:
        try:
            file = File(plain.fileno(), path=path, write=True, direct=direct, engine=engine)
        except UnsupportedError as error:
            pytest.skip(error.message)
        with file:
            assert file.engine == engine or engine == "auto"
            file.write(CONTENT, 0)
            assert file.read(LENGTH - 5, 5) == CONTENT[5:]
    assert path.read_bytes() == CONTENT


def test_an_engine_wanted_by_name_must_be_there(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(File, "engine", "psync")
    with (
        image.open("rb") as plain,
        pytest.raises(UnsupportedError, match="not let savefmt use io_uring") as caught,
    ):
        File(plain.fileno(), path=image, engine="io_uring")
    assert caught.value.path == image


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ValueError, match="no engine 'steam'"):
        IOOptions(engine="steam")
