"""Workers that die, hang and grow; journals; targets: with workers that need no images."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from mounting import lack
from stuck import stuck_file

from savefmt.errors import ConversionError, ImageIOError
from savefmt.fleet.journal import Journal, read_journal
from savefmt.fleet.pool import Done, Limits, ProcessPool
from savefmt.fleet.records import FleetRecord, Job, Outcome, Told
from savefmt.fleet.running import run
from savefmt.fleet.targets import Target, find_targets, identity_of
from savefmt.frozen import asdict

WORKER = """
import json, os, signal, sys, time
for line in sys.stdin:
    path = json.loads(line)["path"]
    name = os.path.basename(path)
    tried = path + ".tried"
    first = not os.path.exists(tried)
    if not name.startswith("stuck"):
        open(tried, "a").write("x")
    if name.startswith("die") or (name.startswith("once") and first):
        os.kill(os.getpid(), signal.SIGKILL)
    if name.startswith("exit"):
        os._exit(3)
    if name.startswith("memory"):
        os._exit(77)
    if name.startswith("grow"):
        kept = bytes(range(256)) * (1 << 19)
        time.sleep(600)
    if name.startswith("stop"):
        os.kill(os.getpid(), signal.SIGSTOP)
    if name.startswith("hang"):
        time.sleep(600)
    if name.startswith("stuck"):
        os.read(os.open(path, os.O_RDONLY), 1)
    answer = {"verdict": "good", "reasons": ["a" * 100000], "remedy": [], "domain": name,
              "machine": "", "result": os.getpid()}
    text = json.dumps(answer) + "\\n"
    for at in range(0, len(text), 30000):
        sys.stdout.write(text[at:at + 30000])
        sys.stdout.flush()
"""


NO_LIMITS = Limits(retries=1)


def pool(limits: Limits = NO_LIMITS) -> ProcessPool:
    """Return a pool of such workers."""
    return ProcessPool(2, limits, command=[sys.executable, "-c", WORKER])


def jobs(folder: Path, *names: str | Path) -> list[Job]:
    return [job(folder / name) for name in names]


def job(path: Path, verb: str = "check", **options: object) -> Job:
    """Return a job on a file that was named."""
    target = Target(str(path), str(path.parent), True, identity_of(str(path)))
    return Job(verb, target, options)


def done_by(folder: Path, *names: str, limits: Limits = NO_LIMITS) -> dict[str, Done]:
    with pool(limits) as workers:
        found = list(workers.run(jobs(folder, *names)))
    assert len(found) == len(names)
    return {Path(done.job.target.path).name: done for done in found}


def test_each_job_is_done_once_by_few_processes(tmp_path: Path) -> None:
    names = [f"good-{number}" for number in range(40)]
    done = done_by(tmp_path, *names)

    assert set(done) == set(names)
    assert {one.told.verdict for one in done.values()} == {Outcome.GOOD}
    assert all(one.told.domain == name for name, one in done.items())
    assert len({one.told.result for one in done.values()}) <= 2
    assert all(Path(f"{tmp_path / name}.tried").read_text() == "x" for name in names)


@pytest.mark.parametrize("name", ["die", "exit", "memory"])
def test_a_job_that_kills_its_workers_stops_nothing(tmp_path: Path, name: str) -> None:
    done = done_by(tmp_path, "a", name, "b", "c", "once", limits=Limits(retries=2))

    assert done[name].told.verdict is Outcome.FAILED
    assert done[name].tries == 3
    why = {"die": "killed by signal 9", "exit": "died (3)", "memory": "more memory than there is"}
    assert why[name] in done[name].told.reasons[0]
    assert done["once"].told.verdict is Outcome.GOOD
    assert done["once"].tries == 2
    assert all(done[other].tries == 1 for other in "abc")


def test_a_job_that_hangs_is_ended(tmp_path: Path) -> None:
    started = time.monotonic()
    done = done_by(tmp_path, "hang", "a", "b", limits=Limits(seconds=1.0, retries=0))

    assert time.monotonic() - started < 60
    assert done["hang"].told == Told(Outcome.FAILED, ("it took longer than 1 s",))
    assert done["a"].told.verdict is Outcome.GOOD


def test_what_does_not_end_by_itself_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("savefmt.fleet.pool._GRACE", 0.2)
    done = done_by(tmp_path, "stop", "a", limits=Limits(seconds=1.0, retries=0))

    assert done["stop"].told.reasons == ("it took longer than 1 s",)
    assert done["a"].told.verdict is Outcome.GOOD


@pytest.mark.skipif(bool(lack()), reason=lack())
def test_a_worker_that_cannot_be_killed_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("savefmt.fleet.pool._GRACE", 0.2)
    (tmp_path / "mounted").mkdir()
    with (
        pool(Limits(seconds=2.0, retries=3)) as workers,
        stuck_file(tmp_path / "mounted") as stuck,
    ):
        asked = jobs(tmp_path, stuck.relative_to(tmp_path), "a", "b", "c")
        done = list(workers.run(asked))
        (held,) = workers._held
        assert held.poll() is None  # it was killed, and is there
    assert held.wait(60) < 0

    assert {one.told.verdict for one in done if one.job is not asked[0]} == {Outcome.GOOD}
    (lost,) = [one for one in done if one.job is asked[0]]
    assert lost.tries == 1
    late, why = lost.told.reasons
    assert late == "it took longer than 2 s"
    assert "cannot be ended" in why


def test_what_grows_is_ended(tmp_path: Path) -> None:
    done = done_by(tmp_path, "grow", "a", limits=Limits(memory=64 << 20, retries=0))

    assert done["grow"].told.reasons == (f"it took more memory than {64 << 20} bytes",)
    assert done["a"].told.verdict is Outcome.GOOD


def test_leaving_early_ends_the_workers(tmp_path: Path) -> None:
    with pool() as workers:
        results = workers.run(jobs(tmp_path, "a", "hang", "hang-2"))
        pid = next(results).told.result
        processes = [worker.process for worker in workers._workers]
    assert pid
    assert len(processes) == 2
    assert all(process.poll() is not None for process in processes)


# --- the journal ---


class Counting:
    """Does every job at once, and counts."""

    def __init__(self, verdict: Outcome = Outcome.GOOD) -> None:
        self.paths: list[str] = []
        self._verdict = verdict

    def run(self, jobs: object) -> object:
        for job in jobs:  # type: ignore[attr-defined]
            self.paths.append(Path(job.target.path).name)
            yield self.done(job)

    def done(self, job: Job) -> Done:
        identity = identity_of(job.target.path)
        return Done(job, Told(self._verdict), 0.5, 1, "host", identity)


def go(folder: Path, engine: Counting, *, resume: bool = True, verb: str = "check") -> list[str]:
    """Run over three files; return what was done."""
    todo = [job(folder / name, verb, full=True) for name in "abc"]
    journal = Journal(folder / "run.jsonl", resume=resume)
    try:
        list(run(todo, engine, "1", journal))  # type: ignore[arg-type]
    finally:
        journal.close()
    return engine.paths


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files."""
    for name in "abc":
        (tmp_path / name).write_text(name)
    return tmp_path


def test_what_is_done_is_not_done_again(folder: Path) -> None:
    assert go(folder, Counting(), resume=False) == ["a", "b", "c"]
    assert go(folder, Counting()) == []
    assert go(folder, Counting(), verb="hash") == ["a", "b", "c"]
    (folder / "b").write_text("changed")
    assert go(folder, Counting()) == ["b"]
    assert len((folder / "run.jsonl").read_text().splitlines()) == 7


def test_what_failed_is_tried_again(folder: Path) -> None:
    go(folder, Counting(Outcome.FAILED), resume=False)
    assert go(folder, Counting(Outcome.DAMAGED)) == ["a", "b", "c"]
    assert go(folder, Counting()) == []


def test_hosts_have_images_of_the_same_name(folder: Path) -> None:
    """With --everywhere a path says nothing without its host."""

    def at(host: str, inode: int) -> Job:
        target = Target("/same", "/", True, (inode, 1, 1), host=host, place=host)
        return Job("check", target, {})

    for jobs, undone in (
        ([at("a", 1), at("b", 2)], ["a", "b"]),
        ([at("a", 1), at("b", 3), at("c", 1)], ["b", "c"]),
        ([at("a", 1), at("b", 3), at("c", 1)], []),
    ):
        journal = Journal(folder / "run.jsonl", resume=(folder / "run.jsonl").exists())
        engine = Counting()
        engine.done = lambda job: Done(  # type: ignore[method-assign]
            job, Told(Outcome.GOOD), 0.5, 1, job.target.host, job.target.identity
        )
        try:
            found = list(run(jobs, engine, "1", journal))  # type: ignore[arg-type]
        finally:
            journal.close()
        assert [record.host for record in found] == undone
    newest = {(one.host, one.identity[0]) for one in read_journal(folder / "run.jsonl")}
    assert newest == {("a", 1), ("b", 3), ("c", 1)}


def test_a_torn_line_is_done_again(folder: Path) -> None:
    go(folder, Counting(), resume=False)
    path = folder / "run.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])

    assert go(folder, Counting()) == ["c"]
    assert len(path.read_bytes().splitlines()) == 3
    assert path.read_bytes().startswith(whole[: whole.rindex(b"\n", 0, -1) + 1])


def test_files_that_are_no_journal(folder: Path) -> None:
    path = folder / "run.jsonl"
    go(folder, Counting(), resume=False)
    values = json.loads(path.read_text().splitlines()[0])
    changed: list[dict[str, Any]] = [
        *({"verb": 1}, {"verdict": "splendid"}, {"reasons": 5}, {"reasons": [5]}, {"options": []}),
        *({"identity": ["a"]}, {"seconds": "1"}, {"tries": None}, {"path": ["a"]}),
    ]
    wrong = [json.dumps(values | change) + "\n" for change in changed]
    for text in (*wrong, "text\n", "[1]\n", "{}\n", "[" * 100_000 + "\n"):
        path.write_text(text)
        with pytest.raises(ConversionError, match="line 1 was not written by"):
            Journal(path, resume=True)
        with pytest.raises(ConversionError, match="line 1 was not written by"):
            list(read_journal(path))
        assert path.read_text() == text
    with pytest.raises(ConversionError, match="the file exists"):
        Journal(path, resume=False)
    with pytest.raises(ImageIOError):
        Journal(folder / "none" / "run.jsonl", resume=False)


def test_a_journal_has_one_run_at_a_time(folder: Path) -> None:
    path = folder / "run.jsonl"
    first = Journal(path, resume=False)
    with pytest.raises(ConversionError, match="another run"):
        Journal(path, resume=True)
    assert list(read_journal(path)) == []
    first.close()
    Journal(path, resume=True).close()


def test_a_journal_is_the_owners_alone(folder: Path) -> None:
    go(folder, Counting(), resume=False)
    assert (folder / "run.jsonl").stat().st_mode & 0o777 == 0o600


def test_a_record_is_one_line_whatever_is_in_it() -> None:
    path, reasons = "/a\n\udcff\u2028", ("a\nb",)
    record = FleetRecord(
        *("1", "check", {}, "host", path, False, (1,), Outcome.GOOD, reasons, ()),
        *("\x1b", "", 1.0, 1, None),
    )

    assert len(record.line().splitlines()) == 1
    assert record.line().isascii()


@pytest.mark.parametrize("name", ["seconds", "tries"])
@pytest.mark.parametrize("number", ["NaN", "Infinity", "-1", "9" * 400])
def test_a_number_that_no_run_writes_is_refused(name: str, number: str) -> None:
    record = FleetRecord(
        *("1", "check", {}, "host", "/a", False, (1,), Outcome.GOOD, (), ()),
        *("", "", 1.0, 1, None),
    )
    values = json.loads(record.line()) | {name: "?"}
    line = json.dumps(values).replace('"?"', number).encode()

    with pytest.raises(ValueError, match=f"{name} is of another kind"):
        FleetRecord.from_line(line)
    assert FleetRecord.from_line(record.line().encode()) == record


# --- targets ---


def test_targets(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "d").touch()
    (folder / "sub" / ".hidden").touch()
    (folder / "sub" / "link").symlink_to(folder / "a")
    (folder / "sub" / "round").symlink_to(folder)
    os.mkfifo(folder / "sub" / "pipe")
    found = list(find_targets([str(folder / "a"), str(folder), str(folder / "[bc]")]))

    assert [os.path.relpath(one.path, folder) for one in found] == ["a", "b", "c", "sub/d"]
    assert [one.named for one in found] == [True, False, False, False]
    assert {one.base for one in found} == {str(folder)}
    assert all(one.identity and not one.trouble for one in found)
    (lost,) = find_targets([str(folder / "none*")])
    assert lost == Target(str(folder / "none*"), str(folder), True, trouble=lost.trouble)
    assert lost.trouble == "No such file or folder"
    assert identity_of(str(folder / "sub" / "pipe")) == ()
    assert identity_of(str(folder / "none")) == ()


def test_a_worker_says_which_version_it_is(tmp_path: Path) -> None:
    """Those of a cluster may be of another, whose answers have other members."""
    worker = """
import json, sys
for line in sys.stdin:
    values = {"verdict": "good", "reasons": [], "remedy": [], "version": "0.0.7", "news": 1}
    print(json.dumps(values if "new" in line else {n: values[n] for n in list(values)[:3]}))
    sys.stdout.flush()
"""
    with ProcessPool(1, NO_LIMITS, command=[sys.executable, "-c", worker]) as workers:
        records = {Path(r.path).name: r for r in run(jobs(tmp_path, "new", "old"), workers, "9")}

    assert {name: record.version for name, record in records.items()} == {
        "new": "0.0.7",
        "old": "9",
    }
    assert {record.verdict for record in records.values()} == {Outcome.GOOD}
    assert Told.from_values(asdict(Told(Outcome.GOOD, version="1"))).version == "1"
