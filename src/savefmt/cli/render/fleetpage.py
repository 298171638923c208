"""What ``savefmt fleet report`` writes: a page about a run, and what it prints about that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from savefmt.cli.render import html
from savefmt.cli.render.plain import many, plain, size
from savefmt.fleet.overview import FleetReportWritten, Overview
from savefmt.fleet.records import Outcome

_COLORS = {
    Outcome.GOOD: "good",
    Outcome.FINDINGS: "doubt",
    Outcome.REFUSED: "bad",
    Outcome.DAMAGED: "bad",
    Outcome.NOT_AN_IMAGE: "soft",
    Outcome.FAILED: "doubt",
}
_COLUMNS = (
    *("verdict", "path", "host", "domain", "machine type", "why", "what helps", "verb"),
    *("seconds", "tries"),
)
_WIDTH = 1000


class _Bar(NamedTuple):
    """A part of the bar of verdicts."""

    x: float
    width: float
    color: str


def page(overview: Overview, making: html.Making) -> bytes:
    """Make the page about a run; only our own script, which sorts a table, runs in it.

    Parameters
    ----------
    overview : Overview
        What the journal tells.
    making : Making
        How this came about.

    Returns
    -------
    bytes
        HTML in UTF-8.

    Raises
    ------
    UnsupportedError
        If Jinja2 is not installed.
    """
    bad = overview.total - dict(overview.verdicts).get(Outcome.GOOD, 0)
    return html.page(
        "fleet.html",
        {},
        script="fleet.js",
        o=overview,
        making=making,
        word=f"{many(bad, 'image')} to look at" if bad else "all good",
        color="bad" if bad else "good",
        colors=_COLORS,
        gravity={outcome: len(Outcome) - n for n, outcome in enumerate(Outcome)},
        columns=_COLUMNS,
        bars=list(_bars(overview)),
    )


def _bars(overview: Overview) -> Iterator[_Bar]:
    x = 0.0
    for verdict, count in overview.verdicts:
        width = _WIDTH * count / overview.total
        yield _Bar(round(x, 2), round(width, 2), _COLORS[verdict])
        x += width


def written_lines(written: FleetReportWritten) -> Iterator[str]:
    """Tell what was written."""
    verb = "would write" if written.dry_run else "wrote"
    yield f"{verb} {plain(written.target)}: {size(written.target_length)}"
    if written.images > written.shown:
        yield f"  with the gravest {written.shown} of {written.images} images one by one"
