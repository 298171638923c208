"""A run over many images: jobs to an engine, and a record of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from savefmt.fleet.journal import Journal
from savefmt.fleet.pool import Engine
from savefmt.fleet.records import FleetRecord, Job, Outcome
from savefmt.fleet.targets import identity_of


def run(
    jobs: Iterable[Job], engine: Engine, version: str, journal: Journal | None = None
) -> Iterator[FleetRecord]:
    """Do jobs, and tell of each image as it ends.

    Parameters
    ----------
    jobs : iterable of Job
        One an image.
    engine : Engine
        Does them.
    version : str
        Of savefmt.
    journal : Journal, optional
        Jobs that it has are left out; the others are added.

    Yields
    ------
    FleetRecord
        In the order in which they end.  A file that was found in a folder and is no image
        has none.
    """
    undone = (j for j in jobs if journal is None or not journal.has(j, identity_of(j.path)))
    for done in engine.run(undone):
        job, told = done.job, done.told
        if told.verdict is Outcome.NOT_AN_IMAGE and not job.named:
            continue
        record = FleetRecord(
            version=version,
            verb=job.verb,
            options=job.options,
            host=done.host,
            path=job.path,
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
