"""A measurement as text for people and as CSV."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

from savefmt.cli.render.plain import brief_size, plain, size

if TYPE_CHECKING:
    from savefmt.bench.values import BenchReport, Measurement

_WIDTH = 96
_MIB = 1 << 20
_TITLES = {
    "write": "pages written, as QEMU's multifd channels and savefmt do",
    "read": "pages read",
    "stream": "one stream written through a pipe, as libvirt's helper does",
}
_COLUMNS = (
    *("work", "mode", "engine", "threads", "window", "length"),
    *("rate_minimum", "rate_median", "rate_maximum", "cpu_seconds"),
    *("fio_median", "fio_share", "baseline_ratio"),
)


def bench_lines(report: BenchReport) -> Iterator[str]:
    """Tell what was measured and what follows from it.

    Parameters
    ----------
    report : BenchReport
        What `savefmt.bench.bench` returned.

    Yields
    ------
    str
        One line.
    """
    facts = report.facts
    disk = f" on {plain(facts.disk)}" if facts.disk else ""
    free = brief_size(facts.free_length)
    yield f"{plain(report.path)}: {facts.file_system}{disk}, {free} free"
    yield f"{plain(facts.cpu)}, {facts.cpus} CPUs, {brief_size(facts.memory_length)} of memory"
    yield (
        f"savefmt {facts.savefmt}, Python {facts.python}, Linux {plain(facts.kernel)}, "
        f"{facts.machine}, {plain(facts.fio or 'no fio')}"
    )
    times = "once" if report.options.repeat == 1 else f"{report.options.repeat} times"
    yield f"{_amount(report)}, {times}; rates in MiB/s, syncs included"
    for note in report.notes:
        yield f"note: {plain(note)}"
    if not report.cold:
        yield "note: some of what was read may have stood in the page cache already"
    for work in ("write", "read", "stream"):
        measured = [m for m in report.measurements if m.work == work]
        if measured:
            yield ""
            yield from _table(_TITLES[work], measured)
    yield ""
    yield from textwrap.wrap(plain(report.advice.reason), _WIDTH)
    for command in report.advice.commands:
        yield f"  {plain(command)}"


def _amount(report: BenchReport) -> str:
    length = max(m.length for m in report.measurements)
    kind = "read" if report.is_image else f"of the pattern {plain(report.options.pattern)}"
    return f"{size(length)} {kind}"


def _table(title: str, measured: list[Measurement]) -> Iterator[str]:
    compared = any(m.baseline_ratio is not None for m in measured)
    yield f"{title}:"
    heading = (
        f"  {'mode':<9}{'engine':<9}{'threads':>7}{'window':>9}{'min':>8}{'median':>8}{'max':>8}"
    )
    yield f"{heading}{'CPU s':>8}{'of fio':>8}" + (f"{'of before':>11}" if compared else "")
    for m in measured:
        rates = (m.rate.minimum, m.rate.median, m.rate.maximum)
        yield (
            f"  {_mode(m):<9}{m.engine:<9}{m.threads:>7}{f'{m.window // _MIB} MiB':>9}"
            + "".join(f"{rate / _MIB:>8.0f}" for rate in rates)
            + f"{m.cpu_seconds:>8.2f}{_share(m.fio_share):>8}"
            + (f"{_share(m.baseline_ratio):>11}" if compared else "")
        )


def _mode(m: Measurement) -> str:
    return "direct" if m.direct else "buffered"


def _share(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.0%}"


def csv_text(report: BenchReport) -> str:
    """Give one line for each measurement, below a heading; rates in bytes per second.

    Parameters
    ----------
    report : BenchReport
        What `savefmt.bench.bench` returned.

    Returns
    -------
    str
        All lines, each with its end.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for m in report.measurements:
        writer.writerow(
            [
                *(m.work, _mode(m), m.engine, m.threads, m.window, m.length),
                *(round(m.rate.minimum), round(m.rate.median), round(m.rate.maximum)),
                f"{m.cpu_seconds:.3f}",
                round(m.fio_rate.median) if m.fio_rate else "",
                _ratio(m.fio_share),
                _ratio(m.baseline_ratio),
            ]
        )
    return out.getvalue()


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.4f}"
