"""Looking for many patterns in the same memory: texts all at once, the rest one by one."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TypeAlias

from savefmt.native.content import ManyTexts
from savefmt.scan.patterns import Masked, Matcher
from savefmt.scan.windows import Window

MANY = 8
"""From so many texts on one pass for all is quicker than one for each."""

_LONG = 4
"""Texts of fewer bytes fit so often that longer ones are better looked for without them."""

Found: TypeAlias = "array[int]"
"""Start and end in a window's data, again and again: memory may be full of matches."""


class Together:
    """Finds all of some patterns.

    Parameters
    ----------
    patterns : sequence of Matcher
        What to look for.
    """

    def __init__(self, patterns: Sequence[Matcher]) -> None:
        self._patterns = patterns
        texts: dict[bool, dict[int, Masked]] = {True: {}, False: {}}
        for number, pattern in enumerate(patterns):
            if isinstance(pattern, Masked) and pattern.pattern.is_text:
                texts[pattern.reach >= _LONG][number] = pattern
        many = [group for group in texts.values() if len(group) >= MANY]
        self._groups = [
            (ManyTexts([one.pattern for one in group.values()]), list(group)) for group in many
        ]
        taken = set(chain.from_iterable(many))
        self._others = [number for number in range(len(patterns)) if number not in taken]

    def find(self, window: Window) -> Mapping[int, Found]:
        """Return the matches that begin in a window; any thread may call it.

        Parameters
        ----------
        window : Window
            Where to look.

        Returns
        -------
        mapping of int to array
            By the number of the pattern, of those that match.
        """
        start = window.stretch.start - window.base
        end = window.stretch.end - window.base
        found: dict[int, Found] = {}
        for texts, numbers in self._groups:
            for at, place in texts.find(window.data, start, end):
                number = numbers[at]
                stop = place + self._patterns[number].reach
                found.setdefault(number, array("I")).extend((place, stop))
        for number in self._others:
            if matches := find_one(self._patterns[number], window):
                found[number] = matches
        return found


def find_one(pattern: Matcher, window: Window, after: int = 0) -> Found:
    """Look for matches of one pattern that begin in a window.

    Parameters
    ----------
    pattern : Matcher
        What to look for.
    window : Window
        Where to look.
    after : int
        The place in the block from which on matches count.

    Returns
    -------
    array
        In ascending order.
    """
    start = max(window.stretch.start, after) - window.base
    end = window.stretch.end - window.base
    return array("I", chain.from_iterable(pattern.matches(window.data, start, end)))
