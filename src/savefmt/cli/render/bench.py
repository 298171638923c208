"""A measurement as text for people and as CSV."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

from savefmt.cli.render.plain import brief_size, plain, size

if TYPE_CHECKING:
    from savefmt.bench.values import (
        BenchComparison,
        BenchReport,
        ComparedSetting,
        Latency,
        Measurement,
    )

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
    *("jobs", "runs", "different", "steady"),
    *("requests", "latency_p50", "latency_p99", "latency_maximum"),
    *("fio_latency_p50", "fio_latency_p99", "fio_latency_maximum"),
)
_COMPARED = (
    *("work", "mode", "engine", "threads", "window", "jobs", "length"),
    *("before_median", "after_median", "ratio", "apart", "p99_before", "p99_after"),
)
_LABELS = """\
p50, p99, max ms: of single requests, from the call to its end; ! behind a rate: runs differ by \
more than 1.5 times"""
_FIO_LABELS = """\
of fio: our median rate over that of fio (its bw, the final sync included), which makes requests \
of the same size, as many at once; fio p99: its completion latency (clat) in ms"""


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
    yield f"{_amount(report)}, {_times(report)}; rates in MiB/s, syncs included"
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
    yield from textwrap.wrap(_LABELS, _WIDTH)
    if any(m.fio_rate for m in report.measurements):
        yield from textwrap.wrap(_FIO_LABELS, _WIDTH)
    yield ""
    yield from textwrap.wrap(plain(report.advice.reason), _WIDTH)
    for command in report.advice.commands:
        yield f"  {plain(command)}"


def _amount(report: BenchReport) -> str:
    length = max(m.length // m.jobs for m in report.measurements)
    kind = "read" if report.is_image else f"of the pattern {plain(report.options.pattern)}"
    jobs = report.options.jobs
    guests = f" for each of {jobs} guests at once" if jobs > 1 else ""
    return f"{size(length)} {kind}{guests}"


def _times(report: BenchReport) -> str:
    least = min(len(m.runs) for m in report.measurements)
    return "once" if least == 1 else f"{least} times"


def _table(title: str, measured: list[Measurement]) -> Iterator[str]:
    compared = any(m.baseline_ratio is not None for m in measured)
    yield f"{title}:"
    heading = (
        f"  {'mode':<9}{'engine':<9}{'threads':>7}{'window':>9}{'min':>7}{'median':>7}{'max':>7} "
    )
    latencies = f"{'p50 ms':>8}{'p99 ms':>8}{'max ms':>8}"
    fio = f"{'of fio':>8}{'fio p99':>8}"
    yield f"{heading}{'CPU s':>7}{latencies}{fio}" + (f"{'of before':>11}" if compared else "")
    for m in measured:
        rates = (m.rate.minimum, m.rate.median, m.rate.maximum)
        yield (
            f"  {_mode(m):<9}{m.engine:<9}{m.threads:>7}{brief_size(m.window):>9}"
            + "".join(f"{rate / _MIB:>7.0f}" for rate in rates)
            + ("!" if m.different else " ")
            + f"{m.cpu_seconds:>7.2f}"
            + "".join(f"{text:>8}" for text in _milliseconds(m.latency))
            + f"{_share(m.fio_share):>8}{_milliseconds(m.fio_latency)[1]:>8}"
            + (f"{_share(m.baseline_ratio):>11}" if compared else "")
        )


def _milliseconds(latency: Latency | None) -> list[str]:
    """Give the middle, the late and the last request."""
    if latency is None:
        return ["-"] * 3
    return [_brief(value) for value in (latency.p50, latency.p99, latency.maximum)]


def _brief(seconds: float) -> str:
    value = seconds * 1000
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.3f}"


def _mode(m: Measurement | ComparedSetting) -> str:
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
                *(m.jobs, len(m.runs), int(m.different), "" if m.steady is None else int(m.steady)),
                *(m.latency.count if m.latency else "", *_seconds(m.latency)),
                *_seconds(m.fio_latency),
            ]
        )
    return out.getvalue()


def _seconds(latency: Latency | None) -> list[str]:
    if latency is None:
        return [""] * 3
    return [f"{value:.9f}" for value in (latency.p50, latency.p99, latency.maximum)]


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.4f}"


def comparison_lines(comparison: BenchComparison) -> Iterator[str]:
    """Tell how two reports differ.

    Parameters
    ----------
    comparison : BenchComparison
        What `savefmt.bench.compare_reports` returned.

    Yields
    ------
    str
        One line.
    """
    yield f"A: {plain(comparison.before)}"
    yield f"B: {plain(comparison.after)}"
    for difference in comparison.differences:
        yield f"note: they differ in {plain(difference)}"
    for name, count in (("A", comparison.only_before), ("B", comparison.only_after)):
        if count:
            yield f"note: {count} measurements are in {name} alone"
    for work, title in _TITLES.items():
        settings = [s for s in comparison.settings if s.work == work]
        if settings:
            yield ""
            yield from _compared_table(title, settings)
    if comparison.settings:
        yield ""
        yield "medians in MiB/s; ~: the runs of A and B overlap, the ratio may be noise"
    else:
        yield "no setting is in both with as many bytes"


def _compared_table(title: str, settings: list[ComparedSetting]) -> Iterator[str]:
    yield f"{title}:"
    heading = f"  {'mode':<9}{'engine':<9}{'threads':>7}{'window':>9}{'jobs':>6}{'A':>8}{'B':>8}"
    yield f"{heading}{'B of A':>8} {'A p99 ms':>10}{'B p99 ms':>10}"
    for s in settings:
        late = [
            "-" if seconds is None else _brief(seconds) for seconds in (s.p99_before, s.p99_after)
        ]
        yield (
            f"  {_mode(s):<9}{s.engine:<9}{s.threads:>7}{brief_size(s.window):>9}{s.jobs:>6}"
            f"{s.before.median / _MIB:>8.0f}{s.after.median / _MIB:>8.0f}{s.ratio:>8.0%}"
            f"{' ' if s.apart else '~'}{late[0]:>10}{late[1]:>10}"
        )


def comparison_csv(comparison: BenchComparison) -> str:
    """Give one line for each setting that both have, below a heading; bytes and seconds.

    Parameters
    ----------
    comparison : BenchComparison
        What `savefmt.bench.compare_reports` returned.

    Returns
    -------
    str
        All lines, each with its end.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_COMPARED)
    for s in comparison.settings:
        writer.writerow(
            [
                *(s.work, _mode(s), s.engine, s.threads, s.window, s.jobs, s.length),
                *(round(s.before.median), round(s.after.median), _ratio(s.ratio), int(s.apart)),
                *("" if p99 is None else f"{p99:.9f}" for p99 in (s.p99_before, s.p99_after)),
            ]
        )
    return out.getvalue()
