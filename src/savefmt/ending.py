"""Signals that end the process come as an exception, so that half-made files go."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

_SOON = 0.01
"""Seconds after which a signal is sent again: the callback that swallowed it is over by then."""


class Terminated(BaseException):
    """A signal asked us to end; no ``except Exception`` may swallow it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Turn the first signal that ends us into an exception.

    SIGINT becomes a ``KeyboardInterrupt``, SIGTERM and SIGHUP become `Terminated`.  Those that
    follow must not cut short what removes files, or what brings a guest back: they do nothing.

    Python drops an exception that is raised in a finalizer or in the callback of a weak
    reference; a signal may come there, too.  Then it is sent once more.
    """
    ending = again = False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal ending
        if not ending:
            ending = True
            raise KeyboardInterrupt if number == signal.SIGINT else Terminated(number)

    def dropped(lost: UnraisableHookArgs) -> None:
        nonlocal ending, again
        error = lost.exc_value
        if not isinstance(error, (KeyboardInterrupt, Terminated)):
            others(lost)
            return
        ending, again = False, True
        number = error.number if isinstance(error, Terminated) else signal.SIGINT
        _thread.start_new_thread(_send_soon, (number,))

    defaults = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    old = {}
    others, sys.unraisablehook = sys.unraisablehook, dropped
    try:
        for number, default in defaults.items():
            # nohup and shells without job control hand down an ignored signal, which stays
            # so, and a test runner may have its own handler.  (Until now, ours is the default.)
            if signal.getsignal(number) in (default, signal.SIG_DFL):
                old[number] = signal.signal(number, end)
    except ValueError:  # not in the main thread: then no signals
        pass
    try:
        yield
    finally:
        # Once a signal has come the process is about to end.  The interpreter puts back all
        # handlers but those that ignore, and nothing may cut its last steps short.
        for number, handler in old.items():
            signal.signal(number, signal.SIG_IGN if ending or again else handler)
        sys.unraisablehook = others


def _send_soon(number: int) -> None:
    time.sleep(_SOON)
    os.kill(os.getpid(), number)


@contextmanager
def unwrapped() -> Iterator[None]:
    """Bring to light what a signal raised inside of something that wraps what it meets.

    A class that is being defined does that (Python 3.11, ``__set_name__``).
    """
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, (KeyboardInterrupt, Terminated)):
                raise cause from None
            cause = cause.__cause__
        raise
