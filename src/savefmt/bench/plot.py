"""A picture of a report: rate over threads, one line per window and mode."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from savefmt.bench.values import BenchReport, Measurement
from savefmt.errors import UnsupportedError
from savefmt.model import StrPath
from savefmt.output import OutputFile

SUFFIXES = (".png", ".svg", ".pdf")

_TITLES = {"write": "writing pages", "read": "reading pages"}
_STYLES = {True: "-", False: "--"}
"""Of direct lines and of buffered ones."""

_MARKERS = ("o", "s")
"""One for each engine."""

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
        raise UnsupportedError("plots need: pip install 'savefmt[plot]'") from error


def draw(report: BenchReport, path: StrPath, *, overwrite: bool = False) -> None:
    """Write the picture; the suffix tells the kind.

    Parameters
    ----------
    report : BenchReport
        What to show.
    path : str or os.PathLike
        One of `SUFFIXES`; the file appears when it is complete.
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
    figure = Figure(figsize=(6.4 * len(works), 5.6), layout="constrained")
    panels = figure.subplots(1, len(works), squeeze=False, sharey=True)[0]
    for work, panel in zip(works, panels, strict=True):
        _draw_panel(panel, report, work)
    panels[0].set_ylim(bottom=0)  # the others share it
    panels[0].set_ylabel("MiB/s (median; whiskers: slowest and fastest run)")
    facts = report.facts
    figure.suptitle(f"{report.path} ({facts.file_system}, {facts.cpus} CPUs)", fontsize="medium")
    picture = BytesIO()
    figure.savefig(picture, format=Path(path).suffix[1:])
    with OutputFile(path, overwrite=overwrite, direct=False) as out:
        out.file.write(picture.getbuffer(), 0)
        out.commit()


def _draw_panel(panel: Any, report: BenchReport, work: str) -> None:
    measured = [m for m in report.measurements if m.work == work]
    windows = sorted({m.window for m in measured})
    engines = sorted({m.engine for m in measured}, reverse=True)  # psync first
    kinds = itertools.product(
        enumerate(windows), _STYLES.items(), zip(engines, _MARKERS, strict=False)
    )
    for (color, window), (direct, style), (engine, marker) in kinds:
        wanted = (window, direct, engine)
        line = [m for m in measured if (m.window, m.direct, m.engine) == wanted]
        if line:
            named = f", {engine}" if len(engines) > 1 else ""
            label = f"{window // _MIB} MiB, {_mode(direct)}{named}"
            _draw_line(panel, line, label, color=f"C{color}", linestyle=style, marker=marker)
    _draw_ceiling(panel, measured)
    if work == "write":
        _draw_streams(panel, report)
    threads = sorted({m.threads for m in measured})
    panel.set_xscale("log", base=2)
    panel.set_xticks(threads, [str(count) for count in threads])
    panel.minorticks_off()
    panel.set(xlabel="threads", title=_TITLES[work])
    panel.grid(alpha=0.3)
    panel.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)


def _mode(direct: bool) -> str:
    return "direct" if direct else "buffered"


def _draw_line(panel: Any, line: Sequence[Measurement], label: str, **style: str) -> None:
    ordered = sorted(line, key=lambda m: m.threads)
    rates = [m.rate.median / _MIB for m in ordered]
    below = [(m.rate.median - m.rate.minimum) / _MIB for m in ordered]
    above = [(m.rate.maximum - m.rate.median) / _MIB for m in ordered]
    panel.errorbar(
        [m.threads for m in ordered],
        rates,
        yerr=[below, above],
        capsize=3,
        label=label,
        **style,
    )


def _draw_ceiling(panel: Any, measured: Sequence[Measurement]) -> None:
    best: dict[int, float] = {}
    for m in measured:
        if m.fio_rate is not None:
            best[m.threads] = max(best.get(m.threads, 0), m.fio_rate.median / _MIB)
    if best:
        threads = sorted(best)
        panel.plot(
            threads,
            [best[count] for count in threads],
            color="0.4",
            linewidth=4,
            alpha=0.5,
            label="fio, best",
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
