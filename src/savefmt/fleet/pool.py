"""Processes of this host that do jobs: no job is lost when a process dies or hangs."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import selectors
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Protocol, Self

from savefmt.fleet.records import Job, Outcome, Told
from savefmt.fleet.targets import Target, find_targets, identity_of
from savefmt.fleet.worker import OUT_OF_MEMORY
from savefmt.frozen import dataclass

_COMMAND = (sys.executable, "-P", "-m", "savefmt.fleet.worker")
_GRACE = 5.0
"""Seconds that a worker has to remove half-made files."""
_WATCH = 0.1
"""Seconds between two looks at the memory of workers."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one try may take: seconds and bytes, 0 for no limit; and how often to try again."""

    seconds: float = 0.0
    memory: int = 0
    retries: int = 1


@dataclass(frozen=True, slots=True)
class Done:
    """A job that is over.

    Attributes
    ----------
    job, told
        What was asked, and what is known.
    seconds : float
        That the last try took.
    tries : int
        How many there were.
    host : str
        Where it was done.
    identity : tuple of int
        As `identity_of` told before the last try.
    """

    job: Job
    told: Told
    seconds: float
    tries: int
    host: str
    identity: tuple[int, ...]


class Engine(Protocol):
    """Finds images and does jobs, in any order."""

    def find(self, names: Iterable[str]) -> Iterator[Target]:
        """Yield the images that the names lead to."""

    def run(self, jobs: Iterable[Job]) -> Iterator[Done]:
        """Yield each job when it is over."""


class ProcessPool:
    """Workers of this host.

    Parameters
    ----------
    count : int
        How many.
    limits : Limits
        Of each try.
    command : sequence of str, optional
        The worker.
    """

    def __init__(self, count: int, limits: Limits, *, command: Sequence[str] = _COMMAND) -> None:
        self._count = count
        self._limits = limits
        self._command = command
        self._selector = selectors.DefaultSelector()
        self._workers: list[_Worker] = []
        self._held: list[subprocess.Popen[bytes]] = []
        self._host = socket.gethostname()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers:
            if worker.job is not None:
                worker.process.terminate()
        for worker in self._workers:
            worker.end()
        self._workers.clear()
        for process in self._held:
            process.poll()
        self._selector.close()

    def find(self, names: Iterable[str]) -> Iterator[Target]:
        """Yield the images that names lead to on this host, as `find_targets` does."""
        return find_targets(names)

    def run(self, jobs: Iterable[Job]) -> Iterator[Done]:
        """Yield each job when it is over.

        Parameters
        ----------
        jobs : iterable of Job
            Taken as workers get free.

        Yields
        ------
        Done
            One for each job.
        """
        waiting = iter(jobs)
        again: deque[tuple[Job, int]] = deque()

        def take() -> tuple[Job, int] | None:
            if again:
                return again.popleft()
            job = next(waiting, None)
            return (job, 1) if job is not None else None

        while True:
            while (worker := self._idle()) is not None and (item := take()) is not None:
                worker.give(*item)
            busy = [worker for worker in self._workers if worker.job is not None]
            if not busy:
                return
            answering = self._answering(busy)
            for worker in busy:
                done = self._look_at(worker, worker in answering)
                if done is None:
                    continue
                if isinstance(done, Done):
                    yield done
                else:
                    again.append(done)

    def _idle(self) -> _Worker | None:
        """Return a worker without a job, a new one if there may be more."""
        for worker in self._workers:
            if worker.job is None:
                return worker
        if len(self._workers) == self._count:
            return None
        worker = _Worker(self._command)
        self._workers.append(worker)
        self._selector.register(worker.answers, selectors.EVENT_READ, worker)
        return worker

    def _answering(self, busy: Sequence[_Worker]) -> list[_Worker]:
        """Wait; return workers that answer or are gone, none where it is time to look at all."""
        return [key.data for key, _ in self._selector.select(self._patience(busy))]

    def _patience(self, busy: Sequence[_Worker]) -> float | None:
        """Return for how long nobody need be looked at."""
        times = [_WATCH] if self._limits.memory else []
        if self._limits.seconds:
            started = min(worker.started for worker in busy)
            times.append(max(started + self._limits.seconds - time.monotonic(), 0))
        return min(times, default=None)

    def _excess(self, worker: _Worker) -> str:
        """Say which limit a worker has met, or nothing."""
        seconds, memory = self._limits.seconds, self._limits.memory
        if seconds and time.monotonic() - worker.started >= seconds:
            return f"it took longer than {seconds:g} s"
        # The system's own limit would make decoders fail as if the image were damaged.
        if memory and worker.memory() > memory:
            return f"it took more memory than {memory} bytes"
        return ""

    def _look_at(self, worker: _Worker, answering: bool) -> Done | tuple[Job, int] | None:
        """Return a finished job, one to be tried again, or None where there is more to come."""
        state = worker.read() if answering else None
        job, tries = worker.job, worker.tries
        if isinstance(state, Told):
            worker.job = None
            return self._done(worker, job, state) if job is not None else None
        why = self._excess(worker)
        if state is None and not why:
            return None
        self._selector.unregister(worker.answers)
        self._workers.remove(worker)
        if why:
            worker.process.terminate()
        ended = worker.end()
        held = worker.process.returncode is None
        if held:
            self._held.append(worker.process)
        if job is None:
            return None
        if tries <= self._limits.retries and not held:  # which would hold the next one, too
            return job, tries + 1
        reasons = (why, ended) if why and held else (why or ended,)
        return self._done(worker, job, Told(Outcome.FAILED, reasons))

    def _done(self, worker: _Worker, job: Job, told: Told) -> Done:
        seconds = time.monotonic() - worker.started
        return Done(job, told, seconds, worker.tries, self._host, worker.identity)


_GONE = "gone"


class _Worker:
    """A process, and what it is doing."""

    def __init__(self, command: Sequence[str]) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is for us
        )
        if self.process.stdin is None or self.process.stdout is None:
            raise AssertionError("no pipes")
        self._jobs, self.answers = self.process.stdin, self.process.stdout
        self._read = bytearray()
        self.job: Job | None = None
        self.tries = 0
        self.started = 0.0
        self.identity: tuple[int, ...] = ()

    def give(self, job: Job, tries: int) -> None:
        """Let it do a job; that it died meanwhile is told by `read`."""
        self.job, self.tries, self.started = job, tries, time.monotonic()
        self.identity = identity_of(job.target.path)
        words = {"verb": job.verb, "path": job.target.path, "options": job.options}
        with contextlib.suppress(BrokenPipeError):
            self._jobs.write(f"{json.dumps(words)}\n".encode())

    def memory(self) -> int:
        """Return the bytes that it has for itself, 0 where that is not known."""
        try:
            with open(f"/proc/{self.process.pid}/statm", "rb") as file:
                _, resident, shared, *_ = map(int, file.read().split())
        except (OSError, ValueError):
            return 0
        return (resident - shared) * resource.getpagesize()

    def read(self) -> Told | str | None:
        """Return the answer, None before it is whole, or that the process is gone."""
        data = os.read(self.answers.fileno(), 1 << 16)
        if not data:
            return _GONE
        self._read += data
        if not self._read.endswith(b"\n"):
            return None
        values = json.loads(self._read)
        self._read.clear()
        return Told.from_values(values)

    def end(self) -> str:
        """Wait for its end, make it end, and say how it did."""
        self._jobs.close()
        try:
            code = self.process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            try:
                code = self.process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                self.answers.close()
                return (
                    "its worker cannot be ended: it waits in the kernel, for example for a "
                    "disk or a server that does not answer"
                )
        self.answers.close()
        if code == OUT_OF_MEMORY:
            return "it took more memory than there is"
        return (
            f"its worker was killed by signal {-code}" if code < 0 else f"its worker died ({code})"
        )
