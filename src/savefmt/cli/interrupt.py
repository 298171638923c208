"""Ctrl-C while a guest is in our hands."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from savefmt.cli.ui import Ui


@contextmanager
def once_interrupted(ui: Ui) -> Iterator[None]:
    """Let one Ctrl-C do, and say what became of the guest.

    A second one must not cut short what brings the guest back, so it is ignored from then
    on: the process is about to end.

    Parameters
    ----------
    ui : Ui
        Where to say it.
    """

    def end(number: int, frame: FrameType | None) -> NoReturn:
        signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    # nohup and shells without job control hand down an ignored signal, which stays so.
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    try:
        if ours:
            signal.signal(signal.SIGINT, end)
    except ValueError:  # not in the main thread: then no signals
        ours = False
    try:
        yield
    except BaseException as error:
        for note in getattr(error, "__notes__", ()):
            ui.remark(note)
        raise
    finally:
        if ours and signal.getsignal(signal.SIGINT) is end:
            signal.signal(signal.SIGINT, signal.default_int_handler)
