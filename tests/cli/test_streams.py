"""Standard input, output and error: not ready, full, closed, or not there at all."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from golden.load import unpack

COMMAND = [sys.executable, "-m", "savefmt"]
# Digits in a pipe are too many for its default length.
HASH = ["hash", "--pages", "-a", "sha512"]
# Closes descriptors before Python looks at them.
WITHOUT = """
import os, sys
for fd in map(int, sys.argv[1].split(",")):
    os.close(fd)
os.execv(sys.executable, [sys.executable, "-m", "savefmt", *sys.argv[2:]])
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack("q35-smp-mapped", tmp_path_factory.mktemp("image"))


def run(*words: str | Path, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*COMMAND, *words], check=False, timeout=60, **options)


def without(fds: str, *words: str | Path) -> subprocess.CompletedProcess[bytes]:
    """Run with some of the standard descriptors closed."""
    command = [sys.executable, "-c", WITHOUT, fds, *map(str, words)]
    return subprocess.run(command, check=False, capture_output=True, timeout=60)


@contextmanager
def nonblocking_pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    for fd in (reader, writer):
        os.set_blocking(fd, False)
    try:
        yield reader, writer
    finally:
        for fd in (reader, writer):
            with suppress(OSError):
                os.close(fd)


def read_slowly(fd: int) -> bytes:
    """Take everything, with rests that let the pipe run full."""
    os.set_blocking(fd, True)
    taken = bytearray()
    while data := os.read(fd, 1 << 15):
        taken += data
        if len(taken) < 1 << 19:
            time.sleep(0.01)
    return bytes(taken)


@pytest.mark.parametrize("words", [HASH, ["convert", "-O", "raw"]], ids=["text", "image"])
def test_a_slow_reader_of_a_nonblocking_pipe_gets_all(words: list[str], image: Path) -> None:
    words = [*words, str(image), *(["-"] if words[0] == "convert" else [])]
    expected = run(*words, stdout=subprocess.PIPE).stdout
    assert len(expected) > 1 << 17

    # The reader's end is another open file, so it may block.
    with nonblocking_pipe() as (reader, writer):
        process = subprocess.Popen([*COMMAND, *words], stdout=writer, stderr=subprocess.PIPE)
        os.close(writer)
        taken = read_slowly(reader)
        _, complaint = process.communicate(timeout=60)

    assert (process.returncode, complaint) == (0, b"")
    assert taken == expected


def test_complaints_wait_for_a_nonblocking_pipe() -> None:
    names = [f"/nowhere/{'x' * 200}{number}" for number in range(1000)]
    with nonblocking_pipe() as (reader, writer):
        process = subprocess.Popen([*COMMAND, "info", *names], stderr=writer)
        os.close(writer)
        taken = read_slowly(reader)

    assert process.wait(60) == 1
    assert taken.count(b"No such file or directory\n") == len(names)


def test_an_image_that_comes_slowly_through_a_nonblocking_pipe(image: Path, tmp_path: Path) -> None:
    stream = run("convert", image, "-", "-O", "raw", stdout=subprocess.PIPE).stdout
    target = tmp_path / "target"
    with nonblocking_pipe() as (reader, writer):
        words: list[str | Path] = [*COMMAND, "convert", "-", target, "-O", "raw"]
        process = subprocess.Popen(words, stdin=reader, stderr=subprocess.PIPE)
        os.set_blocking(writer, True)
        for at in range(0, len(stream), 1 << 18):
            time.sleep(0.02)
            with memoryview(stream)[at : at + (1 << 18)] as piece:
                done = 0
                while done < len(piece):
                    done += os.write(writer, piece[done:])
        os.close(writer)
        _, complaint = process.communicate(timeout=60)

    assert (process.returncode, complaint) == (0, b"")
    assert target.read_bytes() == stream


def test_a_document_that_comes_late_through_a_nonblocking_pipe(tmp_path: Path) -> None:
    image = unpack("libvirt-sparse", tmp_path)
    xml = run("xml", "dump", image, stdout=subprocess.PIPE).stdout
    with nonblocking_pipe() as (reader, writer):
        words: list[str | Path] = [*COMMAND, "xml", "set", image, "-"]
        process = subprocess.Popen(words, stdin=reader, stdout=subprocess.PIPE)
        time.sleep(0.5)
        os.write(writer, xml)
        os.close(writer)
        out, _ = process.communicate(timeout=60)

    assert process.returncode == 0
    assert out.endswith(b": not changed\n")


needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")


@needs_full
@pytest.mark.parametrize(
    ("words", "code"),
    [
        *((words, 1) for words in (HASH, [*HASH, "-j"], ["map"], ["strings"], ["info"])),
        *((words, 1) for words in (["info", "-j"], ["convert", "IMAGE", "-", "-O", "raw"])),
        # Of these 1 would be an answer.
        *((words, 2) for words in (["compare", "IMAGE"], ["search", "IMAGE", "--hex", "00"])),
    ],
)
def test_a_full_disk_is_not_the_fault_of_the_image(
    words: list[str], code: int, image: Path
) -> None:
    words = [str(image) if word == "IMAGE" else word for word in words]
    words += [str(image)] * (words[0] not in ("convert", "search"))
    with open("/dev/full", "w") as full:
        done = run(*words, stdout=full, stderr=subprocess.PIPE)

    lines = done.stderr.decode().splitlines()
    assert done.returncode == code
    assert [line.split(" (at")[0] for line in lines] == [
        "savefmt: standard output: No space left on device"
    ]


@needs_full
def test_nowhere_to_complain_is_no_reason_to_fail(image: Path) -> None:
    with open("/dev/full", "w") as full:
        done = run("info", "/nowhere", image, stdout=subprocess.PIPE, stderr=full)

    assert done.returncode == 1
    assert b"layout:" in done.stdout


@pytest.mark.parametrize("words", [["--help"], HASH, ["convert", "-O", "raw"]], ids=" ".join)
def test_a_reader_that_goes_ends_the_work_quietly(words: list[str], image: Path) -> None:
    words = [*words, str(image), *(["-"] if words[0] == "convert" else [])]
    reader, writer = os.pipe()
    os.close(reader)
    done = run(*words, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)

    assert (done.returncode, done.stderr) == (141, b"")


def test_results_for_a_closed_standard_output_are_told_as_lost(image: Path) -> None:
    done = without("1", "info", image)

    assert done.returncode == 1
    assert done.stderr == b"savefmt: standard output: Bad file descriptor\n"


@pytest.mark.parametrize("fds", ["0", "1", "2", "0,1,2"])
def test_a_file_never_becomes_a_standard_stream(fds: str, image: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    expected = tmp_path / "expected"
    assert run("-q", "convert", image, expected, "-O", "zstd").returncode == 0

    done = without(fds, "-q", "convert", image, target, "-O", "zstd")

    assert done.returncode == 0
    assert target.read_bytes() == expected.read_bytes()


def test_a_compressor_that_fails_in_silence_is_told(image: Path, tmp_path: Path) -> None:
    """Its broken pipe is not that of standard output."""
    (tmp_path / "lzop").write_text("#!/bin/sh\nexit 7\n")
    (tmp_path / "lzop").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    target = tmp_path / "target"

    done = run("convert", image, target, "-O", "lzop", env=environment, capture_output=True)

    assert done.returncode == 1
    assert b"lzop ended with status 7" in done.stderr
    assert not target.exists()


def test_names_that_no_encoding_has_are_escaped(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    name = tmp_path / "g\u00e4st"
    unpack("q35-smp-mapped", tmp_path).rename(name)

    done = run("info", name, env=environment, capture_output=True)

    assert (done.returncode, done.stderr) == (0, b"")
    assert b"g\\xe4st" in done.stdout


def test_ctrl_c_at_any_time_prints_no_traceback(image: Path) -> None:
    chance = random.Random(23)
    ends = set()
    for _ in range(25):
        process = subprocess.Popen(
            [*COMMAND, "check", "--full", image],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        wait_until_ours(process)
        time.sleep(chance.uniform(0, 0.15))
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=30)
        ends.add(process.returncode)
        assert b"Traceback" not in complaint, complaint
    assert ends <= {0, 130, -signal.SIGINT}


def wait_until_ours(process: subprocess.Popen[bytes]) -> None:
    """Return when the process has put Python's own answer to Ctrl-C away.

    Before that Python loads itself, and what it says then is not ours to choose.
    """
    bit = 1 << (signal.SIGINT - 1)
    seen = False
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        caught = int(status.split("SigCgt:")[1].split()[0], 16) & bit
        if seen and not caught:
            return
        seen = seen or bool(caught)
