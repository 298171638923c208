"""Sets of numbers that come in stretches: bytes of a file, pages of a block."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class Ranges:
    """Stretches from `start` to before `end`, in order, none touching the next.

    Parameters
    ----------
    ranges : iterable of (int, int)
        In any order.
    """

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in ranges:
            self.add(start, end)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(list(zip(self._starts, self._ends, strict=True)))

    def __len__(self) -> int:
        return len(self._starts)

    def add(self, start: int, end: int) -> None:
        """Put a stretch in, joined with those that it meets."""
        if start >= end:
            return
        first = bisect_left(self._ends, start)
        behind = bisect_right(self._starts, end)
        if first < behind:
            start, end = min(start, self._starts[first]), max(end, self._ends[behind - 1])
        self._starts[first:behind] = [start]
        self._ends[first:behind] = [end]

    def overlap(self, start: int, end: int) -> bool:
        """Tell whether any number from `start` to before `end` is in the set."""
        number = bisect_right(self._ends, start)
        return number < len(self._starts) and self._starts[number] < end and start < end

    def within(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the parts of the set from `start` to before `end`."""
        number = bisect_right(self._ends, start)
        while number < len(self._starts) and self._starts[number] < end:
            yield max(self._starts[number], start), min(self._ends[number], end)
            number += 1

    def outside(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield what of the numbers from `start` to before `end` is not in the set."""
        for first, last in self.within(start, end):
            if start < first:
                yield start, first
            start = last
        if start < end:
            yield start, end

    @property
    def total(self) -> int:
        """How many numbers are in the set."""
        return sum(self._ends) - sum(self._starts)
