"""What ``savefmt repair`` prints."""

from __future__ import annotations

from collections.abc import Iterator

from savefmt.cli.render.check import UNJUDGED, unjudged
from savefmt.cli.render.plain import many, plain
from savefmt.model import Severity
from savefmt.reports import Offer, RepairReport

_NOT_MADE_UP = "vmdescription.missing"  # a note in check; here some users would hope for a repair


def repair_lines(report: RepairReport) -> Iterator[str]:
    """Tell what can be repaired, or what was, and what is left.

    Parameters
    ----------
    report : RepairReport
        What `savefmt.repair` returned.

    Yields
    ------
    str
        One line.
    """
    path = plain(report.path)
    if not report.made:
        yield f"{path}: " + (
            f"{many(len(report.offers), 'repair')} possible" if report.offers else _nothing(report)
        )
    elif report.dry_run:
        yield f"would repair {plain(report.target)}"
    else:
        how = ", by a new file in its place" if report.replaced else ""
        yield f"repaired {plain(report.target)}{how}"
    for offer in report.offers:
        if not report.made or offer.repair in report.made:
            yield from _offer_lines(offer)
    for offer in report.offers:
        if report.made and offer.repair not in report.made:
            yield f"  not asked for: --fix {offer.repair}"
    for change in report.changes:
        yield f"  {plain(change)}"
    for finding in report.findings:
        told = finding.severity is not Severity.NOTE or finding.code == _NOT_MADE_UP
        if told and finding.repair is None:
            yield f"  no repair for {finding.code}: {plain(finding.message)}"
            if finding.advice:
                yield f"      {plain(finding.advice)}"


def _nothing(report: RepairReport) -> str:
    if report.ok:
        return "nothing to repair"
    return UNJUDGED if unjudged(report) else "damaged, and no repair helps"


def _offer_lines(offer: Offer) -> Iterator[str]:
    yield f"  --fix {offer.repair}: {plain(offer.change)} ({many(offer.length, 'byte')})"
    yield f"      for {', '.join(offer.codes)}"
