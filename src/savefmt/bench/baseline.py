"""An earlier report to compare with."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from savefmt.bench.values import Measurement, Setting
from savefmt.errors import FormatError, ImageIOError
from savefmt.frozen import replace
from savefmt.model import StrPath


def load_baseline(path: StrPath) -> dict[Setting, float]:
    """Read what ``savefmt bench --output=json`` printed.

    Parameters
    ----------
    path : str or os.PathLike
        The file.

    Returns
    -------
    dict
        Median rate of each setting.

    Raises
    ------
    FormatError
        If it is something else.
    ImageIOError
        If it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            document = json.load(file)
        entries = document["bench"]["measurements"]
        return {_setting(entry): float(entry["rate"]["median"]) for entry in entries}
    except OSError as error:
        raise ImageIOError.from_os(error, path=path) from error
    except (ValueError, LookupError, TypeError) as error:
        message = "the baseline is not what `savefmt bench --output=json` prints"
        raise FormatError(message, path=path) from error


def _setting(entry: Any) -> Setting:
    return Setting(
        entry["work"], entry["direct"], entry["threads"], entry["window"], entry["engine"]
    )


def compare_with(
    baseline: dict[Setting, float], measurements: Iterable[Measurement]
) -> tuple[Measurement, ...]:
    """Add to each measurement its ratio to the earlier one, where there is one."""
    return tuple(
        replace(m, baseline_ratio=m.rate.median / rate) if (rate := baseline.get(m.setting)) else m
        for m in measurements
    )
