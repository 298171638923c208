"""What ``savefmt convert`` prints."""

from __future__ import annotations

from collections.abc import Iterator

from savefmt.cli.render.plain import brief_size, cloned_line, duration, many, plain, size
from savefmt.reports import ConversionReport


def conversion_lines(report: ConversionReport) -> Iterator[str]:
    """Tell what `convert` did, or would do.

    Parameters
    ----------
    report : ConversionReport
        What `savefmt.convert` returned.

    Yields
    ------
    str
        One line.
    """
    verb = "would write" if report.dry_run else "wrote"
    version = "bare stream" if report.version is None else f"save version {report.version}"
    form = f"{report.target_layout}, codec {report.target_codec}, {version}"
    if report.target_codec == "null":
        yield f"read {plain(report.source)}, wrote nothing"
    elif not (report.written or report.dry_run):
        yield f"{plain(report.target)}: not changed"
        return
    else:
        yield f"{verb} {plain(report.target)}: {form}"
    yield (
        f"  from {report.source_layout}, codec {report.source_codec}, {size(report.source_length)}"
    )
    if report.target_codec != "null" and not (report.dry_run and report.target_length == 0):
        yield f"  to {size(report.target_length)}, {size(report.target_disk_length)} on disk"
    if report.data_pages is not None:
        yield f"  {many(report.data_pages, 'page')} with data"
    for change in report.changes:
        yield f"  changed: {plain(change)}"
    yield from cloned_line(report.cloned_length)
    if not report.dry_run:
        how = "direct" if report.direct else "buffered"
        rate = report.source_length / report.seconds if report.seconds else 0
        yield f"  in {duration(report.seconds)} ({brief_size(rate)}/s read, {how})"
    if report.digest is not None:
        yield f"  verified: {report.digest}"
