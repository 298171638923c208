"""`savefmt.bench`: what it measures, what it advises, and what it leaves behind."""

from __future__ import annotations

import hashlib
import mmap
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from builder import make_stream
from golden.load import unpack

from savefmt.bench import bench, machine, scratch
from savefmt.bench.guestpattern import data_length, file_length, pattern_blocks, set_run
from savefmt.bench.scratch import nameless_file, require_space
from savefmt.bench.values import (
    BenchOptions,
    BenchSetting,
    Measurement,
    Spread,
)
from savefmt.errors import (
    ImageIOError,
    OperationCancelled,
    UnsupportedError,
)
from savefmt.image import SaveImage
from savefmt.model import PageRun
from savefmt.native.file import File
from savefmt.native.jobs import fill_pages

MIB = 1 << 20
SMALL = BenchOptions(length=4 * MIB, threads=(1, 2), windows=(MIB,), direct=(False,), repeat=1)


@pytest.fixture(autouse=True)
def no_fio(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave fio out, which takes its time to start."""
    monkeypatch.setattr("savefmt.bench.record.fio_version", lambda: None)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack("libvirt-sparse", tmp_path_factory.mktemp("image"))


# The values.


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"length": MIB - 1}, "1 MiB at least"),
        ({"threads": ()}, "nothing to measure"),
        ({"engines": ()}, "nothing to measure"),
        ({"repeat": 0}, "nothing to measure"),
        ({"jobs": 0}, "nothing to measure"),
        ({"runtime": -1}, "nothing to measure"),
        ({"windows": (MIB, 2048)}, "a power of 2 from 4 KiB to 64 MiB"),
        ({"windows": (3 * MIB,)}, "a power of 2 from 4 KiB to 64 MiB"),
        ({"engines": ("psync", "steam")}, "no engine 'steam'"),
    ],
)
def test_options_must_make_sense(change: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        replace(BenchOptions(), **change)  # type: ignore[arg-type]


def test_a_spread_is_slowest_middle_fastest() -> None:
    assert Spread.of([3, 1, 2, 9]) == Spread(1, 2.5, 9)


def measured(*rates: float) -> Measurement:
    return Measurement("write", True, 1, MIB, "psync", MIB, Spread.of(rates), rates, 0)


@pytest.mark.parametrize(
    ("rates", "different", "steady"),
    [
        ((10,), False, None),
        ((10, 15), False, None),
        ((10, 15.1), True, None),
        ((10, 10, 11, 10, 10), False, True),
        ((30, 10, 10, 11, 10, 10), True, True),  # it came to rest
        ((10, 10, 13, 10, 10), False, False),
        ((100, 104, 108, 112, 116), False, False),  # it rises
    ],
)
def test_runs_that_differ_and_runs_at_rest(
    rates: tuple[float, ...], different: bool, steady: bool | None
) -> None:
    assert measured(*rates).different is different
    assert measured(*rates).steady is steady


# Patterns.


def test_a_dense_guest_is_one_run() -> None:
    (block,) = pattern_blocks("dense", 4 * MIB)

    assert block.present == block.count == 1024
    assert block.offset % MIB == 0


def test_a_sparse_guest_is_half_empty() -> None:
    blocks = pattern_blocks("sparse", 4 * MIB)

    assert data_length(blocks) == 4 * MIB
    assert blocks[0].count == 2048
    assert file_length(blocks) == 9 * MIB


def test_a_guest_like_an_image_has_its_pages(image: Path) -> None:
    blocks = pattern_blocks(str(image), 0)

    with SaveImage(image) as opened:
        wanted = {
            name: sum(run.count for run in opened.memory.runs(name)) for name in opened.blocks
        }
    assert {block.name.decode(): block.present for block in blocks} == wanted


@pytest.mark.parametrize(("first", "count"), [(0, 0), (3, 2), (3, 5), (3, 30), (8, 16), (0, 64)])
def test_runs_are_set_bit_by_bit(first: int, count: int) -> None:
    bitmap = bytearray(8)

    set_run(bitmap, PageRun(first, count))

    assert int.from_bytes(bitmap, "little") == ((1 << count) - 1) << first


# Scratch files.


def test_scratch_files_have_no_name(tmp_path: Path) -> None:
    with nameless_file(tmp_path, 5) as fd:
        assert os.fstat(fd).st_size == 5
        assert os.fstat(fd).st_nlink == 0
        assert list(tmp_path.iterdir()) == []


def test_where_files_need_names_they_lose_them_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def refuse(path: str, flags: int, *rest: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "not supported")
        return real(path, flags, *rest)

    monkeypatch.setattr(os, "open", refuse)
    with nameless_file(tmp_path, 5) as fd:
        assert os.fstat(fd).st_nlink == 0
        assert list(tmp_path.iterdir()) == []


def test_a_tenth_of_the_disk_stays_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = os.statvfs_result((4096, 4096, 1000, 500, 200, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: room)

    require_space(tmp_path, 100 * 4096, fill=False)
    require_space(tmp_path, 200 * 4096, fill=True)
    with pytest.raises(ImageIOError, match="10 % of the disk must stay free; --fill") as caught:
        require_space(tmp_path, 100 * 4096 + 1, fill=False)
    assert caught.value.path == tmp_path
    with pytest.raises(ImageIOError, match="only 0 MiB may be used$"):
        require_space(tmp_path, 200 * 4096 + 1, fill=True)


def test_a_file_can_be_put_out_of_the_cache(tmp_path: Path) -> None:
    with nameless_file(tmp_path, 0) as fd:
        os.write(fd, bytes(MIB))
        assert scratch.cached_pages(fd) == MIB // mmap.PAGESIZE
        if not scratch.forget(fd):
            pytest.skip("this file system keeps its cache")
        assert scratch.cached_pages(fd) == 0
        os.pread(fd, 1, 0)
        assert scratch.cached_pages(fd) != 0


def test_an_empty_file_is_not_cached(tmp_path: Path) -> None:
    with nameless_file(tmp_path, 0) as fd:
        assert scratch.cached_pages(fd) == 0


def test_what_cannot_be_looked_at_is_not_called_cold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch, "_cached_in", lambda *words: None)
    with nameless_file(tmp_path, MIB) as fd:
        assert scratch.cached_pages(fd) is None
        assert not scratch.forget(fd)


def test_a_file_system_in_memory_has_the_memory_s_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch, "file_system_of", lambda path: "tmpfs")
    monkeypatch.setattr(scratch, "available_memory", lambda: 5 * MIB)

    with pytest.raises(ImageIOError, match="only 5 MiB"):
        require_space(tmp_path, 6 * MIB, fill=True)


def test_a_file_too_long_for_the_disk_is_an_image_s_error(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, before[1]))
    try:
        with pytest.raises(ImageIOError, match="too large"), nameless_file(tmp_path, 2 * MIB):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# The machine.


def test_the_machine_is_described(tmp_path: Path) -> None:
    assert machine.cpu_model()
    assert 0 < machine.available_memory() <= machine.memory_length()
    assert machine.file_system_of("/proc") == "proc"
    assert machine.disk_of("/proc") is None
    assert machine.file_system_of(tmp_path)  # unknown in a chroot, which hides its own mount


@pytest.mark.parametrize(
    ("source", "disk"),
    [
        ("/dev/sdz2", "sdz ACME Rocket 9"),
        ("/dev/vdz", "vdz"),
        ("server:/images", "server:/images"),
        ("tmpfs", None),
    ],
)
def test_disks_have_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, disk: str | None
) -> None:
    classes = tmp_path / "class"
    classes.mkdir()
    whole = tmp_path / "devices" / "sdz"
    (whole / "sdz2").mkdir(parents=True)
    (whole / "sdz2" / "partition").write_text("2\n")
    (whole / "device").mkdir()
    (whole / "device" / "vendor").write_text("ACME    \n")
    (whole / "device" / "model").write_text("Rocket 9\n")
    (classes / "sdz2").symlink_to(whole / "sdz2")
    virtual = classes / "vdz" / "device"
    virtual.mkdir(parents=True)
    (virtual / "vendor").write_text("0x1af4\n")
    monkeypatch.setattr(machine, "_SYS_BLOCK", classes)
    monkeypatch.setattr(machine, "_mount_of", lambda path: ("ext4", source))

    assert machine.disk_of("/mnt") == disk


# Measuring.


def test_a_run_too_small_for_its_threads_is_noted(tmp_path: Path) -> None:
    few = bench(tmp_path, replace(SMALL, threads=(1,)))
    many = bench(tmp_path, replace(SMALL, threads=(1, 2)))

    assert few.notes == ()
    assert many.notes == (
        "some runs move fewer than 4 windows for each thread: they measure mostly their start",
    )


def test_a_folder_is_written_to_and_left_empty(tmp_path: Path) -> None:
    report = bench(tmp_path, SMALL)

    works = [(m.work, m.threads) for m in report.measurements]
    assert works == [("stream", 1), ("write", 1), ("read", 1), ("write", 2), ("read", 2)]
    for m in report.measurements:
        assert m.length == 4 * MIB
        assert 0 < m.rate.minimum <= m.rate.median <= m.rate.maximum
        assert m.fio_share is None
    assert not report.is_image
    assert report.facts.free_length > 0
    assert list(tmp_path.iterdir()) == []


def test_requests_are_timed(tmp_path: Path) -> None:
    report = bench(tmp_path, replace(SMALL, windows=(4096,), direct=(True, False), threads=(1,)))

    for m in report.measurements:
        assert m.latency is not None
        assert 0 < m.latency.p50 <= m.latency.p99 <= m.latency.maximum
        assert m.latency.count == m.length // m.window


def test_small_windows_are_written_past_the_page_cache(tmp_path: Path) -> None:
    setting = BenchSetting("write", True, 1, 4096)
    blocks = pattern_blocks("dense", MIB)
    with nameless_file(tmp_path, file_length(blocks)) as fd:
        with File(fd, path=tmp_path, write=True, direct=True) as file:
            if not file.direct:
                pytest.skip("this file system has no direct I/O")
            file.measure(setting.window)
            fill_pages([file], blocks, setting, lambda _: None)
        assert scratch.cached_pages(fd) == 0
        content = os.pread(fd, MIB, blocks[0].offset)
        assert len({content[at : at + 4096] for at in range(0, MIB, 4096)}) == MIB // 4096


def test_windows_hold_a_page_at_least(image: Path, tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(make_stream(layout="mapped-ram", blocks={"ram": b"x" * MIB}, unit=65536))
    options = replace(SMALL, windows=(4096,))

    for target, pattern in ((big, "dense"), (tmp_path, str(big))):
        with pytest.raises(UnsupportedError, match=r"as large as a page .* 65536 bytes"):
            bench(target, replace(options, pattern=pattern))
    assert bench(image, options).measurements


def test_several_guests_at_once(tmp_path: Path) -> None:
    seen = []
    report = bench(
        tmp_path, replace(SMALL, jobs=3), progress=lambda progress: seen.append(progress)
    )

    assert {m.jobs for m in report.measurements} == {3}
    assert {m.length for m in report.measurements} == {12 * MIB}
    assert seen[-1].done == seen[-1].total
    with pytest.raises(ImageIOError, match="a run needs"):
        bench(tmp_path, replace(SMALL, jobs=1 << 40))


def test_a_runtime_asks_for_more_runs(tmp_path: Path) -> None:
    report = bench(tmp_path, replace(SMALL, threads=(1,), runtime=0.05))

    for m in report.measurements:
        assert sum(m.length / rate for rate in m.runs) >= 0.05
    assert len({len(m.runs) for m in report.measurements}) == 1
    assert all("did not become steady" not in note for note in report.notes) == all(
        m.steady for m in report.measurements
    )


def test_every_engine_is_measured(tmp_path: Path) -> None:
    try:
        report = bench(tmp_path, replace(SMALL, engines=("psync", "io_uring"), threads=(1,)))
    except UnsupportedError as error:
        pytest.skip(error.message)
    if any("io_uring" in note for note in report.notes):
        pytest.skip("this kernel has no io_uring, or does not permit it")

    assert [m.engine for m in report.measurements if m.work == "read"] == ["psync", "io_uring"]


def test_an_engine_that_the_kernel_refuses_is_left_out(
    tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("savefmt.native.file.File.engine", "psync")
    both = replace(SMALL, engines=("psync", "io_uring"), threads=(1,))

    for target in (tmp_path, image):
        report = bench(target, both)
        assert {m.engine for m in report.measurements} == {"psync"}
        assert report.options.engines == ("psync",)
        assert (
            "this kernel does not let savefmt use io_uring: only psync was measured" in report.notes
        )
        with pytest.raises(UnsupportedError, match="io_uring"):
            bench(target, replace(both, engines=("io_uring",)))


def test_direct_io_that_the_file_system_refuses_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("savefmt.native.file.File.direct", False)
    seen = []

    report = bench(
        tmp_path, replace(SMALL, direct=(True, False)), progress=lambda step: seen.append(step)
    )

    assert {m.direct for m in report.measurements} == {False}
    assert (
        report.notes[0]
        == "the file system does not support direct I/O: only buffered I/O was measured"
    )
    assert seen[-1].done == seen[-1].total
    with pytest.raises(UnsupportedError, match="--direct=off"):
        bench(tmp_path, replace(SMALL, direct=(True,)))


def test_an_image_is_read_and_nothing_else(image: Path) -> None:
    before = (hashlib.sha256(image.read_bytes()).digest(), image.stat().st_mtime_ns)
    image.chmod(0o400)

    report = bench(image, SMALL)

    assert {m.work for m in report.measurements} == {"read"}
    assert report.is_image
    assert (hashlib.sha256(image.read_bytes()).digest(), image.stat().st_mtime_ns) == before
    assert list(image.parent.iterdir()) == [image]


def test_a_sequential_image_can_be_measured(tmp_path: Path) -> None:
    path = unpack("libvirt-raw", tmp_path)

    report = bench(path, replace(SMALL, threads=(2,)))

    (m,) = report.measurements
    with SaveImage(path) as opened:
        assert m.length == opened.length - opened.stream_offset


def test_an_image_s_pattern_is_written(image: Path, tmp_path: Path) -> None:
    report = bench(tmp_path, replace(SMALL, pattern=str(image), threads=(1,)))

    length = data_length(pattern_blocks(str(image), 0))
    assert {m.length for m in report.measurements if m.work == "write"} == {length}


def test_no_room_is_told_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ImageIOError, match="a run needs"):
        bench(tmp_path, replace(SMALL, length=1 << 50))


def test_progress_reaches_its_end_and_cancels(tmp_path: Path) -> None:
    seen = []
    bench(tmp_path, SMALL, progress=lambda progress: seen.append(progress))
    assert seen[-1].done == seen[-1].total

    with pytest.raises(OperationCancelled):
        bench(tmp_path, SMALL, progress=lambda progress: False)
    assert list(tmp_path.iterdir()) == []


def test_nothing_stays_when_it_is_killed(tmp_path: Path) -> None:
    words = ["bench", str(tmp_path), "--size", "8M", "--repeat", "1000"]
    child = subprocess.Popen([sys.executable, "-m", "savefmt", *words])
    opened = Path(f"/proc/{child.pid}/fd")
    try:
        deadline = time.monotonic() + 20
        while not any(str(tmp_path) in link for link in links(opened)):
            assert time.monotonic() < deadline
            assert child.poll() is None
            time.sleep(0.01)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()

    assert list(tmp_path.iterdir()) == []


def links(folder: Path) -> list[str]:
    found = []
    for entry in folder.iterdir():
        try:
            found.append(os.readlink(entry))
        except OSError:  # closed meanwhile
            continue
    return found


@pytest.mark.parametrize("blocks", [{"pc.ram": bytes(MIB)}, {}], ids=["zeros", "no blocks"])
def test_an_image_without_data_has_nothing_to_measure(
    tmp_path: Path, blocks: dict[str, bytes]
) -> None:
    path = tmp_path / "image"
    path.write_bytes(make_stream(layout="mapped-ram", blocks=blocks))

    with pytest.raises(
        UnsupportedError, match="the image has no page with data; choose another image"
    ):
        bench(path, SMALL)
    with pytest.raises(
        UnsupportedError, match="the pattern image has no page with data; choose another image"
    ):
        bench(tmp_path, replace(SMALL, pattern=str(path)))
    assert list(tmp_path.iterdir()) == [path]
