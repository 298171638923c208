"""The map file of GNU ddrescue: which parts of a disk or file it could copy.

Lines that begin with ``#`` are comments.  The first other line tells where the copy was, and
each one behind it a part of the source: position, length, and a sign, ``+`` for what was copied.
"""

from __future__ import annotations

import re

from savefmt.errors import CorruptError

MAX_LENGTH = 64 << 20
"""Characters of a map file that are read at all."""

_COPIED = "+"
_SIGNS = frozenset("?*/-+")
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20}")


def bad_parts(text: str) -> list[tuple[int, int]]:
    """Return the parts that were not copied, from their first byte to behind their last.

    Parameters
    ----------
    text : str
        Of the map file.

    Raises
    ------
    CorruptError
        If it is none.
    """
    rows = [line.split() for line in text.splitlines() if line.strip() and line[0] != "#"]
    if not rows or len(rows[0]) not in (2, 3) or not _NUMBER.fullmatch(rows[0][0]):
        raise CorruptError(
            "this is not a GNU ddrescue map file, which ddrescue writes next to its copy, and "
            "whose first line is a position and a sign"
        )
    found = []
    for row in rows[1:]:
        if len(row) != 3 or row[2] not in _SIGNS or not all(map(_NUMBER.fullmatch, row[:2])):
            raise CorruptError(
                f"this is not a line of a GNU ddrescue map file: {' '.join(row)[:80]!r}"
            )
        start, length = (int(word, 0) if "x" in word.lower() else int(word) for word in row[:2])
        if row[2] != _COPIED:
            found.append((start, start + length))
    return found
