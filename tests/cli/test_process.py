"""The whole process: signals, pipes, start-up cost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from golden.load import unpack

SOURCES = Path(__file__).parents[2] / "src"

# A command line whose `probe` does what the test wants done.
STAGE = """
import os, sys, time
sys.path.insert(0, {sources!r})
import savefmt
from savefmt.cli.main import main

def probe(path, **options):
    {body}

vars(savefmt)["probe"] = probe
sys.exit(main(["info", "image"]))
"""
# Python handles a signal that comes just before a sleep begins only when the sleep ends.
WAIT = """
    try:
        print("ready", file=sys.stderr, flush=True)
        while True: time.sleep(0.1)
    finally:
        print("cleaned up", file=sys.stderr, flush=True)
"""


def stage(body: str) -> list[str]:
    """Return the command that runs `body` as the library's function."""
    return [sys.executable, "-c", STAGE.format(sources=str(SOURCES), body=body.strip())]


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
)
def test_signals_clean_up_first(number: signal.Signals, code: int) -> None:
    process = subprocess.Popen(
        stage(WAIT),
        stderr=subprocess.PIPE,
        text=True,
        # A runner in the background may have handed down an ignored signal.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "ready\n"
    began = time.monotonic()
    process.send_signal(number)
    _, rest = process.communicate(timeout=30)

    assert process.returncode == code
    assert rest.startswith("cleaned up\n")
    assert "Traceback" not in rest
    assert time.monotonic() - began < 5


DROPPED = """
    class Swallows:
        def __del__(self) -> None:
            os.kill(os.getpid(), {number})
            for _ in range(1000):
                pass

    number = Swallows()
    del number
    while True: time.sleep(0.1)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_a_finalizer_is_not_lost(number: signal.Signals, code: int) -> None:
    """Python drops what is raised there, and says so in a traceback."""
    process = subprocess.run(
        stage(DROPPED.replace("{number}", str(int(number)))),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        timeout=30,
        check=False,
    )

    assert process.returncode == code
    assert "Exception ignored" not in process.stderr


def test_other_errors_in_a_finalizer_are_shown() -> None:
    body = """
    class Fails:
        def __del__(self) -> None:
            raise ValueError("of our own")

    it = Fails()
    del it
    raise SystemExit(0)
    """
    process = subprocess.run(stage(body), stderr=subprocess.PIPE, text=True, check=False)

    assert process.returncode == 0
    assert "ValueError: of our own" in process.stderr


SLOW_CLEANUP = """
    try:
        print("ready", file=sys.stderr, flush=True)
        while True: time.sleep(0.1)
    finally:
        print("cleaning up", file=sys.stderr, flush=True)
        time.sleep(0.5)
        print("cleaned up", file=sys.stderr, flush=True)
"""


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_more_signals_do_not_cut_the_clean_up_short(first: signal.Signals) -> None:
    """Somebody leans on Ctrl-C, or a service manager follows it up."""
    process = subprocess.Popen(
        stage(SLOW_CLEANUP),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "ready\n"
    process.send_signal(first)
    assert process.stderr.readline() == "cleaning up\n"
    for number in [signal.SIGINT, signal.SIGTERM, signal.SIGINT, signal.SIGHUP]:
        process.send_signal(number)
        time.sleep(0.02)
    _, rest = process.communicate(timeout=30)

    assert process.returncode == (130 if first is signal.SIGINT else 143)
    assert rest.startswith("cleaned up\n")
    assert "Traceback" not in rest
    assert "Exception ignored" not in rest


def test_nohup_stays_nohup() -> None:
    script = stage("raise SystemExit(0 if signal.getsignal(1) is signal.SIG_IGN else 9)")
    script[2] = "import signal; signal.signal(1, signal.SIG_IGN)\n" + script[2]

    assert subprocess.run(script, check=False).returncode == 0


def test_a_closed_pipe_ends_quietly() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run(
        [sys.executable, "-m", "savefmt", "--help"],
        stdout=writer,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(SOURCES)},
        check=False,
    )
    os.close(writer)

    assert process.returncode == 141
    assert process.stderr == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_behind_stdout_is_told() -> None:
    with open("/dev/full", "w") as full:
        process = subprocess.run(
            [sys.executable, "-m", "savefmt", "--version"],
            stdout=full,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(SOURCES)},
            check=False,
            text=True,
        )

    assert process.returncode == 1
    assert process.stderr == "savefmt: standard output: No space left on device\n"


# Modules that take milliseconds to load.  A command that comes to need one of them loads it
# inside the function that does.
HEAVY = {
    *("asyncio", "dataclasses", "hashlib", "importlib.metadata", "inspect", "ipaddress"),
    *("logging", "numpy", "pathlib", "queue", "random", "rich", "shtab", "shutil", "socket"),
    *("subprocess", "tempfile", "textwrap", "traceback", "urllib.parse", "zlib"),
}
if sys.version_info >= (3, 15):  # its argparse, contextlib and concurrent.futures load these
    HEAVY -= {"dataclasses", "inspect", "pathlib"}
IMAGE_HEAVY = HEAVY | {"savefmt.reading.memory", "savefmt.reading.indexfile", "threading"}


def loaded_by(*words: str | Path) -> set[str]:
    """Run a command and return the names of all modules that it has loaded."""
    script = (
        "import sys; sys.path.insert(0, sys.argv.pop(1))\n"
        # In Python 3.14 the first option of any parser loads colours.
        "import argparse; argparse.ArgumentParser().add_argument('x', help='x')\n"
        "before = set(sys.modules)\n"
        "from savefmt.cli.main import main\n"
        "code = main()\n"
        "print(*set(sys.modules) - before, file=sys.stderr)\n"
        "sys.exit(code)"
    )
    result = subprocess.run(
        [sys.executable, "-I", "-c", script, str(SOURCES), *words],
        capture_output=True,
        check=True,
        text=True,
    )
    return set(result.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("name", ["libvirt-sparse", "libvirt-raw"])
@pytest.mark.parametrize("options", [[], ["--output=json"]], ids=["text", "json"])
def test_nothing_heavy_is_loaded_for_info(options: list[str], name: str, tmp_path: Path) -> None:
    loaded = loaded_by("info", *options, unpack(name, tmp_path))

    assert "savefmt.image" in loaded
    assert loaded & IMAGE_HEAVY == set()


@pytest.mark.parametrize(("name", "form"), [("libvirt-sparse", "raw"), ("libvirt-raw", "sparse")])
def test_nothing_heavy_is_loaded_to_convert(name: str, form: str, tmp_path: Path) -> None:
    loaded = loaded_by("convert", unpack(name, tmp_path), tmp_path / "out", "-O", form)

    of_others = {"ctypes", "savefmt.codec.registry", "savefmt.compat.releases"}
    assert "savefmt.convert.conversion" in loaded
    assert loaded & (HEAVY | of_others) == set()


@pytest.mark.parametrize("words", [["strings"], ["stats"], ["search", "SAFE", "-c"]])
def test_nothing_heavy_is_loaded_to_look_through_memory(words: list[str], tmp_path: Path) -> None:
    loaded = loaded_by(words[0], unpack("libvirt-sparse", tmp_path), *words[1:])

    of_a_pool = {"queue", "logging", "textwrap", "traceback"}
    of_others = {"savefmt.guest.arch", "savefmt.codec.registry"}
    assert "savefmt.scan.windows" in loaded
    assert loaded & (HEAVY - of_a_pool | of_others) == set()


def test_nothing_heavy_is_loaded_for_an_xml(tmp_path: Path) -> None:
    loaded = loaded_by("xml", "dump", unpack("libvirt-sparse", tmp_path))

    assert "savefmt.edit" in loaded
    assert loaded & (HEAVY | {"savefmt.convert.conversion", "savefmt.reading.memory"}) == set()


def test_the_list_of_commands_needs_nothing_heavy() -> None:
    loaded = loaded_by("--help")

    assert "savefmt.cli.commands.bench" in loaded
    assert loaded & (HEAVY - {"shutil", "textwrap", "zlib"} | {"savefmt.image", "json"}) == set()


def test_no_command_is_loaded_for_the_version() -> None:
    loaded = loaded_by("--version")

    assert loaded & (HEAVY | {"savefmt.cli.commands.info", "savefmt.image", "json"}) == set()


def test_importing_the_package_loads_nothing_of_it() -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import savefmt\n"
        "print(*(name for name in sys.modules if name.startswith('savefmt.')))"
    )
    result = subprocess.run(
        [sys.executable, "-I", "-c", script, str(SOURCES)],
        capture_output=True,
        check=True,
        text=True,
    )

    assert result.stdout.split() == []
