"""What ``savefmt restore`` prints."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from savefmt.cli.render.plain import duration, plain, size
from savefmt.cli.render.save import way
from savefmt.model import Layout
from savefmt.qemu.report import CommandSkeleton, RestoreReport


def restore_lines(report: RestoreReport) -> Iterator[str]:
    """Tell what ``savefmt restore`` did, or would do.

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
    done, would = ("would be restored", "would be ") if report.dry_run else ("restored", "")
    yield f"{plain(report.image)}: {done} ({plain(report.machine)})"
    yield f"form:          {name}{way(report.channels, report.direct)}"
    yield f"RAM:           {size(report.ram_length)}"
    if report.mapped_length:
        yield f"mapped:        {size(report.mapped_length)}, not loaded"
    if not report.dry_run:
        yield f"time:          {duration(report.seconds)}"
    yield f"guest:         {would}{report.state}"
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
    last = len(skeleton.words)
    for number, words in enumerate(skeleton.words, 1):
        indent, more = "  " if number > 1 else "", " \\" if number < last else ""
        yield indent + " ".join(shlex.quote(plain(word, len(word))) for word in words) + more
