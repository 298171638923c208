"""What ``savefmt clone`` prints."""

from __future__ import annotations

from collections.abc import Iterator

from savefmt.cli.render.plain import duration, plain, size
from savefmt.instant.outcomes import CloneReport


def clone_lines(report: CloneReport, *, dry_run: bool = False) -> Iterator[str]:
    """Tell what ``savefmt clone`` made.

    Parameters
    ----------
    report : CloneReport
        What `savefmt.instant.clone` returned.
    dry_run : bool
        Nothing was written.

    Yields
    ------
    str
        One line.
    """
    yield f"{plain(report.base)}: {size(report.mapped_length)} of memory, for all of them"
    for guest in report.guests:
        how = f"sh {guest.script}" if guest.script else f"virsh restore {guest.image}"
        yield f"{plain(guest.name)}  {guest.uuid}  {plain(how)}"
    if dry_run:
        yield f"would write {size(report.thin_length)} each"
    else:
        yield f"{size(report.thin_length)} each, in {duration(report.seconds)}"
    for remark in report.remarks:
        yield f"note: {plain(remark)}"
