"""Suggestions for a word that savefmt does not know."""

from __future__ import annotations

from collections.abc import Iterable

# Names that other programs have for what savefmt's commands do.
_HABITS = {
    "cat": "read",
    "cmp": "compare",
    "define": "xml set",
    "diff": "compare",
    "dump": "export",
    "dumpxml": "xml dump",
    "edit": "xml edit",
    "find": "search",
    "fsck": "check",
    "grep": "search",
    "hexdump": "read",
    "ls": "info",
    "managedsave": "save",
    "pmemsave": "export",
    "registers": "regs",
    "sha256sum": "hash",
    "start": "restore",
    "verify": "check",
    "x": "read",
    "xxd": "read",
}


def meant_by(word: str, known: Iterable[str]) -> str:
    """Return what to say about an unknown word.

    Parameters
    ----------
    word : str
        What was given.
    known : iterable of str
        What there is.

    Returns
    -------
    str
        ``; did you mean ...?``, or nothing where that is anybody's guess.
    """
    from difflib import get_close_matches  # late: it is for mistakes only

    names = list(known)
    habit = _HABITS.get(word, "")
    if habit.partition(" ")[0] in names:
        return f"; did you mean {habit}?"
    starts = [name for name in names if len(word) > 3 and name.startswith(word)]
    likely = starts[:1] or get_close_matches(word, names, n=1)
    return f"; did you mean {likely[0]}?" if likely else ""
