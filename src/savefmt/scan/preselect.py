"""Which of many texts lie in some memory at all, told by one pass for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from savefmt.scan.patterns import Masked, Matcher

MANY = 8
"""From so many texts on one pass for all is quicker than one for each."""

_MEMORY = 256 << 20
_SET_LENGTH = 64 << 10
"""Bytes of the texts in one set.  A set that outgrows RE2's memory says that nothing
matches: no state of so small a one comes near."""


def preselection(patterns: Sequence[Matcher]) -> Callable[[bytes], Sequence[int]]:
    """Return what names the patterns, by number, that may match in some bytes.

    RE2 looks for all texts at once, in time that does not grow with their number.  What is
    no text (wildcards, regular expressions) may always match.

    Parameters
    ----------
    patterns : sequence of Matcher
        All that are looked for.

    Returns
    -------
    callable
        Of some bytes; returns numbers in ascending order.  Any thread may call it.
    """
    everything = range(len(patterns))
    texts = {
        number: expression
        for number, pattern in enumerate(patterns)
        if (expression := _expression(pattern)) is not None
    }
    sets = _sets(texts) if len(texts) >= MANY else None
    if sets is None:
        return lambda _: everything
    others = [number for number in everything if number not in texts]

    def possible(data: bytes) -> Sequence[int]:
        found = [numbers[at] for chosen, numbers in sets for at in chosen.Match(data) or ()]
        return sorted([*others, *found])

    return possible


def _sets(texts: Mapping[int, bytes]) -> list[tuple[Any, list[int]]] | None:
    """Make RE2's sets, with the numbers of what is in each; None without RE2."""
    try:
        import re2  # type: ignore[import-untyped]
    except ImportError:
        return None
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1  # bytes, not characters
    options.max_mem = _MEMORY
    options.log_errors = False
    sets: list[tuple[Any, list[int]]] = []
    room = 0
    for number, expression in texts.items():
        if len(expression) > room:
            sets.append((re2.Set.SearchSet(options), []))
            room = _SET_LENGTH
        sets[-1][0].Add(expression)
        sets[-1][1].append(number)
        room -= len(expression)
    for chosen, _ in sets:
        chosen.Compile()
    return sets


def _expression(pattern: Matcher) -> bytes | None:
    """Write a text as a regular expression; None for what is none."""
    if not isinstance(pattern, Masked):
        return None
    parts = []
    for value, mask in zip(pattern.pattern.value, pattern.pattern.mask, strict=True):
        if mask == 0xFF:
            parts.append(rb"\x%02x" % value)
        elif mask == 0xDF:  # a letter, in either case
            parts.append(rb"[\x%02x\x%02x]" % (value & mask, value | ~mask & 0xFF))
        else:
            return None
    return b"".join(parts)
