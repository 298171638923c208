"""Which worker of a cluster gets which images, and what to do when it is lost."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from savefmt.errors import ImageIOError
from savefmt.fleet.pool import Done, Limits
from savefmt.fleet.records import Job, Outcome, Told
from savefmt.frozen import replace

PATIENCE = 60.0
"""Seconds for which a host may be without a worker."""

_AHEAD = 4
"""Batches that a thread of a worker has before it: the scheduler is not to hold them all."""

_TOGETHER, _BYTES = 32, 32 << 20
"""Images, and bytes of images, that go to a worker together: a task costs milliseconds."""

_LOOK = 1.0
"""Seconds between two looks at which workers there are."""

Batch = tuple[Job, ...]


class Workers(Protocol):
    """What `Dispatch` needs of a cluster."""

    def places(self) -> dict[str, int]:
        """Return how many threads of workers there are on each host, by its address."""

    def submit(self, batch: Batch, place: str, limits: Limits) -> Any:
        """Have a worker, of one host where that is named, answer for a batch."""

    def gone(self, why: str = ...) -> ImageIOError:
        """Return the error for a run that cannot go on."""


def batches(jobs: Iterable[Job]) -> Iterator[Batch]:
    """Group small images, separately for each host; a large image goes alone."""
    begun: dict[str, list[Job]] = {}
    lengths: Counter[str] = Counter()
    for job in jobs:
        place = job.target.place
        length = job.target.identity[1] if job.target.identity else _BYTES
        if length >= _BYTES:
            yield (job,)
            continue
        begun.setdefault(place, []).append(job)
        lengths[place] += length
        if len(begun[place]) >= _TOGETHER or lengths[place] >= _BYTES:
            del lengths[place]
            yield tuple(begun.pop(place))
    yield from map(tuple, begun.values())


class Dispatch:
    """Iterate to have jobs done; yields `Done` for each.

    Parameters
    ----------
    workers : Workers
        Who does them.
    jobs : iterable of Job
        Taken as workers get free; those of a host that has no worker for `PATIENCE` are
        given up.
    limits : Limits
        Of each try.
    pinned : bool
        Each job has its host; else any will do.
    """

    def __init__(
        self, workers: Workers, jobs: Iterable[Job], limits: Limits, *, pinned: bool
    ) -> None:
        self._workers = workers
        self._limits = limits
        self._pinned = pinned
        self._coming = batches(jobs)
        self._more = True
        self._queued: defaultdict[str, deque[Batch]] = defaultdict(deque)
        self._asked: dict[str, tuple[Any, Batch]] = {}
        self._flying: Counter[str] = Counter()
        self._ended: SimpleQueue[Any] = SimpleQueue()
        self._tried: defaultdict[str, set[str]] = defaultdict(set)
        self._threads: dict[str, int] = {}
        self._looked = float("-inf")
        self._seen: dict[str, float] = {}

    def __iter__(self) -> Iterator[Done]:
        while True:
            yield from self._look()
            self._hand_out()
            if not self._asked and not any(self._queued.values()) and not self._more:
                return
            try:
                future = self._ended.get(timeout=_LOOK)
            except Empty:
                continue
            _, batch = self._asked.pop(future.key, (None, ()))
            if batch:
                self._flying[batch[0].target.place] -= 1
                yield from self._over(batch, future)

    def _look(self) -> Iterator[Done]:
        """See which workers there are; yield jobs of hosts that have had none for long."""
        now = time.monotonic()
        if now - self._looked < _LOOK:
            return
        self._looked = now
        there = self._workers.places()
        self._threads = {**there, "": sum(there.values())}
        self._seen.update(dict.fromkeys((*there, *[""] * bool(there)), now))
        if now - self._seen.setdefault("", now) > PATIENCE:
            raise self._workers.gone(f"the scheduler has had no worker for {PATIENCE:g} s")
        for place in {*self._queued, *self._flying} - there.keys() - {""}:
            if now - self._seen.setdefault(place, now) > PATIENCE:
                yield from self._give_up(place)

    def _give_up(self, place: str) -> Iterator[Done]:
        batches = list(self._queued.pop(place, ()))
        for key, (future, batch) in list(self._asked.items()):
            if batch[0].target.place == place:
                del self._asked[key]
                batches.append(batch)
                future.cancel()
        self._flying.pop(place, None)
        why = f"its host has had no worker for {PATIENCE:g} s"
        for batch in batches:
            for job in batch:
                yield self._failed(job, why, 0)

    def _hand_out(self) -> None:
        """Read jobs while some host has room for more, and give each host what it has room for."""
        fed = self._threads.keys() - {""} if self._pinned else {""}
        while self._more and any(len(self._queued[p]) < self._room(p) for p in fed):
            batch = next(self._coming, None)
            if batch is None:
                self._more = False
            else:
                self._queued[batch[0].target.place].append(batch)
        for place, line in self._queued.items():
            while line and self._room(place) > 0:
                batch = line.popleft()
                future = self._workers.submit(batch, place, self._limits)
                self._asked[future.key] = future, batch
                self._flying[place] += 1
                future.add_done_callback(self._ended.put)

    def _room(self, place: str) -> int:
        return _AHEAD * self._threads.get(place, 0) - self._flying[place]

    def _over(self, batch: Batch, future: Any) -> Iterator[Done]:
        """Yield what became of a batch; what another try may help is queued once more."""
        if future.status == "finished":
            try:
                values = json.loads(future.result())
            except (OSError, CancelledError) as error:
                raise self._workers.gone() from error
            for job in batch:
                yield from self._done(job, values["done"][job.target.path], values["place"])
            return
        if future.status == "cancelled":  # by dask, when it loses the scheduler
            raise self._workers.gone()
        if len(batch) > 1:  # one of them may have killed workers, and the others are to be spared
            self._queued[batch[0].target.place].extend((job,) for job in batch)
            return
        problem = future.exception()
        killed = type(problem).__name__ == "KilledWorker"
        why = "its worker was lost" if killed else f"its worker failed: {problem}"
        yield self._failed(batch[0], why, self._limits.retries + 1)

    def _done(self, job: Job, values: dict[str, Any], place: str) -> Iterator[Done]:
        told, identity = Told.from_values(values["told"]), tuple(values["identity"])
        tried = self._tried[job.target.path]
        tried.add(place)
        unseen = told.verdict is Outcome.FAILED and not identity and not self._pinned
        if unseen and len(tried) <= self._limits.retries:
            others = sorted(self._threads.keys() - tried - {""})
            if others:
                target = replace(job.target, place=others[0])
                self._queued[others[0]].append((replace(job, target=target),))
                return
        del self._tried[job.target.path]
        tries = values["tries"] + len(tried) - 1
        yield Done(job, told, values["seconds"], tries, values["host"], identity)

    def _failed(self, job: Job, why: str, tries: int) -> Done:
        host = job.target.host or job.target.place
        return Done(job, Told(Outcome.FAILED, (why,)), 0.0, tries, host, ())
