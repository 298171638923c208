"""`savefmt.bench`: what it measures, what it advises, and what it leaves behind."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from golden.load import unpack

from savefmt.bench import bench, fio, scratch
from savefmt.bench.advise import advise
from savefmt.bench.baseline import compare_with, load_baseline
from savefmt.bench.patterns import data_length, file_length, pattern_blocks, set_run
from savefmt.bench.plot import draw
from savefmt.bench.scratch import nameless_file, require_space
from savefmt.bench.values import (
    BenchOptions,
    BenchReport,
    Measurement,
    Setting,
    Spread,
)
from savefmt.errors import FormatError, ImageIOError, OperationCancelled, UnsupportedError
from savefmt.image import SaveImage
from savefmt.model import PageRun

MIB = 1 << 20
SMALL = BenchOptions(length=4 * MIB, threads=(1, 2), windows=(MIB,), direct=(False,), repeat=1)


@pytest.fixture(autouse=True)
def no_fio(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave fio out, which takes its time to start."""
    monkeypatch.setattr("savefmt.bench.record.fio_version", lambda: None)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack("libvirt-sparse", tmp_path_factory.mktemp("image"))


def measured(
    work: str, mib: float, *, direct: bool = True, threads: int = 1, window: int = MIB
) -> Measurement:
    rate = Spread(mib * MIB, mib * MIB, mib * MIB)
    return Measurement(work, direct, threads, window, "psync", MIB, rate, 0.5)


# The values.


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"length": MIB - 1}, "1 MiB at least"),
        ({"threads": ()}, "nothing to measure"),
        ({"engines": ()}, "nothing to measure"),
        ({"repeat": 0}, "nothing to measure"),
        ({"engines": ("psync", "steam")}, "no engine 'steam'"),
    ],
)
def test_options_must_make_sense(change: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        replace(BenchOptions(), **change)  # type: ignore[arg-type]


def test_a_spread_is_slowest_middle_fastest() -> None:
    assert Spread.of([3, 1, 2, 9]) == Spread(1, 2.5, 9)


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
    with pytest.raises(ImageIOError, match="10 % of the disk stay free; --fill") as caught:
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
        assert scratch.cached_pages(fd) > 0


def test_an_empty_file_is_not_cached(tmp_path: Path) -> None:
    with nameless_file(tmp_path, 0) as fd:
        assert scratch.cached_pages(fd) == 0


# Measuring.


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


def test_every_engine_is_measured(tmp_path: Path) -> None:
    try:
        report = bench(tmp_path, replace(SMALL, engines=("psync", "io_uring"), threads=(1,)))
    except UnsupportedError as error:
        pytest.skip(error.message)

    assert [m.engine for m in report.measurements if m.work == "read"] == ["psync", "io_uring"]


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
    with pytest.raises(ImageIOError, match="a run takes"):
        bench(tmp_path, replace(SMALL, length=1 << 50))


def test_progress_reaches_its_end_and_cancels(tmp_path: Path) -> None:
    seen = []
    bench(tmp_path, SMALL, progress=lambda progress: seen.append(progress))
    assert seen[-1].done <= seen[-1].total

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


# fio.


def test_fio_gets_the_same_requests() -> None:
    words = fio._command(7, Setting("write", True, 3, 4 * MIB), MIB, 64 * MIB)

    assert {"--rw=write", f"--bs={4 * MIB}", "--direct=1", "--iodepth=3"} <= set(words)
    assert {"--ioengine=libaio", "--end_fsync=1", f"--offset={MIB}"} <= set(words)


def test_fio_gets_chunks_where_our_engine_makes_them() -> None:
    words = fio._command(7, Setting("read", True, 3, 4 * MIB, "io_uring"), 0, 64 * MIB)

    assert {f"--bs={MIB}", "--iodepth=12", "--ioengine=io_uring", "--readonly"} <= set(words)


def test_buffered_requests_at_once_need_threads() -> None:
    words = fio._command(7, Setting("read", False, 2, MIB), 0, 64 * MIB)

    assert {"--ioengine=psync", "--numjobs=2", f"--size={32 * MIB}"} <= set(words)


def test_fio_really_runs(tmp_path: Path) -> None:
    if fio.fio_version() is None:
        pytest.skip("fio is not installed")
    with nameless_file(tmp_path, 4 * MIB) as fd:
        assert fio.fio_rate(fd, Setting("write", False, 1, MIB), 0, 4 * MIB) > 0
        assert os.fstat(fd).st_blocks * 512 >= 4 * MIB


def test_fio_s_failure_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    fake = folder / "fio"
    fake.write_text("#!/bin/sh\necho 'fio: out of luck' >&2\nexit 1\n")
    fake.chmod(0o700)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setattr("savefmt.bench.record.fio_version", lambda: "fio-0")

    report = bench(tmp_path, SMALL)

    assert report.notes == ("fio failed: fio: out of luck",)
    assert all(m.fio_rate is None for m in report.measurements)


# Advice.


def test_the_least_effort_close_to_the_best_is_chosen() -> None:
    rates = [
        measured("write", 1000, threads=4),
        measured("write", 960, threads=2),
        measured("write", 900, threads=1),
        measured("write", 990, threads=1, direct=False),
        measured("stream", 500),
    ]

    advice = advise(rates, "/mnt", is_image=False)

    assert (advice.direct, advice.threads, advice.window) == (True, 2, MIB)
    assert "960 MiB/s, close to the best (1000 MiB/s with direct I/O, 4 threads" in advice.reason
    assert "pages are 1.92 times as fast" in advice.reason
    assert advice.commands == (
        "virsh save DOMAIN FILE --image-format sparse --parallel-channels 2 --bypass-cache",
        "savefmt convert SRC DST -O sparse -T 2 --direct --window 1M --engine psync",
    )


def test_a_stream_as_fast_is_said_to_be() -> None:
    advice = advise([measured("write", 500), measured("stream", 500)], "/mnt", is_image=False)

    assert "so raw saves as fast here" in advice.reason


def test_an_image_s_name_is_quoted_in_the_advice() -> None:
    advice = advise([measured("read", 500, direct=False)], "/mnt/my image", is_image=True)

    assert advice.commands[0] == "virsh restore '/mnt/my image' --parallel-channels 1"


# Baselines and plots.


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> BenchReport:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("savefmt.bench.record.fio_version", lambda: None)
        return bench(tmp_path_factory.mktemp("disk"), replace(SMALL, direct=(True, False)))


def test_a_baseline_is_an_earlier_report(report: BenchReport, tmp_path: Path) -> None:
    path = tmp_path / "before.json"
    path.write_text(json.dumps({"schema": 1, "bench": asdict(report)}))

    baseline = load_baseline(path)
    faster = replace(
        report.measurements[0], rate=Spread(0, 2 * report.measurements[0].rate.median, 0)
    )
    new = replace(faster, threads=64)

    assert [m.baseline_ratio for m in compare_with(baseline, [faster, new])] == [2, None]


@pytest.mark.parametrize("text", ["", "[]", '{"bench": {"measurements": [{"work": "read"}]}}'])
def test_other_files_are_no_baseline(tmp_path: Path, text: str) -> None:
    path = tmp_path / "before.json"
    path.write_text(text)

    with pytest.raises(FormatError, match="not what") as caught:
        load_baseline(path)
    assert caught.value.path == path


def test_a_missing_baseline_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(ImageIOError):
        load_baseline(tmp_path / "missing")


@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_plots(report: BenchReport, tmp_path: Path, suffix: str, magic: bytes) -> None:
    path = tmp_path / f"plot.{suffix}"
    ceiling = Spread(1e9, 1e9, 1e9)
    shown = replace(
        report, measurements=tuple(replace(m, fio_rate=ceiling) for m in report.measurements)
    )

    draw(shown, path)

    content = path.read_bytes()
    assert content.startswith(magic)
    if suffix == "svg":
        for label in (b"fio, best", b"1 MiB, direct", b"1 MiB, buffered", b"one stream, direct"):
            assert label in content


def test_a_plot_that_cannot_be_written(report: BenchReport, tmp_path: Path) -> None:
    with pytest.raises(ImageIOError):
        draw(report, tmp_path / "missing" / "plot.png")
