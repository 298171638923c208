"""A picture of a report: rate over threads, one line per window and mode."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from savefmt.bench.values import BenchReport, Measurement
from savefmt.errors import MissingPackageError
from savefmt.model import StrPath
from savefmt.writing.output import OutputFile

_TITLES = {"write": "writing pages", "read": "reading pages"}
_MARKERS = {"psync": "o", "io_uring": "s"}
_COLUMNS = 3

_ROOM = 0.3
"""Doublings of the thread count that the lines of one count spread over."""

_MIB = 1 << 20


def require_matplotlib() -> None:
    """Tell before the work rather than after it that a plot cannot be made.

    Raises
    ------
    UnsupportedError
        If matplotlib is missing.
    """
    try:
        importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise MissingPackageError("bench --plot", "matplotlib", "plot") from error


def draw(report: BenchReport, path: StrPath, *, overwrite: bool = False) -> None:
    """Write the picture; the suffix tells the kind.

    Parameters
    ----------
    report : BenchReport
        What to show.
    path : str or os.PathLike
        A name in .png, .svg or .pdf; the file appears when it is complete.
    overwrite : bool
        Replace an older picture.

    Raises
    ------
    ConversionError
        If there is a file of that name and it is not to be replaced.
    ImageIOError
        If the file cannot be written.
    """
    from matplotlib.figure import Figure

    works = [work for work in _TITLES if any(m.work == work for m in report.measurements)]
    lines = max(len({_kind(m) for m in report.measurements if m.work == work}) for work in works)
    height = 4.4 + 0.2 * (lines + 3) / _COLUMNS  # the legend is below
    figure = Figure(figsize=(6.4 * len(works), height), layout="constrained")
    panels = figure.subplots(1, len(works), squeeze=False, sharey=True)[0]
    for work, panel in zip(works, panels, strict=True):
        _draw_panel(panel, report, work)
    panels[0].set_ylim(bottom=0)  # the others share it
    panels[0].set_ylabel("MiB/s (median; whiskers: slowest and fastest run)")
    figure.suptitle(_title(report), fontsize="medium", parse_math=False)
    picture = BytesIO()
    figure.savefig(picture, format=Path(path).suffix[1:])
    with OutputFile(path, overwrite=overwrite) as out:
        out.file.write(picture.getbuffer(), 0)
        out.commit(warn=True)


def _title(report: BenchReport) -> str:
    """Name what was measured, whose name may be long or no text at all."""
    name = os.fsencode(report.path).decode(errors="replace")
    name = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
    facts = report.facts
    disk = f" on {facts.disk}" if facts.disk else ""
    short = f"...{name[-60:]}" if len(name) > 63 else name
    return f"{short} ({facts.file_system}{disk}, {facts.cpus} CPUs)"


def _kind(m: Measurement) -> tuple[int, bool, bool]:
    """Tell what makes a line of its own: smallest window, direct and psync come first."""
    return m.window, not m.direct, m.engine != "psync"


def _draw_panel(panel: Any, report: BenchReport, work: str) -> None:
    measured = [m for m in report.measurements if m.work == work]
    kinds = sorted({_kind(m) for m in measured})
    colors = {window: f"C{i}" for i, window in enumerate(sorted({m.window for m in measured}))}
    for number, kind in enumerate(kinds):
        line = sorted((m for m in measured if _kind(m) == kind), key=lambda m: m.threads)
        first = line[0]
        named = "" if first.engine == "psync" else f", {first.engine}"
        _draw_line(
            panel,
            line,
            _shift(number, len(kinds)),
            label=f"{_window(first.window)}, {_mode(first.direct)}{named}",
            color=colors[first.window],
            linestyle="-" if first.direct else "--",
            marker=_MARKERS[first.engine],
            markerfacecolor=colors[first.window] if first.direct else "white",
        )
    _draw_baseline(panel, measured, kinds, colors)
    _draw_ceiling(panel, measured)
    if work == "write":
        _draw_streams(panel, report)
    threads = sorted({m.threads for m in measured})
    panel.set_xscale("log", base=2)
    panel.set_xlim(threads[0] * 2**-_ROOM, threads[-1] * 2**_ROOM)
    panel.set_xticks(threads, [str(count) for count in threads])
    panel.minorticks_off()
    panel.set(xlabel="threads", title=_TITLES[work])
    panel.grid(alpha=0.3)
    panel.legend(
        fontsize="small",
        loc="upper center",
        bbox_to_anchor=(0.5, -0.14),
        ncols=_COLUMNS,
        handlelength=3,
    )


def _window(length: int) -> str:
    return f"{length >> 20} MiB" if length >= _MIB else f"{length >> 10} KiB"


def _mode(direct: bool) -> str:
    return "direct" if direct else "buffered"


def _draw_line(panel: Any, line: Sequence[Measurement], shift: float, **style: str) -> None:
    below = [(m.rate.median - m.rate.minimum) / _MIB for m in line]
    above = [(m.rate.maximum - m.rate.median) / _MIB for m in line]
    panel.errorbar(
        [m.threads * shift for m in line],
        [m.rate.median / _MIB for m in line],
        yerr=[below, above],
        elinewidth=0.8,
        capsize=2,
        markersize=4.5,
        **style,
    )


def _shift(number: int, count: int) -> float:
    """Set lines side by side, so that none hides another."""
    return float(2 ** (_ROOM * (number - (count - 1) / 2) / count))


def _draw_baseline(
    panel: Any,
    measured: Sequence[Measurement],
    kinds: Sequence[tuple[int, bool, bool]],
    colors: dict[int, str],
) -> None:
    """Mark what an earlier report has in the place of each median."""
    label = "baseline"
    for m in measured:
        if m.baseline_ratio is None:
            continue
        shift = _shift(kinds.index(_kind(m)), len(kinds))
        panel.plot(
            [m.threads * shift],
            [m.rate.median / m.baseline_ratio / _MIB],
            linestyle="",
            marker="x",
            markersize=7,
            color=colors[m.window],
            label=label,
        )
        label = "_"  # matplotlib's word for no entry in the legend


def _draw_ceiling(panel: Any, measured: Sequence[Measurement]) -> None:
    best: dict[int, float] = {}
    for m in measured:
        if m.fio_rate is not None:
            best[m.threads] = max(best.get(m.threads, 0), m.fio_rate.median / _MIB)
    if best:
        threads = sorted(best)
        rates = [best[count] for count in threads]
        panel.plot(
            [threads[0] * 2**-_ROOM, *threads, threads[-1] * 2**_ROOM],
            [rates[0], *rates, rates[-1]],
            color="0.4",
            linewidth=4,
            alpha=0.5,
            label="fio: best bw of any window",
        )


def _draw_streams(panel: Any, report: BenchReport) -> None:
    for m in report.measurements:
        if m.work == "stream":
            panel.axhline(
                m.rate.median / _MIB,
                color="k",
                linewidth=1,
                linestyle="-" if m.direct else "--",
                label=f"one stream, {_mode(m.direct)}",
            )
