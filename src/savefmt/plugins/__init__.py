"""Files that other programs load, so that they read save images as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PROGRAMS = ("volatility",)
"""Programs that there is a plugin for."""


def folder(program: str) -> Path:
    """Return the folder that a program is to be pointed at.

    Parameters
    ----------
    program : str
        One of `PROGRAMS`.

    Returns
    -------
    Path
        With nothing in it but what that program loads.

    Raises
    ------
    KeyError
        For another program.
    """
    from pathlib import Path

    if program not in PROGRAMS:
        raise KeyError(program)
    return Path(__file__).parent / program
