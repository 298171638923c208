"""The real command in a process of its own: signals, full disks, bounded memory."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from golden.load import unpack
from images import make_mapped
from scanning import HAS_RE2

MIB = 1 << 20
COMMAND = [sys.executable, "-m", "savefmt"]
BOUND_KIB = 200 << 10
STARTER = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack("q35-smp-mapped", tmp_path_factory.mktemp("template"))


@pytest.fixture(scope="module")
def medium(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A guest whose compression with xz takes far longer than any test waits."""
    path = tmp_path_factory.mktemp("medium") / "guest.sparse"
    make_mapped(template, path, ram=256 * MIB, data=128 * MIB)
    return path


@pytest.fixture(scope="module")
def huge(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A guest of 64 GiB with hardly anything in it."""
    path = tmp_path_factory.mktemp("huge") / "guest.sparse"
    make_mapped(template, path, ram=64 << 30, data=16 * MIB)
    return path


def run(*words: str | Path) -> tuple[int, str, int]:
    """Return exit code, standard error and peak memory in KiB of a command.

    A process in between starts it: a child's peak begins with what its parent holds,
    and the test runner may hold a lot.
    """
    done = subprocess.run(
        [sys.executable, "-c", STARTER, *COMMAND, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )
    code, peak = map(int, done.stdout.split())
    return code, done.stderr, peak


def heed_interrupts() -> None:
    """Undo what a runner in the background may have handed down."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def growing(process: subprocess.Popen[Any], folder: Path) -> list[str]:
    """Return what a process writes in a folder, by its descriptors: it has no name yet."""
    found = []
    with suppress(FileNotFoundError):
        for entry in Path(f"/proc/{process.pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                link = os.readlink(entry)
                if link.startswith(f"{folder}/") and (" (deleted)" in link or ".savefmt-" in link):
                    found.append(os.fspath(entry))
    return found


def begin(source: Path, target: Path) -> subprocess.Popen[bytes]:
    """Start a long conversion and wait until it writes."""
    process = subprocess.Popen(
        [*COMMAND, "-q", "convert", source, target, "-O", "xz"],
        stderr=subprocess.PIPE,
        preexec_fn=heed_interrupts,
    )
    deadline = time.monotonic() + 30
    while not growing(process, target.parent):
        assert process.poll() is None, "the conversion ended before it was disturbed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.2)
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_nothing(
    number: signal.Signals, code: int, medium: Path, tmp_path: Path
) -> None:
    with begin(medium, tmp_path / "target") as process:
        process.send_signal(number)
        assert process.wait(timeout=20) == code

    assert list(tmp_path.iterdir()) == []


def test_kill_leaves_nothing(medium: Path, tmp_path: Path) -> None:
    with begin(medium, tmp_path / "target") as process:
        (partial, *_) = growing(process, tmp_path)
        assert os.stat(partial).st_mode & 0o777 == 0o600
        process.kill()

    assert list(tmp_path.iterdir()) == []


def limited(length: int) -> Callable[[], None]:
    """Forbid a child to write files beyond `length`: a disk that fills up."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (length, length))

    return limit


@pytest.mark.parametrize(
    "options",
    [
        *(("convert", "-O", form) for form in ("raw", "sparse", "zstd", "gzip", "lzop")),
        *(("export", "-f", form) for form in ("elf", "raw", "lime", "blocks")),
    ],
    ids=" ".join,
)
def test_a_file_that_cannot_grow(options: tuple[str, ...], medium: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"

    done = subprocess.run(
        [*COMMAND, *options, medium, target],
        preexec_fn=limited(20 * MIB),
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "target" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system")
def test_a_full_disk_is_one_sentence(medium: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "none", small], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip("this machine lets nobody mount a tmpfs")
    try:
        for form in ("sparse", "zstd", "raw"):
            code, talk, _ = run("convert", medium, small / "target", "-O", form)

            assert code == 1
            assert "free some space" in talk
            assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", small], check=True)


def test_memory_does_not_grow_with_the_guest(huge: Path, tmp_path: Path) -> None:
    raw, packed = tmp_path / "raw", tmp_path / "packed"
    steps: list[list[str | Path]] = [
        ["convert", huge, raw, "-O", "raw"],
        ["convert", raw, tmp_path / "sparse", "-O", "sparse"],
        ["convert", huge, packed, "-O", "zstd"],
        ["convert", packed, tmp_path / "again", "-O", "sparse"],
        ["convert", raw, tmp_path / "gzip", "-O", "gzip"],
        ["check", "--full", huge],
        ["check", "--full", tmp_path / "sparse"],
        ["compare", raw, tmp_path / "again"],
        ["read", raw, "--block", "pc.ram", "63G", "16", "--index", tmp_path / "index"],
        ["read", raw, "--block", "pc.ram", "1M", "16", "--index", tmp_path / "index"],
        ["read", packed, "--block", "pc.ram", "63G", "16"],
        ["read", tmp_path / "gzip", "--block", "pc.ram", "1M", "16"],
        ["export", huge, tmp_path / "huge.elf"],
        ["export", raw, tmp_path / "raw.memory", "-f", "raw"],
        ["export", packed, tmp_path / "packed.elf"],
    ]
    for step in steps:
        code, talk, peak = run(*step)
        assert code == 0, talk
        assert peak < BOUND_KIB, step

    assert (tmp_path / "sparse").stat().st_blocks * 512 < 64 * MIB
    assert (tmp_path / "again").stat().st_blocks * 512 < 64 * MIB
    assert (tmp_path / "index").stat().st_size < 16 << 10
    assert (tmp_path / "packed.elf").stat().st_blocks * 512 < 64 * MIB


def test_going_through_memory_does_not_grow_with_the_guest(huge: Path, tmp_path: Path) -> None:
    raw, packed = tmp_path / "raw", tmp_path / "packed"
    run("convert", huge, raw, "-O", "raw")
    run("convert", huge, packed, "-O", "zstd")
    steps: list[list[str | Path]] = [
        ["search", huge, "SAFE", "inode", "--context=4096"],
        ["search", packed, "SAFE"],
        ["strings", raw],
        ["stats", huge],
        ["map", huge, "--png", tmp_path / "picture"],
        ["hash", huge, "--pages", "--block=pc.bios"],
    ]
    if HAS_RE2:
        steps.append(["search", raw, "--regex", "S[A-Z]FE"])
    for step in steps:
        code, talk, peak = run(*step)
        assert code == 0, (step, talk)
        assert peak < BOUND_KIB, step


def test_a_changed_source_is_refused(medium: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    make = subprocess.run(["cp", "--sparse=always", medium, source], check=True)
    assert make.returncode == 0
    with subprocess.Popen(
        [*COMMAND, "convert", source, tmp_path / "target", "-O", "xz"],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while not growing(process, tmp_path):
            time.sleep(0.02)
        os.truncate(source, 1 * MIB)
        _, talk = process.communicate(timeout=120)

    assert process.returncode == 1
    assert len(talk.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
