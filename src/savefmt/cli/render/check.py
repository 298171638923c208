"""What ``savefmt check`` prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from savefmt.cli.render.plain import many, plain
from savefmt.model import Finding, Severity
from savefmt.reports import CheckReport, RepairReport

_PAINT = {Severity.ERROR: "\x1b[31m", Severity.WARNING: "\x1b[33m", Severity.NOTE: "\x1b[36m"}
_UNSUPPORTED = "image.unsupported"  # as in savefmt.check, which is too much to load for --help
UNJUDGED = "unsupported, so nobody knows whether it is sound"
_RESET = "\x1b[0m"


def check_lines(
    report: CheckReport, *, verbose: bool = False, color: bool = False
) -> Iterator[str]:
    """List the findings and the verdict.

    Parameters
    ----------
    report : CheckReport
        What `savefmt.check` returned.
    verbose : bool
        Show notes, too.
    color : bool
        Paint the severities.

    Yields
    ------
    str
        One line.
    """
    for finding in report.findings:
        if verbose or finding.severity is not Severity.NOTE:
            yield from _finding_lines(finding, color=color)
    counts = Counter(finding.severity for finding in report.findings)
    parts = [many(counts[level], level) for level in reversed(Severity) if counts[level]]
    verdict = {
        Severity.ERROR: _worst_word(report),
        Severity.WARNING: "usable, with findings",
    }.get(report.worst or Severity.NOTE, _best_word(report))
    tally = f" ({', '.join(parts)})" if parts else ""
    yield f"{plain(report.path)}: {verdict}, {report.level} check{tally}"


def _best_word(report: CheckReport) -> str:
    """Say what no errors mean: an image is sound only where its end was seen."""
    unseen = any(finding.code == "stream.end-unseen" for finding in report.findings)
    return "nothing wrong found, the end not seen" if unseen else "sound"


def unjudged(report: CheckReport | RepairReport) -> bool:
    """Whether all that is wrong with an image is that savefmt does not support it."""
    errors = {f.code for f in report.findings if f.severity is Severity.ERROR}
    return errors == {_UNSUPPORTED}


def _worst_word(report: CheckReport) -> str:
    """Say what errors mean: the image may be sound, and the wrong one for a reader."""
    if unjudged(report):
        return UNJUDGED
    errors = (f.code for f in report.findings if f.severity is Severity.ERROR)
    others = any(
        code.partition(".")[0] not in ("libvirt", "qemu", "host", "target") for code in errors
    )
    return "damaged" if others else "not loadable there"


def _finding_lines(finding: Finding, *, color: bool) -> Iterator[str]:
    label: str = finding.severity
    if color:
        label = f"{_PAINT[finding.severity]}{label}{_RESET}"
    at = "" if finding.offset is None else f" (at offset {finding.offset:#x})"
    yield f"{label}: {plain(finding.message)}{at} [{finding.code}]"
    if finding.advice:
        yield f"    {plain(finding.advice)}"
    if finding.repair is not None:
        yield f"    `savefmt repair --fix {finding.repair}` puts it right"
