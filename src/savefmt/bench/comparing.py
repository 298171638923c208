"""Two reports side by side, as of two hosts."""

from __future__ import annotations

import os

from savefmt.bench.baseline import load_baseline
from savefmt.bench.values import BenchComparison, ComparedSetting
from savefmt.model import StrPath


def compare_reports(before: StrPath, after: StrPath) -> BenchComparison:
    """Compare what two hosts, disks or days gave.

    Parameters
    ----------
    before, after : str or os.PathLike
        Files with what ``savefmt bench --output=json`` printed.

    Returns
    -------
    BenchComparison
        All settings that both measured with as many bytes.

    Raises
    ------
    FormatError
        If one is something else.
    ImageIOError
        If one cannot be read.
    """
    old, new = load_baseline(before), load_baseline(after)
    settings = []
    for key, rates in new.rates.items():
        if key not in old.rates:
            continue
        setting, length = key
        earlier = old.rates[key]
        settings.append(
            ComparedSetting(
                setting.work,
                setting.direct,
                setting.threads,
                setting.window,
                setting.engine,
                setting.jobs,
                length,
                earlier,
                rates,
                rates.median / earlier.median,
                rates.minimum > earlier.maximum or rates.maximum < earlier.minimum,
                old.p99.get(key),
                new.p99.get(key),
            )
        )
    return BenchComparison(
        os.fspath(before),
        os.fspath(after),
        tuple(_differences(old.traits, new.traits)),
        tuple(settings),
        len(old.rates) - len(settings),
        len(new.rates) - len(settings),
    )


def _differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Say each trait that differs, as ``kernel 6.1.0 and 6.12.3``."""
    return [
        f"{name.replace('_', ' ')} {before[name][:80]} and {after[name][:80]}"
        for name in before
        if name in after and before[name] != after[name]
    ]
