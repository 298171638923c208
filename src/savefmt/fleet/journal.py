"""The journal of a run: one line an image, whole after any end, so that a run can continue."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any, BinaryIO

from savefmt.errors import ConversionError, ImageIOError
from savefmt.fleet.records import FleetRecord, Job, Outcome
from savefmt.model import StrPath

Key = tuple[str, str, str, str]
"""What was asked of which image: verb, options, path; and the host, where it is that one's own."""

_MAX_LINE_LENGTH = 16 << 20
"""Bytes of a line: a thousand times what one takes."""


class Journal:
    """A file to which lines are added.

    Parameters
    ----------
    path : str or os.PathLike
        The file.
    resume : bool
        Go on with one that is there; a line that was torn at its end is dropped.

    Attributes
    ----------
    kept : Counter of Outcome
        Verdicts of the jobs that `has` said were done.

    Raises
    ------
    ConversionError
        If a line does not belong to a journal, if the file of a new journal exists already, or
        if another run is adding to it.
    ImageIOError
        What the operating system refused.
    """

    def __init__(self, path: StrPath, *, resume: bool) -> None:
        self._path = path
        self._done: dict[Key, tuple[tuple[int, ...], Outcome]] = {}
        self.kept: Counter[Outcome] = Counter()
        mode = os.O_RDWR | os.O_CLOEXEC | os.O_APPEND
        try:
            self._fd = os.open(path, mode | (0 if resume else os.O_CREAT | os.O_EXCL), 0o600)
        except FileExistsError as error:
            raise ConversionError("the file exists; --resume continues it", path=path) from error
        except OSError as error:
            raise ImageIOError.from_os(error, path=path) from error
        try:
            self._claim()
            self._take_up()
        except BaseException:
            os.close(self._fd)
            raise

    def _claim(self) -> None:
        """Keep others from adding to it, else two runs would do everything twice."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConversionError(
                "another run is adding to this journal", path=self._path
            ) from error
        except OSError as error:  # a file system without locks
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS):
                raise ImageIOError.from_os(error, path=self._path) from error

    def _take_up(self) -> None:
        """Read what is there, and cut off a line without an end."""
        end = 0
        with open(os.dup(self._fd), "rb") as file:
            for record, line in _lines(file, self._path):
                self._done[_key(record)] = record.identity, record.verdict
                end += len(line)
        os.ftruncate(self._fd, end)

    def has(self, job: Job) -> bool:
        """Whether a job was done on just this file; what failed is tried again."""
        target = job.target
        host = target.host if target.place else ""
        key = job.verb, _words(job.options), target.path, host
        before, verdict = self._done.get(key, ((), Outcome.FAILED))
        if not target.identity or before != target.identity or verdict is Outcome.FAILED:
            return False
        self.kept[verdict] += 1
        return True

    def add(self, record: FleetRecord) -> None:
        """Add a line."""
        data = f"{record.line()}\n".encode()
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            raise ImageIOError.from_os(error, path=self._path) from error

    def close(self) -> None:
        """Sync and close."""
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise ImageIOError.from_os(error, path=self._path) from error
        finally:
            os.close(self._fd)


def read_journal(path: StrPath) -> Iterator[FleetRecord]:
    """Yield what is known of each image: of several lines about one, the newest.

    Parameters
    ----------
    path : str or os.PathLike
        A journal; a line that was torn at its end is passed over.

    Yields
    ------
    FleetRecord
        In the order of the file.

    Raises
    ------
    ConversionError
        If a line does not belong to a journal.
    ImageIOError
        What the operating system refused.
    """
    newest: dict[Key, int] = {}
    try:
        with open(path, "rb") as file:
            for number, (record, _) in enumerate(_lines(file, path)):
                newest[_key(record)] = number
            file.seek(0)
            for number, (record, _) in enumerate(_lines(file, path)):
                if newest.get(_key(record)) == number:
                    yield record
    except OSError as error:
        raise ImageIOError.from_os(error, path=path) from error


def _lines(file: BinaryIO, path: StrPath) -> Iterator[tuple[FleetRecord, bytes]]:
    """Yield whole lines."""
    lines = iter(lambda: file.readline(_MAX_LINE_LENGTH), b"")
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n") and len(line) < _MAX_LINE_LENGTH:
            return
        try:
            yield FleetRecord.from_line(line), line
        except ValueError as error:
            raise ConversionError(
                f"line {number} was not written by savefmt fleet", path=path
            ) from error


def _key(record: FleetRecord) -> Key:
    host = record.host if record.local else ""
    return record.verb, _words(record.options), record.path, host


def _words(options: dict[str, Any]) -> str:
    return json.dumps(options, sort_keys=True)
