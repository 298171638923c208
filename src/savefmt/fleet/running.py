"""A run over many images: jobs to an engine, and a record of each."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from itertools import chain

from savefmt.fleet.journal import Journal
from savefmt.fleet.pool import Done, Engine
from savefmt.fleet.records import FleetRecord, Job, Outcome, Told


def run(
    jobs: Iterable[Job], engine: Engine, version: str, journal: Journal | None = None
) -> Iterator[FleetRecord]:
    """Do jobs, and yield a record of each image as it ends.

    Parameters
    ----------
    jobs : iterable of Job
        One an image.
    engine : Engine
        Does them.
    version : str
        Of savefmt, for images that no worker could say anything of.
    journal : Journal, optional
        Jobs that it has are left out; the others are added.

    Yields
    ------
    FleetRecord
        In the order in which they end; targets with `trouble` last.  A file that was found in a
        folder and is not an image has no record.
    """
    troubled: list[Job] = []

    def undone() -> Iterator[Job]:
        for job in jobs:
            if job.target.trouble:
                troubled.append(job)
            elif journal is None or not journal.has(job):
                yield job

    def lost() -> Iterator[Done]:
        for job in troubled:
            told = Told(Outcome.FAILED, (job.target.trouble,))
            yield Done(job, told, 0.0, 0, job.target.host or socket.gethostname(), ())

    for done in chain(engine.run(undone()), lost()):
        job, told = done.job, done.told
        if told.verdict is Outcome.NOT_AN_IMAGE and not job.target.named:
            continue
        record = FleetRecord(
            version=told.version or version,
            verb=job.verb,
            options=job.options,
            host=done.host,
            path=job.target.path,
            local=bool(job.target.place),
            identity=done.identity,
            verdict=told.verdict,
            reasons=told.reasons,
            remedy=told.remedy,
            domain=told.domain,
            machine=told.machine,
            seconds=round(done.seconds, 6),
            tries=done.tries,
            result=told.result,
        )
        if journal is not None:
            journal.add(record)
        yield record
