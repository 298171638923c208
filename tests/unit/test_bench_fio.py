"""fio beside `savefmt.bench`: what it is asked, and what becomes of its answers."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from savefmt.bench import bench, fio, fio_job
from savefmt.bench.scratch import nameless_file
from savefmt.bench.values import BenchOptions, BenchSetting, Latency
from savefmt.errors import ImageIOError, UnsupportedError

MIB = 1 << 20
SMALL = BenchOptions(length=4 * MIB, threads=(1, 2), windows=(MIB,), direct=(False,), repeat=1)


def test_fio_gets_the_same_requests() -> None:
    words = fio._command([7], BenchSetting("write", True, 3, 4 * MIB), MIB, 64 * MIB)

    assert {"--rw=write", f"--bs={4 * MIB}", "--direct=1", "--iodepth=3"} <= set(words)
    assert {"--ioengine=libaio", "--end_fsync=1", f"--offset={MIB}"} <= set(words)


def test_fio_gets_chunks_where_our_engine_makes_them() -> None:
    words = fio._command([7], BenchSetting("read", True, 3, 4 * MIB, "io_uring"), 0, 64 * MIB)

    assert {f"--bs={MIB}", "--iodepth=12", "--ioengine=io_uring", "--readonly"} <= set(words)


def test_buffered_requests_at_once_need_threads() -> None:
    words = fio._command([7], BenchSetting("read", False, 2, MIB), 0, 64 * MIB)

    assert {"--ioengine=psync", "--numjobs=2", f"--size={32 * MIB}"} <= set(words)


def test_fio_really_runs(tmp_path: Path) -> None:
    if fio.fio_version() is None:
        pytest.skip("fio is not installed")
    with nameless_file(tmp_path, 4 * MIB) as fd:
        assert fio.run_fio([fd], BenchSetting("write", False, 1, MIB), 0, 4 * MIB).rate > 0
        assert os.fstat(fd).st_blocks * 512 >= 4 * MIB


def test_fio_writes_several_files_at_once(tmp_path: Path) -> None:
    if fio.fio_version() is None:
        pytest.skip("fio is not installed")
    setting = BenchSetting("write", False, 2, 64 << 10, jobs=2)
    with nameless_file(tmp_path, MIB) as one, nameless_file(tmp_path, MIB) as other:
        result = fio.run_fio([one, other], setting, 0, MIB)
        assert all(os.fstat(fd).st_blocks * 512 >= MIB for fd in (one, other))
    assert result.latency is not None
    assert 0 < result.latency.p50 <= result.latency.p99 <= 1.1 * result.latency.maximum


def test_fio_s_latencies_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = '{"50.000000": 1000, "99.000000": 2000}'
    figures = f'{{"bw_bytes": 5, "clat_ns": {{"max": 3000, "percentile": {shares}}}}}'
    imitate_fio(tmp_path, monkeypatch, f"""echo '{{"jobs": [{{"write": {figures}}}]}}'""")

    with nameless_file(tmp_path, MIB) as fd:
        result = fio.run_fio([fd], BenchSetting("write", False, 1, MIB), 0, MIB)

    assert result.latency == Latency(1e-6, 2e-6, 3e-6)


def test_a_job_file_does_the_same(tmp_path: Path) -> None:
    settings = [
        (BenchSetting("write", True, 4, MIB, jobs=2), 0, 8 * MIB),
        (BenchSetting("read", False, 2, 4096), 0, 8 * MIB),
    ]

    lines = fio.job_file(str(tmp_path), settings).splitlines()

    assert f"directory={tmp_path}" in lines
    assert [line for line in lines if line.startswith("[")] == [
        "[global]",
        "[write-direct-psync-T4-1024K-0-0]",
        "[write-direct-psync-T4-1024K-0-1]",
        "[read-buffered-psync-T2-4K-1-0]",
    ]
    assert lines.count("stonewall") == 2
    first = lines[lines.index("[write-direct-psync-T4-1024K-0-0]") :]
    asked = {word.removeprefix("--") for word in fio._command([], *settings[0])}
    wanted = {"rw=write", f"bs={MIB}", "iodepth=4", "direct=1", f"size={8 * MIB}", "end_fsync=1"}
    assert wanted <= set(first[: first.index("")])
    assert wanted <= asked


def test_fio_runs_the_job_file(tmp_path: Path) -> None:
    if fio.fio_version() is None:
        pytest.skip("fio is not installed")
    folder = tmp_path / "a: disk"
    folder.mkdir()
    options = BenchOptions(length=MIB, threads=(1,), windows=(MIB,), direct=(False,), jobs=2)
    job = tmp_path / "job.fio"
    job.write_text(fio_job(folder, options))

    done = subprocess.run(
        ["fio", "--output-format=json", job], capture_output=True, check=True, cwd=tmp_path
    )

    jobs = json.loads(done.stdout)["jobs"]
    assert [entry["write"]["io_bytes"] for entry in jobs] == [2 * MIB, 0]
    assert [entry["read"]["io_bytes"] for entry in jobs] == [0, 2 * MIB]
    assert {path.name for path in folder.iterdir()} == {"savefmt-fio-0", "savefmt-fio-1"}


@pytest.mark.parametrize("name", ["a\nrw=write", "$HOME", "a;b", " ", "a`b`", 'a"b'])
def test_a_job_file_names_no_path_that_fio_would_change(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnsupportedError, match="fio job cannot name"):
        fio.job_file(str(tmp_path / name), [])


def test_fio_s_failure_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imitate_fio(tmp_path, monkeypatch, "echo 'fio: out of luck' >&2; exit 1")
    monkeypatch.setattr("savefmt.bench.record.fio_version", lambda: "fio-0")

    report = bench(tmp_path, SMALL)

    assert report.notes[-1] == "fio failed: fio: out of luck"
    assert all(m.fio_rate is None for m in report.measurements)


@pytest.mark.parametrize(
    "says",
    [
        "echo '[]'",
        "echo '{}'",
        """echo '{"jobs": [{"write": {"bw_bytes": "fast"}}]}'""",
        """echo '{"jobs": [{"write": {"bw_bytes": -1}}]}'""",
        """echo '{"jobs": [{"write": {"bw_bytes": 1e999}}]}'""",
        "head -c 100000 /dev/zero | tr '\\0' '['",
        "printf '\\377\\376'",
        "exit 1",
        "kill -9 $$",
    ],
)
def test_what_fio_says_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str
) -> None:
    imitate_fio(tmp_path, monkeypatch, says)

    with nameless_file(tmp_path, MIB) as fd, pytest.raises(ImageIOError, match="fio failed: no"):
        fio.run_fio([fd], BenchSetting("write", False, 1, MIB), 0, MIB)


def test_fio_may_talk_before_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = '{"jobs": [{"write": {"bw_bytes": 5}}]}'
    imitate_fio(tmp_path, monkeypatch, f"echo note: hello; echo '{report}'")

    with nameless_file(tmp_path, MIB) as fd:
        assert fio.run_fio([fd], BenchSetting("write", False, 1, MIB), 0, MIB) == fio.FioResult(5)


@pytest.mark.parametrize("script", ["#!/nonexistent\n", "\0", "#!/bin/sh\nprintf '\\377 x'\n"])
def test_a_fio_that_does_not_start_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    fake = imitate_fio(tmp_path, monkeypatch, "")
    fake.write_text(script)
    monkeypatch.setenv("PATH", str(fake.parent))

    assert fio.fio_version() is None


def test_what_fio_could_not_write_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rate = '{"jobs": [{"read": {"bw_bytes": 1}}]}'
    imitate_fio(tmp_path, monkeypatch, f"case $* in *--rw=write*) exit 1;; esac; echo '{rate}'")
    monkeypatch.setattr("savefmt.bench.record.fio_version", lambda: "fio-0")
    seen = []

    report = bench(tmp_path, SMALL, progress=lambda progress: seen.append(progress))

    assert all(m.fio_rate is None for m in report.measurements)
    assert seen[-1].done == seen[-1].total


def test_a_small_run_is_small_for_fio_too(tmp_path: Path) -> None:
    if fio.fio_version() is None:
        pytest.skip("fio is not installed")
    with nameless_file(tmp_path, MIB) as fd:
        for direct in (False, True):
            assert fio.run_fio([fd], BenchSetting("write", direct, 8, 64 * MIB), 0, MIB).rate > 0
        assert os.fstat(fd).st_size == MIB


@pytest.mark.parametrize("direct", ["on", "off"])
def test_fio_dies_with_us(tmp_path: Path, direct: str) -> None:
    if fio.fio_version() is None:
        pytest.skip("fio is not installed")
    words = ["--size", "64M", "--repeat", "1000", "--direct", direct, "-T", "2", "--window", "1M"]
    child = subprocess.Popen([sys.executable, "-m", "savefmt", "bench", str(tmp_path), *words])
    try:
        family = wait_for_fio(child)
    finally:
        child.kill()
        child.wait()

    deadline = time.monotonic() + 10
    while any(map(runs, family)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert list(tmp_path.iterdir()) == []


def wait_for_fio(child: subprocess.Popen[bytes]) -> list[int]:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = children(child.pid)
        if any(b"--rw=" in command_line(pid) for pid in found):
            return [*found, *itertools.chain.from_iterable(map(children, found))]
        assert child.poll() is None
    raise AssertionError("fio did not start")


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def runs(pid: int) -> bool:
    return command_line(pid) != b""  # a zombie has none


def imitate_fio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    fake = folder / "fio"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o700)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return fake
