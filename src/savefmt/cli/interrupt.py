"""Ctrl-C while savefmt controls a guest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from savefmt.cli.ui import Ui


@contextmanager
def telling_of_the_guest(ui: Ui) -> Iterator[None]:
    """Say what became of the guest when something ends the work early.

    Parameters
    ----------
    ui : Ui
        Where to say it.
    """
    try:
        yield
    except BaseException as error:
        for note in getattr(error, "__notes__", ()):
            ui.remark(note)
        raise
