"""What ``savefmt hash --check`` prints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, TypedDict

from savefmt.cli.render.plain import plain

_WORDS = {True: "OK", False: "FAILED", None: "MISSING"}


class CheckValues(TypedDict):
    """Whether a hash of a manifest holds; `label` names it as the manifest does."""

    label: str
    result: Literal["ok", "failed", "missing"]


def check_lines(results: Iterable[tuple[str, bool | None]], *, quiet: bool) -> Iterator[str]:
    """Show which hashes hold.

    Parameters
    ----------
    results : iterable of (str, bool or None)
        Labels, and whether the hash holds; None where the image has no such thing.
    quiet : bool
        Leave out what matches. Pages that match are always left out: there are too many.

    Yields
    ------
    str
        One line.
    """
    for label, good in results:
        if not (good and (quiet or label.startswith("page:"))):
            yield f"{plain(label)}: {_WORDS[good]}"


def check_values(results: Iterable[tuple[str, bool | None]]) -> Iterator[CheckValues]:
    """Turn such results into what JSON can hold."""
    results_of: dict[bool | None, Literal["ok", "failed", "missing"]]
    results_of = {True: "ok", False: "failed", None: "missing"}
    for label, good in results:
        yield {"label": label, "result": results_of[good]}
