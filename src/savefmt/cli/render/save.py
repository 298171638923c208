"""What ``savefmt save`` prints."""

from __future__ import annotations

from collections.abc import Iterator

from savefmt.cli.render.plain import duration, plain, size
from savefmt.model import Layout
from savefmt.qemu.report import SaveReport


def save_lines(report: SaveReport) -> Iterator[str]:
    """Tell what ``savefmt save`` did.

    Parameters
    ----------
    report : SaveReport
        What `savefmt.qemu.save` returned.

    Yields
    ------
    str
        One line.
    """
    plan = report.plan
    name = "sparse" if plan.layout is Layout.MAPPED_RAM else plan.codec
    yield f"{plain(report.target)}: {plain(report.domain)} ({plain(report.machine)}) is saved"
    yield f"form:          {plan.form}, {name}{way(plan.channels, plan.direct)}"
    yield f"RAM:           {size(report.ram_length)}"
    if report.length is not None and report.disk_length is not None:
        yield f"image:         {size(report.length)}, {size(report.disk_length)} on disk"
    meanwhile = "ran meanwhile" if report.live else "stood still"
    yield f"time:          {duration(report.seconds)}; {_held(report, meanwhile)}"
    yield f"guest:         {report.state}"
    for note in report.notes:
        yield f"note: {plain(note)}"


def _held(report: SaveReport, meanwhile: str) -> str:
    if report.state != "running":
        return f"the guest {meanwhile}"
    return f"the guest {meanwhile}, held for {report.held_seconds:.2f} s"


def way(channels: int, direct: bool) -> str:
    """Say how an image was moved, as a continuation: channels and direct I/O."""
    words = [f"{channels} channels" if channels > 1 else "", "past the page cache" * direct]
    return "".join(f", {word}" for word in words if word)
