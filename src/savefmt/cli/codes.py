"""The exit codes, a promise to scripts."""

from __future__ import annotations

import enum
from collections.abc import Iterable


class ExitCode(enum.IntEnum):
    """What the process returns; the meaning of 1 to 3 depends on the command."""

    GOOD = 0
    FAILED = 1
    DIFFERENT = 1  # compare
    TROUBLE = 2  # compare could not finish
    DAMAGED = 2  # check
    MISSING = 2  # needs
    FINDINGS = 3  # check: usable, but look
    NOT_AN_IMAGE = 63  # check
    USAGE = 64
    INTERNAL = 70
    INTERRUPTED = 130
    BROKEN_PIPE = 141


# What counts as worse, where several images were looked at: an unread image may
# hide anything, so it outranks every verdict.
_CHECK_ORDER = (
    ExitCode.GOOD,
    ExitCode.FINDINGS,
    ExitCode.DAMAGED,
    ExitCode.NOT_AN_IMAGE,
    ExitCode.FAILED,
)


def worst(codes: Iterable[ExitCode]) -> ExitCode:
    """Return the gravest of the codes that single images gave.

    Parameters
    ----------
    codes : iterable of ExitCode
        One for each image; none at all counts as good.

    Returns
    -------
    ExitCode
        The code of the whole command.
    """
    return max(codes, key=_CHECK_ORDER.index, default=ExitCode.GOOD)
