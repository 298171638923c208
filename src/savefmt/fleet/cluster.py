"""The workers of a dask scheduler, on any hosts, as an engine."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from savefmt.errors import ImageIOError, MissingPackageError
from savefmt.fleet.dispatch import PATIENCE, Batch, Dispatch
from savefmt.fleet.pool import Done, Limits, ProcessPool
from savefmt.fleet.records import Job, Outcome
from savefmt.fleet.targets import Target, find_targets
from savefmt.frozen import asdict, replace

_LISTING = 600.0
"""Seconds that a host has to go through its folders."""


class Cluster:
    """Workers of a scheduler.

    What travels is text: jobs as JSON, and their answers.  Each worker does its jobs in a
    process of its own, so that limits hold there as they do on one host.

    Parameters
    ----------
    address : str
        Of the scheduler, such as ``tcp://10.0.0.5:8786``.
    limits : Limits
        The limits of each try; another try after the loss of a worker counts, too.
    everywhere : bool
        Each host of a worker finds the names in its own files, and reads them there.

    Raises
    ------
    UnsupportedError
        If dask.distributed is not installed.
    ImageIOError
        If the scheduler cannot be reached, or has no worker.
    """

    def __init__(self, address: str, limits: Limits, *, everywhere: bool = False) -> None:
        library = _library()
        self._address = address
        self._lost = OSError, library.client.ClosedClientError
        self._limits = limits
        self._everywhere = everywhere
        try:
            self._client = library.Client(address, timeout=10, set_as_default=False)
        except (OSError, ValueError, TypeError) as error:  # the last where TLS is not set up
            raise ImageIOError(f"the scheduler does not answer: {error}", path=address) from error
        except AssertionError as error:  # its thread has 10 s to start, and says it like this
            raise ImageIOError("dask did not start here; try again", path=address) from error
        try:
            self._client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError as error:
            self.close()
            raise ImageIOError(
                f"no worker connected to the scheduler within {PATIENCE:g} s", path=address
            ) from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Leave the scheduler; what it still has of ours is dropped."""
        self._client.close()

    def find(self, names: Iterable[str]) -> Iterator[Target]:
        """Yield the images that names lead to: here, or on each host.

        Parameters
        ----------
        names : iterable of str
            As for `find_targets`.

        Yields
        ------
        Target
            A name that leads nowhere here may lead somewhere for a worker.
        """
        if not self._everywhere:
            for target in find_targets(names):
                yield replace(target, trouble="") if target.named else target
            return
        given = list(map(os.path.abspath, names))
        limits = replace(self._limits, seconds=_LISTING)
        places = sorted(self.places())
        asked = (Job("list", Target(given[0], "", True, place=p), {"names": given}) for p in places)
        for done in Dispatch(self, asked, limits, pinned=True):
            host, place = done.host or done.job.target.place, done.job.target.place
            if done.told.verdict is not Outcome.GOOD:
                yield replace(done.job.target, trouble="; ".join(done.told.reasons), host=host)
                continue
            for values in done.told.result:
                yield replace(Target.from_values(values), host=host, place=place)

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
        return iter(Dispatch(self, jobs, self._limits, pinned=self._everywhere))

    # --- for `Dispatch` ---

    def places(self) -> dict[str, int]:
        """Return how many threads of workers there are on each host, by its address."""
        try:
            workers = self._client.scheduler_info(n_workers=-1).get("workers", {})
        except self._lost as error:
            raise self.gone() from error
        found: dict[str, int] = {}
        for worker in workers.values():
            found[worker["host"]] = found.get(worker["host"], 0) + worker["nthreads"]
        return found

    def submit(self, batch: Batch, place: str, limits: Limits) -> Any:
        """Have some worker answer for a batch; return dask's future."""
        jobs = json.dumps([asdict(job) for job in batch])
        where = {"workers": [place], "allow_other_workers": False} if place else {}
        words = json.dumps(asdict(limits))
        how = {"pure": False, "retries": limits.retries, **where}
        try:
            return self._client.submit(answer, jobs, words, **how)
        except self._lost as error:
            raise self.gone() from error

    def gone(self, why: str = "the scheduler is gone") -> ImageIOError:
        """Return the error for a run that cannot go on."""
        return ImageIOError(f"{why}; continue a journal with --resume", path=self._address)


_OWN = threading.local()


def answer(jobs: str, limits: str) -> str:
    """Do jobs in this worker; text in, text out.

    Parameters
    ----------
    jobs, limits : str
        A list of `Job`, and `Limits`, as JSON.

    Returns
    -------
    str
        The host of this worker, and what became of each path, as JSON.
    """
    from distributed import get_worker
    from distributed.comm.addressing import get_address_host

    known: tuple[str, ProcessPool] | None = getattr(_OWN, "pool", None)
    if known is None or known[0] != limits:
        if known is not None:
            known[1].close()
        known = _OWN.pool = limits, ProcessPool(1, Limits(**json.loads(limits)))
    asked = [Job.from_values(values) for values in json.loads(jobs)]
    done = {one.job.target.path: asdict(one) for one in known[1].run(asked)}
    for values in done.values():
        del values["job"]
    return json.dumps({"place": get_address_host(get_worker().address), "done": done})


def _library() -> Any:
    try:
        import distributed
    except ImportError as error:
        raise MissingPackageError("fleet --scheduler", "distributed", "fleet") from error
    for name in ("distributed", "distributed.client"):  # we say ourselves what went wrong
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return distributed
