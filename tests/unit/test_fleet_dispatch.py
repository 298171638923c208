"""Which worker gets which images: with a cluster that is played."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from itertools import chain
from typing import Any

import pytest

from savefmt.errors import ImageIOError
from savefmt.fleet import dispatch
from savefmt.fleet.dispatch import Batch, Dispatch, batches
from savefmt.fleet.pool import Limits
from savefmt.fleet.records import Job, Outcome
from savefmt.fleet.targets import Target


def job(path: str, length: int | None = 1000, place: str = "") -> Job:
    identity = () if length is None else (1, length, 1)
    return Job("check", Target(path, "/", True, identity, host=place, place=place), {})


class KilledWorker(Exception):
    """Named as dask's own."""


class Future:
    """An answer, or an error, that is there at once; or neither, for one that never ends."""

    def __init__(self, key: str, status: str, answer: Any) -> None:
        self.key, self.status, self._answer = key, status, answer
        self.cancelled = False

    def result(self) -> Any:
        if isinstance(self._answer, BaseException):
            raise self._answer
        return self._answer

    def exception(self) -> Any:
        return self._answer

    def cancel(self) -> None:
        self.cancelled = True

    def add_done_callback(self, told: Callable[[Any], None]) -> None:
        if self.status != "pending":
            told(self)


class Workers:
    """A cluster whose hosts are called by their places."""

    def __init__(self, **threads: int) -> None:
        self.threads = threads
        self.asked: list[tuple[str, Batch]] = []
        self.unseen: dict[str, set[str]] = {}
        self.poison: set[str] = set()
        self.never: set[str] = set()
        self.most = 0

    def places(self) -> dict[str, int]:
        return self.threads

    def submit(self, batch: Batch, place: str, limits: Limits) -> Any:
        self.asked.append((place, batch))
        key, where = str(len(self.asked)), place or min(self.threads)
        paths = [job.target.path for job in batch]
        if place in self.never:
            return Future(key, "pending", None)
        if self.poison & set(paths):
            return Future(key, "error", KilledWorker())
        done = {path: self._told(path, where) for path in paths}
        return Future(key, "finished", json.dumps({"place": where, "done": done}))

    def gone(self, why: str = "gone") -> ImageIOError:
        return ImageIOError(why, path="address")

    def _told(self, path: str, where: str) -> dict[str, Any]:
        seen = where not in self.unseen.get(path, ())
        told: dict[str, Any] = dict.fromkeys(("domain", "machine", "result"), "")
        told |= {"verdict": "good" if seen else "failed", "reasons": [], "remedy": []}
        identity = [1, 1000, 1] if seen else []
        return {"told": told, "seconds": 1.0, "tries": 1, "host": where, "identity": identity}


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at once, and lose patience soon."""
    monkeypatch.setattr(dispatch, "_LOOK", 0.01)
    monkeypatch.setattr(dispatch, "PATIENCE", 0.05)


def done_by(
    workers: Workers, jobs: list[Job], *, pinned: bool = False, retries: int = 1
) -> dict[str, Any]:
    found = list(Dispatch(workers, iter(jobs), Limits(retries=retries), pinned=pinned))
    assert len(found) == len(jobs)
    return {done.job.target.path: done for done in found}


def test_small_images_share_a_task_and_large_ones_do_not() -> None:
    mixed = chain.from_iterable(
        (job(f"s{n}"), job(f"p{n}", place="a"), job(f"l{n}", 1 << 30), job(f"u{n}", None))
        for n in range(40)
    )
    found = list(batches(mixed))

    assert sorted(j.target.path for batch in found for j in batch) == sorted(
        f"{kind}{n}" for kind in "splu" for n in range(40)
    )
    assert all(len({j.target.place for j in batch}) == 1 for batch in found)
    assert sorted(len(batch) for batch in found) == [1] * 80 + [8, 8, 32, 32]
    assert all(batch[0].target.path[0] in "lu" for batch in found if len(batch) == 1)
    half = list(batches(job(str(n), 16 << 20) for n in range(5)))
    assert [len(batch) for batch in half] == [2, 2, 1]


def test_jobs_are_taken_as_workers_get_free() -> None:
    taken = 0

    def coming() -> Iterator[Job]:
        nonlocal taken
        for number in range(100):
            taken += 1
            yield job(str(number), 1 << 30)

    results = iter(Dispatch(Workers(a=1, b=1), coming(), Limits(), pinned=False))
    next(results)
    assert taken <= 17  # two windows of twice four
    assert len(list(results)) == 99


def test_a_slow_host_keeps_none_from_the_others() -> None:
    workers = Workers(slow=1, quick=1)
    workers.never = {"slow"}
    slow = [job(f"s{n}", 1 << 30, "slow") for n in range(50)]
    quick = [job(f"q{n}", 1 << 30, "quick") for n in range(50)]
    results = iter(Dispatch(workers, iter(slow + quick), Limits(), pinned=True))

    assert {next(results).job.target.path for _ in range(50)} == {f"q{n}" for n in range(50)}


def test_what_kills_workers_is_found_among_its_neighbours() -> None:
    workers = Workers(a=1)
    workers.poison = {"7"}
    done = done_by(workers, [job(str(n)) for n in range(20)])

    assert {path for path, one in done.items() if one.told.verdict is Outcome.FAILED} == {"7"}
    assert done["7"].told.reasons == ("its worker was lost",)
    assert done["7"].tries == 2


def test_a_file_that_is_not_seen_is_asked_for_elsewhere() -> None:
    workers = Workers(a=1, b=1, c=1)
    workers.unseen = {"x": {"a", "b"}, "y": {"a", "b", "c"}, "z": set()}
    done = done_by(workers, [job(path) for path in "xyz"], retries=2)

    assert (done["x"].host, done["x"].tries, done["x"].told.verdict) == ("c", 3, Outcome.GOOD)
    assert (done["y"].tries, done["y"].told.verdict) == (3, Outcome.FAILED)
    assert (done["z"].host, done["z"].tries) == ("a", 1)
    assert done_by(workers, [job("x")], retries=1)["x"].told.verdict is Outcome.FAILED
    assert done_by(workers, [job("x", place="a")], pinned=True, retries=2)["x"].tries == 1


def test_the_images_of_a_host_that_is_gone_are_told() -> None:
    workers = Workers(here=1)
    workers.never = {"gone"}
    done = done_by(workers, [job("a", place="here"), job("b", place="gone")], pinned=True)

    assert done["a"].told.verdict is Outcome.GOOD
    assert done["b"].told.verdict is Outcome.FAILED
    assert done["b"].host == "gone"
    assert "has had no worker" in done["b"].told.reasons[0]


def test_without_workers_or_a_scheduler_a_run_ends() -> None:
    with pytest.raises(ImageIOError, match="no worker for"):
        list(Dispatch(Workers(), iter([job("a")]), Limits(), pinned=False))
    workers = Workers(a=1)
    lost = [("cancelled", None), ("finished", CancelledError()), ("finished", OSError())]
    for future in (Future("1", *one) for one in lost):
        workers.submit = lambda *given, one=future: one  # type: ignore[method-assign]
        with pytest.raises(ImageIOError, match="gone"):
            list(Dispatch(workers, iter([job("a")]), Limits(), pinned=False))
