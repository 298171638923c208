"""An earlier report to compare with."""

from __future__ import annotations

import json
from typing import Any

from savefmt.bench.values import BenchReport, BenchSetting
from savefmt.errors import FormatError, ImageIOError
from savefmt.frozen import dataclass, replace
from savefmt.model import StrPath

_LIMIT = 64 << 20
"""Far more bytes than a report has."""

_FASTEST = 1e15
"""Bytes per second that no machine reaches."""

_FACTS = ("savefmt", "kernel", "cpu", "cpus", "file_system", "disk")
"""Of a report's facts: what a rate depends on."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """What an earlier report says.

    Attributes
    ----------
    rates : dict
        Median rate of each setting and the bytes that it moved.
    traits : dict
        Path, pattern and the machine's facts, as text.
    """

    rates: dict[tuple[BenchSetting, int], float]
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
        rates = {
            (_setting(entry), entry["length"]): _rate(entry["rate"]["median"])
            for entry in report["measurements"]
        }
        return Baseline(rates, _traits(report["path"], report["options"], report["facts"]))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        message = "the baseline is not what `savefmt bench --output=json` prints"
        raise FormatError(message, path=path) from error


def _setting(entry: Any) -> BenchSetting:
    return BenchSetting(
        entry["work"], entry["direct"], entry["threads"], entry["window"], entry["engine"]
    )


def _rate(value: Any) -> float:
    if not isinstance(value, int | float) or not 1 <= value <= _FASTEST:
        raise ValueError("no rate")
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
        replace(m, baseline_ratio=m.rate.median / rate)
        if (rate := baseline.rates.get((m.setting, m.length)))
        else m
        for m in report.measurements
    )
    notes = list(report.notes)
    if all(m.baseline_ratio is None for m in measurements):
        notes.append("the baseline has none of these settings with as many bytes")
    now = {name: getattr(report.facts, name) for name in _FACTS}
    now = _traits(report.path, {"pattern": report.options.pattern}, now)
    others = [
        f"{name.replace('_', ' ')} {value[:80]}"
        for name, value in baseline.traits.items()
        if value != now[name]
    ]
    if others:
        notes.append(f"the baseline is of another {', '.join(others)}")
    return replace(report, measurements=measurements, notes=tuple(notes))
