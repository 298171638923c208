"""What ``savefmt needs`` prints."""

from __future__ import annotations

from collections.abc import Iterator

from savefmt.cli.render.plain import many, plain
from savefmt.reports import NeedsReport, Presence

_PAINT = {Presence.MISSING: "\x1b[31m", Presence.UNKNOWN: "\x1b[33m"}
_RESET = "\x1b[0m"


def needs_lines(
    report: NeedsReport, *, only_missing: bool = False, color: bool = False
) -> Iterator[str]:
    """List what a guest needs.

    Parameters
    ----------
    report : NeedsReport
        What `savefmt.needs.needs` returned.
    only_missing : bool
        Leave out what is here, or was not looked for.
    color : bool
        Paint what is not here.

    Yields
    ------
    str
        One line.
    """
    shown = [n for n in report.needs if not only_missing or n.presence is Presence.MISSING]
    kinds = max((len(need.kind) for need in shown), default=0)
    for need in shown:
        mark = _mark(need.presence, color=color) if report.looked else ""
        reason = f": {plain(need.reason)}" if need.reason else ""
        yield f"{mark}{need.kind:<{kinds}}  {plain(need.name)} ({plain(need.use)}){reason}"
    guest = f" ({plain(report.guest)})" if report.guest else ""
    said = many(len(report.needs), "need")
    if report.looked:
        unknown = sum(need.presence is Presence.UNKNOWN for need in report.needs)
        said += f", {report.missing} missing, {unknown} unknown"
    yield f"{plain(report.path)}{guest}: {said}"


def _mark(presence: Presence, *, color: bool) -> str:
    word = f"{presence:<9}"
    return f"{_PAINT[presence]}{word}{_RESET}" if color and presence in _PAINT else word
