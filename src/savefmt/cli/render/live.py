"""What saving and restoring did, as text."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING

from savefmt.cli.render.common import duration, plain, size
from savefmt.model import Layout

if TYPE_CHECKING:
    from savefmt.qemu.report import CommandSkeleton, RestoreReport, SaveReport


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
    yield f"form:          {plan.form}, {name}{_way(plan.channels, plan.direct)}"
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


def _way(channels: int, direct: bool) -> str:
    words = [f"{channels} channels" if channels > 1 else "", "past the page cache" * direct]
    return "".join(f", {word}" for word in words if word)


def restore_lines(report: RestoreReport) -> Iterator[str]:
    """Tell what ``savefmt restore`` did.

    Parameters
    ----------
    report : RestoreReport
        What `savefmt.qemu.restore` returned.

    Yields
    ------
    str
        One line.
    """
    name = "sparse" if report.layout is Layout.MAPPED_RAM else report.codec
    yield f"{plain(report.image)}: restored ({plain(report.machine)})"
    yield f"form:          {name}{_way(report.channels, report.direct)}"
    yield f"RAM:           {size(report.ram_length)}"
    yield f"time:          {duration(report.seconds)}"
    yield f"guest:         {report.state}"
    for note in report.notes:
        yield f"note: {plain(note)}"


def command_lines(skeleton: CommandSkeleton) -> Iterator[str]:
    """Print a command line for a shell, remarks as comments.

    Parameters
    ----------
    skeleton : CommandSkeleton
        What `savefmt.qemu.command_line` returned.

    Yields
    ------
    str
        One line.
    """
    for remark in skeleton.remarks:
        yield f"# {plain(remark)}"
    options = [" ".join(shlex.quote(plain(word)) for word in words) for words in skeleton.words]
    yield " \\\n  ".join(options)
