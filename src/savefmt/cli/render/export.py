"""What ``savefmt export`` prints."""

from __future__ import annotations

from collections.abc import Iterator

from savefmt.cli.render.plain import brief_size, cloned_line, duration, many, plain, size
from savefmt.model import Severity
from savefmt.reports import ExportReport

_WORDS = {
    "elf": "ELF core",
    "raw": "raw memory",
    "lime": "LiME",
    "blocks": "RAM blocks",
    "vmcoreinfo": "VMCOREINFO",
    "kdump": "kdump by makedumpfile",
}


def export_lines(report: ExportReport) -> Iterator[str]:
    """Tell what `export` did, or would do.

    Parameters
    ----------
    report : ExportReport
        What `savefmt.export` returned.

    Yields
    ------
    str
        One line.
    """
    verb = "would write" if report.dry_run else "wrote"
    layout = f", {report.compat} layout" if report.compat else ""
    yield f"{verb} {plain(report.target)}: {_WORDS[report.format]}{layout}"
    if report.segments:
        what = "block" if report.format == "blocks" else "range"
        cpus = f", {many(report.cpus, 'vCPU')}" if report.cpus else ""
        yield f"  {size(report.memory_length)} of memory in {many(report.segments, what)}{cpus}"
    if report.data_pages is not None:
        yield f"  {many(report.data_pages, 'page')} with data"
    if report.vmcoreinfo is not None:
        where = {"device": "where the guest said it lies", "memory": "by its name in memory"}
        yield f"  VMCOREINFO found {where[report.vmcoreinfo]}"
    for finding in report.findings:
        if finding.severity is Severity.NOTE:
            yield f"  note: {plain(finding.message)}"
    if report.dry_run:
        return
    yield f"  {size(report.target_length)}, {size(report.target_disk_length)} on disk"
    yield from cloned_line(report.cloned_length)
    how = "direct" if report.direct else "buffered"
    rate = report.source_length / report.seconds if report.seconds else 0
    yield f"  in {duration(report.seconds)} ({brief_size(rate)}/s read, {how})"
