"""An earlier report to compare with."""

from __future__ import annotations

import json
from typing import Any

from savefmt.bench.values import BenchReport, BenchSetting, Spread
from savefmt.errors import FormatError, ImageIOError
from savefmt.frozen import dataclass, replace
from savefmt.model import StrPath

_LIMIT = 64 << 20
"""Far more bytes than a report has."""

_RATES = (1.0, 1e15)
"""Bytes per second, between which those of all machines lie."""

_TIMES = (1e-9, 1e9)
"""Seconds that a request may take."""

_FACTS = ("savefmt", "kernel", "cpu", "cpus", "file_system", "disk")
"""Of a report's facts: what a rate depends on."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """What an earlier report says.

    Attributes
    ----------
    rates : dict
        Rates of each setting and the bytes that it moved.
    p99 : dict
        Seconds that 99 of 100 of its requests took at most, where the report has it.
    traits : dict
        Path, pattern and the machine's facts, as text.
    """

    rates: dict[tuple[BenchSetting, int], Spread]
    p99: dict[tuple[BenchSetting, int], float]
    traits: dict[str, str]


def load_baseline(path: StrPath) -> Baseline:
    """Read what ``savefmt bench --output=json`` printed.

    Parameters
    ----------
    path : str or os.PathLike
        The file.

    Returns
    -------
    Baseline
        Rates, and what they depend on.

    Raises
    ------
    FormatError
        If it is something else.
    ImageIOError
        If it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(_LIMIT)
    except OSError as error:
        raise ImageIOError.from_os(error, path=path) from error
    try:
        report = json.loads(text)["bench"]
        rates = {_key(entry): _spread(entry["rate"]) for entry in report["measurements"]}
        p99 = {
            _key(entry): _number(entry["latency"]["p99"], _TIMES)
            for entry in report["measurements"]
            if entry.get("latency")
        }
        return Baseline(rates, p99, _traits(report["path"], report["options"], report["facts"]))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        message = "the baseline is not what `savefmt bench --output=json` prints"
        raise FormatError(message, path=path) from error


def _key(entry: Any) -> tuple[BenchSetting, int]:
    setting = BenchSetting(
        entry["work"],
        entry["direct"],
        entry["threads"],
        entry["window"],
        entry["engine"],
        entry.get("jobs", 1),
    )
    return setting, entry["length"]


def _spread(entry: Any) -> Spread:
    rates = (_number(entry[name], _RATES) for name in ("minimum", "median", "maximum"))
    return Spread(*rates)


def _number(value: Any, bounds: tuple[float, float]) -> float:
    least, most = bounds
    if not isinstance(value, int | float) or not least <= value <= most:
        raise ValueError("no figure")
    return float(value)


def _traits(path: str, options: Any, facts: Any) -> dict[str, str]:
    """Gather what makes rates of one setting differ; an older report lacks some of it."""
    traits = {"path": path, "pattern": options["pattern"]}
    traits |= {name: facts[name] for name in _FACTS if name in facts}
    return {name: str(value) for name, value in traits.items()}


def compare_with(baseline: Baseline, report: BenchReport) -> BenchReport:
    """Add to each measurement its ratio to the earlier one, where there is one.

    Parameters
    ----------
    baseline : Baseline
        The earlier report.
    report : BenchReport
        The new one.

    Returns
    -------
    BenchReport
        With ratios, and with notes of what else is different.
    """
    measurements = tuple(
        replace(m, baseline_ratio=m.rate.median / rates.median)
        if (rates := baseline.rates.get((m.setting, m.length)))
        else m
        for m in report.measurements
    )
    notes = list(report.notes)
    if all(m.baseline_ratio is None for m in measurements):
        notes.append("the baseline has no run with these settings and the same number of bytes")
    now = {name: getattr(report.facts, name) for name in _FACTS}
    now = _traits(report.path, {"pattern": report.options.pattern}, now)
    others = [
        f"{name.replace('_', ' ')} {value[:80]}"
        for name, value in baseline.traits.items()
        if value != now[name]
    ]
    if others:
        notes.append(f"the baseline was measured with another {', '.join(others)}")
    return replace(report, measurements=measurements, notes=tuple(notes))
