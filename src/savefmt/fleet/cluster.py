"""The workers of a dask scheduler, on any hosts, as an engine."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from savefmt.errors import ImageIOError, MissingPackageError
from savefmt.fleet.pool import Done, Limits, ProcessPool
from savefmt.fleet.records import Job, Outcome, Told
from savefmt.frozen import asdict

_AHEAD = 4
"""Jobs that a thread of a worker has before it: the scheduler is not to hold them all."""


class Cluster:
    """Workers of a scheduler.

    What travels is text: a job as JSON, and its answer.  Each worker does its jobs in a
    process of its own, so that limits hold there as they do on one host.

    Parameters
    ----------
    address : str
        Of the scheduler, such as ``tcp://10.0.0.5:8786``.
    limits : Limits
        Of each try; a worker that is lost costs a try elsewhere, too.

    Raises
    ------
    UnsupportedError
        If dask.distributed is not installed.
    ImageIOError
        If the scheduler cannot be reached.
    """

    def __init__(self, address: str, limits: Limits) -> None:
        self._library = _library()
        self._limits = limits
        try:
            self._client = self._library.Client(address, timeout=10, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ImageIOError(f"the scheduler does not answer: {error}", path=address) from error

    def close(self) -> None:
        """Leave the scheduler; what it still has of ours is dropped."""
        self._client.close()

    def run(self, jobs: Iterable[Job]) -> Iterator[Done]:
        """Yield each job when it is over.

        Parameters
        ----------
        jobs : iterable of Job
            Taken as workers get free.

        Yields
        ------
        Done
            One for each job.
        """
        waiting = iter(jobs)
        asked: dict[str, Job] = {}
        running = self._library.as_completed(loop=self._client.loop, raise_errors=False)
        while True:
            while len(asked) < self._room() and (job := next(waiting, None)) is not None:
                future = self._submit(job)
                asked[future.key] = job
                running.add(future)
            if not asked:
                return
            future = next(running)
            yield self._done(asked.pop(future.key), future)

    def _room(self) -> int:
        threads: int = sum(self._client.nthreads().values())
        return max(_AHEAD * threads, 1)

    def _submit(self, job: Job) -> Any:
        limits = json.dumps(asdict(self._limits))
        return self._client.submit(
            answer, json.dumps(asdict(job)), limits, pure=False, retries=self._limits.retries
        )

    def _done(self, job: Job, future: Any) -> Done:
        if future.status == "finished":
            values = json.loads(future.result())
            told = Told.from_values(values["told"])
            identity = tuple(values["identity"])
            return Done(job, told, values["seconds"], values["tries"], values["host"], identity)
        why = f"its worker was lost: {type(future.exception()).__name__}"
        return Done(job, Told(Outcome.FAILED, (why,)), 0.0, self._limits.retries + 1, "", ())


_OWN = threading.local()


def answer(job: str, limits: str) -> str:
    """Do a job in this worker; text in, text out.

    Parameters
    ----------
    job, limits : str
        `Job` and `Limits` as JSON.

    Returns
    -------
    str
        `Done` as JSON.
    """
    known: tuple[str, ProcessPool] | None = getattr(_OWN, "pool", None)
    if known is None or known[0] != limits:
        if known is not None:
            known[1].close()
        known = _OWN.pool = limits, ProcessPool(1, Limits(**json.loads(limits)))
    (done,) = known[1].run([Job(**json.loads(job))])
    return json.dumps(asdict(done))


def _library() -> Any:
    try:
        import distributed
    except ImportError as error:
        raise MissingPackageError("fleet --scheduler", "distributed", "fleet") from error
    return distributed
