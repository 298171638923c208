"""What happened when: starts of processes, the log, and times of files in the page cache."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter

from savefmt.linux.clock import Clock
from savefmt.linux.facts import Event
from savefmt.linux.kernel import Kernel
from savefmt.linux.kernellog import log_lines
from savefmt.linux.pagecache import cached_files
from savefmt.linux.processes import processes
from savefmt.linux.walks import note

_FILE_TIMES = (
    ("accessed", "Last Access Time"),
    ("modified", "Content Modification Time"),
    ("changed", "Metadata Modification Time"),
)


def events(kernel: Kernel) -> list[Event]:
    """Return what has a time of day, the earliest first."""
    return sorted(_events(kernel), key=attrgetter("time", "description", "message"))


def _events(kernel: Kernel) -> Iterator[Event]:
    clock = Clock.of(kernel)
    if clock.booted is None or clock.now is None:
        note(kernel, "no-clock", "the kernel does not tell where its clock is: no times of day")
    else:
        yield Event(clock.booted, "Boot Time", "the guest was started")
        yield Event(clock.now, "Save Time", "the guest was saved")
        for line in log_lines(kernel):
            yield Event(clock.booted + line.uptime, "Kernel Log", line.text)
    for one in processes(kernel):
        if one.started is not None and not one.kernel:
            words = " ".join(one.command_line) or one.name
            message = f"process {one.pid} of user {one.uid}, parent {one.parent}: {words}"
            yield Event(one.started, "Process Start Time", message)
    for file in cached_files(kernel):
        for name, description in _FILE_TIMES:
            deleted = " (deleted)" * file.deleted
            message = f"{file.path}{deleted}, {file.size} bytes, {file.filesystem}"
            yield Event(getattr(file, name), description, message)
