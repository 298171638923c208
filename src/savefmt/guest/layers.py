"""Address ranges on top of each other: which one the guest sees where."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from itertools import pairwise

from savefmt.frozen import replace
from savefmt.model import PhysicalRange

HOLE = ""
"""Block name of a range that hides the ranges below it and has no memory."""

Layer = tuple[int, PhysicalRange]
"""Height, and the range; of two equally high ones the earlier in the list wins."""


def flatten(layers: Iterable[Layer]) -> list[PhysicalRange]:
    """Return what is seen from above.

    Parameters
    ----------
    layers : iterable of (int, PhysicalRange)
        In any order.

    Returns
    -------
    list of PhysicalRange
        Ascending, none overlapping, neighbours of one block joined.
    """
    ordered = sorted(
        ((height, number, item) for number, (height, item) in enumerate(layers) if item.length),
        key=lambda layer: layer[2].start,
    )
    borders = sorted({border for *_, item in ordered for border in (item.start, item.end)})
    waiting = iter(ordered)
    upcoming = next(waiting, None)
    active: list[tuple[int, int, PhysicalRange]] = []
    seen: list[PhysicalRange] = []
    for start, end in pairwise(borders):
        while upcoming is not None and upcoming[2].start <= start:
            heapq.heappush(active, (-upcoming[0], upcoming[1], upcoming[2]))
            upcoming = next(waiting, None)
        while active and active[0][2].end <= start:
            heapq.heappop(active)
        if active:
            _append(seen, _cut(active[0][2], start, end))
    return [item for item in seen if item.block != HOLE]


def overlaps(ranges: Iterable[PhysicalRange]) -> Iterator[tuple[PhysicalRange, PhysicalRange]]:
    """Yield ranges that begin before an earlier one has ended, each with such a one."""
    furthest: PhysicalRange | None = None
    for item in sorted(ranges, key=lambda item: (item.start, item.end)):
        if furthest is not None and item.start < furthest.end:
            yield furthest, item
        if furthest is None or item.end > furthest.end:
            furthest = item


def _cut(item: PhysicalRange, start: int, end: int) -> PhysicalRange:
    return replace(item, start=start, length=end - start, offset=item.offset + start - item.start)


def _append(seen: list[PhysicalRange], item: PhysicalRange) -> None:
    """Add a range behind the others, joined to the last one where it continues it."""
    if seen:
        last = seen[-1]
        joined = replace(last, length=last.length + item.length)
        if item == replace(last, start=last.end, length=item.length, offset=item.offset) and (
            item.block == HOLE or item.offset == last.offset + last.length
        ):
            seen[-1] = joined
            return
    seen.append(item)
