"""``savefmt fleet`` on a real scheduler with three workers, on loopback."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from builder import all_records, make_envelope, make_stream, page
from cli.fakes import Run
from documents import valid

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COUNT = 80
HOSTS = ("one", "two", "three")

# A worker on a host of its own: name, address, and what lies in its /srv.
AS_A_HOST = 'hostname "$1" && mount --bind "$2" "$3" && shift 3 && exec "$@"'


def lack() -> str:
    """Say why no process can be on a host of its own here, or nothing."""
    words = ["unshare", "--uts", "--mount", "hostname", "try"]
    if shutil.which("unshare") is None:
        return "no unshare"
    done = subprocess.run(words, capture_output=True, check=False)
    return "only root may make hosts of its own" if done.returncode else ""


apart = pytest.mark.skipif(bool(lack()), reason=lack())


class Cluster:
    """A scheduler and three workers, each one process with one thread, and a host if may be.

    Attributes
    ----------
    folders : list of Path
        What each worker sees as `saves`.
    """

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._stack = stack
        self._folder = folder
        self.saves = folder / "saves"
        self.saves.mkdir()
        self.folders = [folder / name for name in HOSTS]
        for path in self.folders:
            path.mkdir()
        place = folder / "scheduler.json"
        self._start("dask_scheduler", "127.0.0.1", "--port=0", f"--scheduler-file={place}")
        wait_until(lambda: place.exists() and place.read_text())
        self.address: str = json.loads(place.read_text())["address"]
        self.workers: list[subprocess.Popen[bytes] | None] = [None] * 3
        self._started = 0
        self.revive()

    def revive(self) -> None:
        """Start what is missing of the workers, and wait until the scheduler has them."""
        logs = []
        for number, worker in enumerate(self.workers):
            if worker is None or worker.poll() is not None:
                self._started += 1
                logs.append(self._folder / f"worker-{self._started}.log")
                self.workers[number] = self._worker(number, logs[-1])
        wait_until(lambda: all("Registered to" in log.read_text() for log in logs))

    def kill(self, number: int) -> None:
        """Kill a worker."""
        worker = self.workers[number]
        assert worker is not None
        worker.send_signal(signal.SIGKILL)
        worker.wait()

    def _worker(self, number: int, log: Path) -> subprocess.Popen[bytes]:
        words = (self.address, "--nthreads=1", "--no-nanny")
        if lack():
            return self._start("dask_worker", "127.0.0.1", *words, log=log)
        name, own = HOSTS[number], str(self.folders[number])
        host = ["unshare", "--uts", "--mount", "sh", "-c", AS_A_HOST, "sh", name, own]
        host.append(str(self.saves))
        return self._start("dask_worker", f"127.0.0.{number + 2}", *words, log=log, host=host)

    def _start(
        self, program: str, address: str, *words: str, log: Path | None = None, host: Any = ()
    ) -> subprocess.Popen[bytes]:
        """Start a program of dask's, to be ended with the stack."""
        command = [sys.executable, "-m", f"distributed.cli.{program}", *words]
        command += ["--host", address, "--no-dashboard"]
        with (log or self._folder / "scheduler.log").open("wb") as out:
            process = subprocess.Popen(
                [*host, *command], stdout=out, stderr=out, cwd=self._folder, start_new_session=True
            )

        def end() -> None:
            process.kill()
            process.wait()

        self._stack.callback(end)
        return process


def wait_until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 90
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster that all tests share."""
    with ExitStack() as stack:
        yield Cluster(stack, tmp_path_factory.mktemp("cluster"))


@pytest.fixture
def cluster(started: Cluster) -> Cluster:
    """The same, with all of its workers."""
    started.revive()
    return started


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Many images, a damaged one, and a file that is none."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(COUNT):
        path = folder / f"{number:02}.save"
        if number < 4:
            data = make_stream(layout="sequential", blocks={"pc.ram": page(number) * 1024})
            path.write_bytes(data)
        else:
            path.hardlink_to(folder / f"{number % 4:02}.save")
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


class ClusterRun(subprocess.Popen[str]):
    """A run on a cluster, as a program of its own."""

    def __init__(self, cluster: Cluster, journal: Path, how: str, *words: str) -> None:
        command = [sys.executable, "-m", "savefmt", "fleet", *words]
        command += [how, str(journal), "--scheduler", cluster.address]
        super().__init__(command, stderr=subprocess.PIPE, text=True)
        self._journal = journal

    def wait_for_lines(self, count: int) -> None:
        """Return when the journal has that many; there is much more to come."""
        wait_until(lambda: self._journal.exists() and lines_of(self._journal) >= count)


def lines_of(journal: Path) -> int:
    return journal.read_bytes().count(b"\n")


def test_results_are_those_of_one_host_though_a_worker_dies(
    cluster: Cluster, images: Path, tmp_path: Path, run: Run
) -> None:
    alone = told(run("fleet", "hash", str(images), "--output=jsonl").out)
    journal = tmp_path / "run.jsonl"
    with ClusterRun(cluster, journal, "-o", "hash", str(images), "--retries=3") as process:
        process.wait_for_lines(1)
        cluster.kill(0)
        _, err = process.communicate(timeout=180)

    assert process.returncode == 2, err
    assert len(alone) == COUNT + 1
    assert told(journal.read_text()) == alone


def endless(path: Path) -> None:
    """Write an image that is small, and whose memory is sent for much longer than one waits."""
    blocks = {"pc.ram": page(1) * 4096}
    one, two = (make_stream(blocks=blocks, rounds=[all_records(blocks)] * n) for n in (1, 2))
    head = next(at for at, (a, b) in enumerate(zip(one, two, strict=False)) if a != b)
    rounds = zstd.compress(two[head : head + len(two) - len(one)]) * 2000
    packed = zstd.compress(one[:head]) + rounds + zstd.compress(one[head:])
    path.write_bytes(make_envelope(format=5) + packed)


def test_what_takes_too_long_or_is_poison_costs_itself_alone(
    cluster: Cluster, images: Path, tmp_path: Path, run: Run
) -> None:
    endless(images / "endless.save")
    journal = tmp_path / "run.jsonl"
    words = ("check", str(images), "--full", "--time-limit=3", "--retries=0", "-o", str(journal))
    outcome = run("fleet", *words, "--scheduler", cluster.address)
    found = told(journal.read_text())

    assert outcome.code == 1
    assert len(found) == COUNT + 2
    assert found["endless.save"][:2] == ["failed", ["it took longer than 3 s"]]
    assert found["poison.save"][0] == "damaged"
    assert [line[0] for line in found.values()].count("good") == COUNT


@apart
def test_everywhere_each_host_reads_its_own_whoever_dies(cluster: Cluster, tmp_path: Path) -> None:
    data = make_stream(layout="sequential", blocks={"pc.ram": page(1) * 1024})
    for number, folder in enumerate(cluster.folders):
        (folder / "same.save").write_bytes(data[: len(data) // (1 + number)])
        (folder / f"{number}-0.save").write_bytes(data)
        for other in range(1, 40):
            (folder / f"{number}-{other}.save").hardlink_to(folder / f"{number}-0.save")
    (cluster.folders[1] / "alone").write_bytes(data)
    journal = tmp_path / "run.jsonl"
    words = ("hash", str(cluster.saves), str(cluster.saves / "alone*"), "--everywhere")
    with ClusterRun(cluster, journal, "-o", *words) as process:
        process.wait_for_lines(1)
        process.kill()
    before = lines_of(journal)
    with ClusterRun(cluster, journal, "--resume", *words) as process:
        process.wait_for_lines(before + 1)
        cluster.kill(0)
        cluster.revive()  # and this one does what the other left
        _, err = process.communicate(timeout=180)
    found = [valid("fleet", line) for line in journal.read_text().splitlines()]
    by_host = Counter(line["host"] for line in found)
    same = {line["host"]: line["verdict"] for line in found if "same" in line["path"]}
    gone = {line["host"] for line in found if line["verdict"] == "failed"}

    assert process.returncode == 1, err
    assert by_host == {"one": 42, "two": 42, "three": 42}
    assert same == {"one": "good", "two": "damaged", "three": "damaged"}
    assert gone == {"one", "three"}
    assert all(line["local"] for line in found if line["verdict"] != "failed")
    assert f"{before} image" in err
    assert any(line.startswith("three ") for line in err.splitlines())


@apart
def test_a_worker_that_does_not_see_a_file_passes_it_on(
    cluster: Cluster, tmp_path: Path, run: Run
) -> None:
    data = make_stream(layout="sequential", blocks={"pc.ram": page(1)})
    (cluster.folders[2] / "third").write_bytes(data)
    words = ("fleet", "hash", str(cluster.saves / "third"), str(cluster.saves / "none"))
    found = run(*words, "--scheduler", cluster.address, "--retries=2", "--output=jsonl").out
    lines = {os.path.basename(one["path"]): one for one in map(json.loads, found.splitlines())}

    assert (lines["third"]["verdict"], lines["third"]["host"]) == ("good", "three")
    assert (lines["none"]["verdict"], lines["none"]["tries"]) == ("failed", 3)


def test_no_scheduler(tmp_path: Path, run: Run) -> None:
    journal = tmp_path / "run.jsonl"
    for address in ("nonsense://127.0.0.1:1", "tls://127.0.0.1:1"):
        outcome = run("fleet", "check", "x", "--scheduler", address, "-o", str(journal))

        assert outcome.code == 1
        assert "the scheduler does not answer" in outcome.err or "dask did not start" in outcome.err
        assert not journal.exists()


def test_a_machine_that_stands_still(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed.utils import LoopRunner

    def never(self: LoopRunner) -> None:
        raise AssertionError

    monkeypatch.setattr(LoopRunner, "start", never)
    outcome = run("fleet", "check", "x", "--scheduler", "tcp://127.0.0.1:1")

    assert outcome.code == 1
    assert "tcp://127.0.0.1:1: dask did not start here; try again" in outcome.err
