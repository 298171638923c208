"""Text for people: what is safe to print, and sizes and times in words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

WIDTH = 96
"""Columns that text is wrapped to."""
LONGEST = 4096
"""Characters of one text; a path is no longer, and a longer name is a prank."""

# Letters and marks to Unicode, nothing or a blank to the eye.
_INVISIBLE = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
_INVISIBLE_RANGES = (("\u180b", "\u180f"), ("\ufe00", "\ufe0f"), ("\U000e0100", "\U000e01ef"))
_COLOR = "(\x1b\\[[0-9;]*m)"

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def plain(text: str, longest: int = LONGEST) -> str:
    """Make text from a file harmless on a terminal.

    The writer of an image chose the names in it. An escape sequence in a name must not reach
    the terminal. Invisible characters, or characters that turn the direction of writing, must
    not make one name look like another.

    Parameters
    ----------
    text : str
        Anything.
    longest : int
        Characters to show.

    Returns
    -------
    str
        The same with every character escaped that is a control (C0 and C1), a format (zero
        width, bidirectional), a blank other than the space, or invisible.
    """
    if len(text) > longest:
        return f"{plain(text[:longest])}... ({len(text)} characters)"
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if _is_seen(c) else c.encode("unicode_escape").decode() for c in text)


def cell(text: str) -> str:
    """Make text from a file harmless in a table of CSV.

    Spreadsheets compute what begins like a formula, and a name in an image may be one.

    Parameters
    ----------
    text : str
        Anything.

    Returns
    -------
    str
        As `plain` has it, behind an apostrophe where it would be computed.
    """
    shown = plain(text)
    return f"'{shown}" if shown.startswith(("=", "+", "-", "@")) else shown


def _is_seen(c: str) -> bool:
    if not c.isprintable() or c in _INVISIBLE:
        return False
    return not any(first <= c <= last for first, last in _INVISIBLE_RANGES)


def only_colors(line: str) -> str:
    """Escape all controls in a line but those that paint it: a last net below `plain`."""
    if line.isprintable():
        return line
    return "".join(
        part if number % 2 else plain(part, len(part))
        for number, part in enumerate(re.split(_COLOR, line))
    )


def brief_size(count: float) -> str:
    """Give a size in the unit that suits it, as ``1.5 GiB``.

    Parameters
    ----------
    count : float
        Bytes.

    Returns
    -------
    str
        Three significant digits and a binary unit.
    """
    unit = 0
    while count >= 999.5 and unit < len(_UNITS) - 1:
        count /= 1024
        unit += 1
    return f"{count:.3g} {_UNITS[unit]}"


def size(count: int) -> str:
    """Give a size twice, as ``64 MiB (67108864 bytes)``.

    Parameters
    ----------
    count : int
        Bytes.

    Returns
    -------
    str
        For people, then exactly.
    """
    return f"{count} bytes" if count < 1000 else f"{brief_size(count)} ({count} bytes)"


def cloned_line(length: int) -> Iterator[str]:
    """Tell what did not have to be copied, if anything."""
    if length:
        yield f"  cloned {brief_size(length)} of pages"


def duration(seconds: float) -> str:
    """Give a time span, as ``0.21 s`` or ``1:02:03``.

    Parameters
    ----------
    seconds : float
        The span.

    Returns
    -------
    str
        Below a minute in seconds, above it like a clock.
    """
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def many(count: int, word: str) -> str:
    """Count things, as ``1 page`` or ``3 pages``."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def paragraphs(items: Iterable[Iterable[str]]) -> Iterator[str]:
    """Put blocks of lines one after another, an empty line between them.

    Parameters
    ----------
    items : iterable of iterables of str
        The blocks.

    Yields
    ------
    str
        One line.
    """
    for number, block in enumerate(items):
        if number:
            yield ""
        yield from block
