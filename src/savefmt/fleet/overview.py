"""The summary of a run: counts, and the images that somebody should look at."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from heapq import nsmallest

from savefmt.errors import ConversionError, ImageIOError
from savefmt.fleet.journal import read_journal
from savefmt.fleet.records import FleetRecord, Outcome
from savefmt.frozen import dataclass, replace
from savefmt.model import StrPath

SHOWN = 5000
"""Images on a page at most: it must stay one that opens."""

_COMMON = 40
"""Rows of each list of what is common."""

_GRAVITY = {outcome: number for number, outcome in enumerate(Outcome)}


@dataclass(frozen=True, slots=True)
class Share:
    """How the images of one host, or of one machine type, fared."""

    name: str
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Overview:
    """What a journal tells.

    Attributes
    ----------
    path, digest : str
        The journal, and its SHA-256.
    total : int
        Images, by what was asked of them.
    verdicts : tuple of (Outcome, int)
        Those that occur, and how often.
    machines, hosts : tuple of Share
        Counts in the order of `verdicts`; the worst first, and only the first ones.
    remedies, reasons : tuple of (str, int)
        What helps, what is wrong, and how many images it is said of: the most common ones.
    asked : tuple of (str, str, str, int)
        Verb, options as JSON, version of savefmt, and the number of images.
    seconds : float
        Spent on all images, one after the other.
    shown : tuple of FleetRecord
        The gravest images first, at most `SHOWN`; without results.
    """

    path: str
    digest: str
    total: int
    verdicts: tuple[tuple[Outcome, int], ...]
    machines: tuple[Share, ...]
    hosts: tuple[Share, ...]
    remedies: tuple[tuple[str, int], ...]
    reasons: tuple[tuple[str, int], ...]
    asked: tuple[tuple[str, str, str, int], ...]
    seconds: float
    shown: tuple[FleetRecord, ...]


@dataclass(frozen=True, slots=True)
class FleetReportWritten:
    """What ``savefmt fleet report`` did, or would do: `digest` is that of the journal."""

    source: str
    target: str
    digest: str
    images: int
    shown: int
    target_length: int
    seconds: float
    dry_run: bool


def survey(path: StrPath) -> Overview:
    """Read a journal as a whole.

    Parameters
    ----------
    path : str or os.PathLike
        Of a run that is over, or was broken off.

    Returns
    -------
    Overview
        Of several lines about an image the newest counts.

    Raises
    ------
    ConversionError
        If it is no journal, or a run is still adding to it.
    ImageIOError
        What the operating system refused.
    """
    digest = _digest(path)
    counts = _Counts()
    shown = nsmallest(
        SHOWN,
        (replace(record, result=None) for record in counts.seen(read_journal(path))),
        key=lambda record: (-_GRAVITY[record.verdict], record.path, record.host),
    )
    if _digest(path) != digest:
        raise ConversionError(
            "the journal grew while it was read; wait until its run has ended", path=path
        )
    verdicts = [outcome for outcome in Outcome if counts.verdicts[outcome]]
    return Overview(
        path=os.fspath(path),
        digest=digest,
        total=counts.verdicts.total(),
        verdicts=tuple((outcome, counts.verdicts[outcome]) for outcome in verdicts),
        machines=_shares(counts.machines, verdicts),
        hosts=_shares(counts.hosts, verdicts),
        remedies=tuple(counts.remedies.most_common(_COMMON)),
        reasons=tuple(counts.reasons.most_common(_COMMON)),
        asked=tuple((*asked, count) for asked, count in counts.asked.most_common(_COMMON)),
        seconds=counts.seconds,
        shown=tuple(shown),
    )


class _Counts:
    """Counts records as they pass."""

    def __init__(self) -> None:
        self.verdicts: Counter[Outcome] = Counter()
        self.machines: defaultdict[str, Counter[Outcome]] = defaultdict(Counter)
        self.hosts: defaultdict[str, Counter[Outcome]] = defaultdict(Counter)
        self.remedies: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.asked: Counter[tuple[str, str, str]] = Counter()
        self.seconds = 0.0

    def seen(self, records: Iterable[FleetRecord]) -> Iterable[FleetRecord]:
        """Yield records, counted."""
        for record in records:
            self.verdicts[record.verdict] += 1
            self.machines[record.machine or "unknown"][record.verdict] += 1
            self.hosts[record.host or "unknown"][record.verdict] += 1
            self.remedies.update(set(record.remedy))
            self.reasons.update(set(record.reasons))
            # A conversion's target is each image's own.
            options = {name: v for name, v in record.options.items() if name != "target"}
            words = json.dumps(options, sort_keys=True)
            self.asked[record.verb, words, record.version] += 1
            self.seconds += record.seconds
            yield record


def _shares(counts: dict[str, Counter[Outcome]], verdicts: Iterable[Outcome]) -> tuple[Share, ...]:
    def rank(name: str) -> tuple[int, str]:
        return counts[name][Outcome.GOOD] - counts[name].total(), name

    order = sorted(counts, key=rank)[:_COMMON]
    return tuple(Share(name, tuple(counts[name][v] for v in verdicts)) for name in order)


def _digest(path: StrPath) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ImageIOError.from_os(error, path=path) from error
