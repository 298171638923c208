"""``savefmt fleet`` on a real scheduler with three workers, on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from builder import make_stream, page
from cli.fakes import Run

COUNT = 40


class Cluster:
    """A scheduler and its workers."""

    def __init__(self, address: str, workers: list[subprocess.Popen[bytes]]) -> None:
        self.address = address
        self.workers = workers


def started(stack: ExitStack, folder: Path, *words: str) -> subprocess.Popen[bytes]:
    """Start a program of dask's, to be ended with the stack."""
    command = [sys.executable, "-m", "distributed.cli." + words[0], *words[1:]]
    with (folder / "dask.log").open("ab") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=folder, start_new_session=True
        )

    def end() -> None:
        process.kill()
        process.wait()

    stack.callback(end)
    return process


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A scheduler and three workers, each one process with one thread."""
    place = tmp_path / "scheduler.json"
    with ExitStack() as stack:
        here = ("--host", "127.0.0.1", "--no-dashboard")
        options = (*here, "--port", "0", "--scheduler-file", str(place))
        started(stack, tmp_path, "dask_scheduler", *options)
        deadline = time.monotonic() + 60
        while not place.exists() or not place.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        address = json.loads(place.read_text())["address"]
        words = ("dask_worker", address, *here, "--nthreads", "1", "--no-nanny")
        workers = [started(stack, tmp_path, *words) for _ in range(3)]
        yield Cluster(address, workers)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Many images, a damaged one, and a file that is none."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(COUNT):
        data = make_stream(layout="sequential", blocks={"pc.ram": page(number) * 1024})
        (folder / f"{number:02}.save").write_bytes(data)
    (folder / "poison.save").write_bytes(data[:5000])
    (folder / "notes.txt").write_text("no image")
    return folder


def told(text: str) -> dict[str, list[object]]:
    """Return what is told of each image, without what a run has of its own."""
    lines = [json.loads(line) for line in text.splitlines()]
    names = ("verdict", "reasons", "machine", "identity", "result")
    found = {os.path.basename(line["path"]): [line[name] for name in names] for line in lines}
    assert len(found) == len(lines)
    return found


def test_results_are_those_of_one_host_though_a_worker_dies(
    cluster: Cluster, images: Path, tmp_path: Path, run: Run
) -> None:
    alone = told(run("fleet", "hash", str(images), "--output=jsonl").out)
    journal = tmp_path / "run.jsonl"
    command = [sys.executable, "-m", "savefmt", "fleet", "hash", str(images), "-o", str(journal)]
    command += ["--scheduler", cluster.address, "--retries=3"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not journal.exists() or journal.read_bytes().count(b"\n") < 3:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
        cluster.workers[0].send_signal(signal.SIGKILL)
        _, err = process.communicate(timeout=180)

    assert process.returncode == 2, err
    assert len(alone) == COUNT + 1
    assert told(journal.read_text()) == alone


def test_no_scheduler(run: Run) -> None:
    outcome = run("fleet", "check", "x", "--scheduler", "nonsense://127.0.0.1:1")

    assert outcome.code == 1
    assert "the scheduler does not answer" in outcome.err
