"""Show how far a long job is: a bar, plain lines, or numbers for a program."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from savefmt.cli.render.plain import brief_size, duration, plain
from savefmt.model import Progress

if TYPE_CHECKING:
    import rich.progress

# Work that ends sooner than this needs no bar.
PATIENCE = 1.0
REDRAW = 0.1
PLAIN_EVERY = 1.0


class Pace:
    """Rate and remaining time of one phase, from its own start.

    Parameters
    ----------
    now : float
        Seconds on a monotonic clock.
    """

    def __init__(self, now: float) -> None:
        self._began = now
        self._first = 0

    def restart(self, done: int, now: float) -> None:
        """Begin a new phase, which need not run as fast as the last."""
        self._began = now
        self._first = done

    def rate(self, done: int, now: float) -> float:
        """Bytes per second; 0 where it is too early to tell."""
        elapsed = now - self._began
        return (done - self._first) / elapsed if elapsed > 0.05 else 0.0

    def remaining(self, done: int, total: int, now: float) -> float | None:
        """Seconds still to go; None where nobody knows."""
        rate = self.rate(done, now)
        return (total - done) / rate if rate > 0 and total >= done else None


class ProgressBar:
    """The progress callback of one job; use it as a context manager.

    Parameters
    ----------
    label : str
        What is worked on.
    bar : bool
        Show something to people.
    terminal : bool
        Standard error can redraw a line.
    at_once : bool
        Do not wait `PATIENCE` seconds first.
    color : bool
        Colour the bar.
    descriptor : int or None
        Where a program wants lines ``N/100``.
    step : callable
        Told about every new phase.
    clock : callable
        For tests.
    """

    def __init__(
        self,
        label: str,
        *,
        bar: bool,
        terminal: bool,
        at_once: bool,
        color: bool,
        descriptor: int | None,
        step: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._label = label
        # A terminal gets a bar by default; a log gets lines only on request, or they would fill
        # it.
        self._bar = bar and (terminal or at_once)
        self._terminal = terminal
        self._color = color
        self._descriptor = descriptor
        self._step = step
        self._clock = clock
        now = clock()
        self._next_draw = now if at_once else now + PATIENCE
        self._pace = Pace(now)
        self._last = Progress(0, 0)
        self._percent = -1
        self._asked = False
        self._rich: tuple[rich.progress.Progress, rich.progress.TaskID] | None = None
        self._old_handler: Any = None

    def __enter__(self) -> Self:
        try:
            self._old_handler = signal.signal(signal.SIGUSR1, self._on_signal)
        except ValueError:  # not in the main thread: then no signals
            self._old_handler = None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._rich is not None:
            self._rich[0].stop()
        if self._old_handler is not None:
            signal.signal(signal.SIGUSR1, self._old_handler)
        if kind is None:
            self._tell_program(100)

    def __call__(self, progress: Progress) -> None:
        """Take note, and redraw now and then."""
        now = self._clock()
        if progress.phase != self._last.phase or progress.done < self._last.done:
            self._pace.restart(progress.done, now)
            if progress.phase and progress.phase != self._last.phase:
                self._step(f"{self._label}: {progress.phase}")
        self._last = progress
        if progress.total:
            # 100 is kept for the end: the job still has to sync and rename.
            self._tell_program(min(100 * progress.done // progress.total, 99))
        if self._asked:
            self._asked = False
            self._print_line(now)
        if self._bar and now >= self._next_draw:
            self._draw(now)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        # Printing from a handler could cut into a half-written line.
        self._asked = True

    def _tell_program(self, percent: int) -> None:
        if self._descriptor is None or percent <= self._percent:
            return
        self._percent = percent
        try:
            os.write(self._descriptor, b"%d/100\n" % percent)
        except BlockingIOError:
            pass  # a listener that is slow; the next line says it all
        except OSError:
            self._descriptor = None  # the listener has gone; the work goes on

    def _draw(self, now: float) -> None:
        if self._terminal:
            self._next_draw = now + REDRAW
            self._draw_bar(now)
        else:
            self._next_draw = now + PLAIN_EVERY
            self._print_line(now)

    def _print_line(self, now: float) -> None:
        if sys.stderr is not None:
            print(f"savefmt: {self._label}: {self.line(now)}", file=sys.stderr, flush=True)

    def line(self, now: float) -> str:
        """Say where the job stands.

        Parameters
        ----------
        now : float
            Seconds on the meter's clock.

        Returns
        -------
        str
            Share, amount, rate and remaining time, as far as known.
        """
        done, total = self._last.done, self._last.total
        parts = [brief_size(done)]
        if total:
            parts = [f"{100 * done // total} %", f"{brief_size(done)} of {brief_size(total)}"]
        parts += self._rate_and_rest(now)
        if self._last.phase:
            parts.insert(0, plain(self._last.phase))
        return ", ".join(parts)

    def _rate_and_rest(self, now: float) -> list[str]:
        done, total = self._last.done, self._last.total
        parts = []
        if rate := self._pace.rate(done, now):
            parts.append(f"{brief_size(rate)}/s")
        remaining = self._pace.remaining(done, total, now) if total else None
        if remaining is not None:
            parts.append(f"{duration(remaining)} left")
        return parts

    def _draw_bar(self, now: float) -> None:
        bar, task = self._rich or self._open_bar()
        bar.update(
            task,
            completed=self._last.done,
            total=self._last.total or None,
            phase=plain(self._last.phase),
            pace=", ".join(self._rate_and_rest(now)),
            refresh=True,
        )

    def _open_bar(self) -> tuple[rich.progress.Progress, rich.progress.TaskID]:
        import rich.console
        import rich.progress

        bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}", markup=False),
            rich.progress.TextColumn("{task.fields[phase]}", markup=False),
            rich.progress.BarColumn(),
            rich.progress.TaskProgressColumn(),
            rich.progress.TextColumn("{task.fields[pace]}", markup=False),
            console=rich.console.Console(
                stderr=True, force_terminal=True, no_color=not self._color
            ),
            # Redrawn from the callback, so that no thread is needed besides those of the C
            # core.
            auto_refresh=False,
            transient=True,
        )
        bar.start()
        self._rich = bar, bar.add_task(self._label, total=None, phase="", pace="")
        return self._rich
