"""Case notes: a line for each command that read evidence, with hashes that prove what it read."""

from __future__ import annotations

import argparse
import json
import os
import signal
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256

import savefmt
from savefmt.cli.parser import usage_error
from savefmt.cli.render.casenotes import CaseNote, NotedFile, Printed
from savefmt.cli.render.document import SCHEMA, json_text, values
from savefmt.cli.ui import Ui
from savefmt.errors import SavefmtError
from savefmt.frozen import replace
from savefmt.model import StrPath
from savefmt.pipes import witness_output
from savefmt.progress import Meter
from savefmt.reading.source import Source, find_source
from savefmt.writing.addedlines import AddedLines

_HEAD = b'{"schema": '
_PIECE = 1 << 20
_SETTLED = 2 * 10**9
"""Nanoseconds after a change in which a file may change once more at the same time of day."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_Identity = tuple[object, ...]


class CaseNotes:
    """The note of one command, from its first moment to its last.

    Parameters
    ----------
    args : argparse.Namespace
        Of a command with `evidence_options`.
    words : sequence of str
        The command line.
    ui : Ui
        Shows progress, and knows what went wrong.

    Raises
    ------
    SavefmtError
        If nothing can be added to the file.
    """

    def __init__(self, args: argparse.Namespace, words: Sequence[str], ui: Ui) -> None:
        self._begin = time.time_ns()
        self._process = os.getpid()
        self._args, self._words, self._ui = args, words, ui
        self._inputs: list[NotedFile] = []
        self._outputs: list[NotedFile] = []
        if any(map(self._is_notes, [*_inputs(args), *_outputs(args)])):
            usage_error(args, "--case-notes needs a file of its own")
        self._lines = AddedLines(args.case_notes, head=_HEAD)
        self._before = {path: _status_of(path) for path in _files(_outputs(args))}
        self._printed, self._sum = 0, sha256()
        witness_output(self._see)

    def _is_notes(self, path: StrPath) -> bool:
        notes: str = self._args.case_notes
        try:
            return os.path.samefile(path, notes)
        except OSError:  # one of them is not there yet
            return os.path.realpath(path) == os.path.realpath(notes)

    def _see(self, data: memoryview) -> None:
        self._printed += len(data)
        self._sum.update(data)

    def sum_inputs(self) -> None:
        """Take down what will be read, before it is."""
        kept = dict(_kept(self._lines))
        for path in _inputs(self._args):
            found = _describe(path)
            self._inputs.append(found)
            self._inputs[-1] = self._summed(found, kept.get(_identity(found)))
            kept[_identity(found)] = self._inputs[-1]

    def sum_outputs(self) -> None:
        """Take down what was written, now that it is there."""
        if os.getpid() != self._process:  # a forked child, whose parent has the note
            return
        for path in _files(_outputs(self._args)):
            status = _status_of(path)
            if status is not None and status != self._before.get(path):
                found = _describe(path)
                self._outputs.append(found)
                self._outputs[-1] = self._summed(found, None)

    def write(self, code: int) -> int:
        """Add the line, and return the exit code: a command without its note has failed."""
        if os.getpid() != self._process:
            return code
        note = CaseNote(
            version=savefmt.__version__,
            command=["savefmt", *self._words],
            begin=_stamp(self._begin),
            end=_stamp(time.time_ns()),
            host=os.uname().nodename,
            user=_user(),
            folder=_folder(),
            inputs=[_compared(one) for one in self._inputs],
            outputs=self._outputs,
            printed=Printed(self._printed, self._sum.hexdigest()) if self._printed else None,
            errors=[*self._ui.complaints, *_ending(code)],
            exit_code=code,
        )
        line = json_text({"schema": SCHEMA, **values(note)}).encode()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            self._lines.add(line)
        except SavefmtError as error:
            self._ui.complain(error)
            return code or int(self._args.failed)
        finally:
            self._lines.close()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return code

    def _summed(self, found: NotedFile, known: NotedFile | None) -> NotedFile:
        if found.kind not in ("file", "device"):
            return found
        if known is not None and found.kind == "file":
            return replace(found, sha256=known.sha256, hashed=known.hashed)
        began = time.time_ns()
        try:
            with self._ui.progress(found.path) as progress:
                digest = _digest(found, Meter(progress, found.size or 0, "hashing"))
        except OSError as error:
            return replace(found, problem=error.strerror or str(error))
        if digest is None:
            return replace(found, problem="it changed while it was hashed")
        return replace(found, sha256=digest, hashed=_stamp(began))


def _inputs(args: argparse.Namespace) -> Iterator[StrPath]:
    for name in args.evidence:
        value = getattr(args, name)
        for path in value if isinstance(value, list) else [] if value is None else [value]:
            yield path
            if isinstance(path, Source):
                yield from (file for _, file in path.shared)


def _outputs(args: argparse.Namespace) -> list[StrPath]:
    return [path for path in args.writes(args) if path not in (None, "-")]


def _files(paths: Iterable[StrPath]) -> Iterator[str]:
    """Yield the files behind names: of a folder, those in it."""
    for path in map(os.path.abspath, paths):
        if not os.path.isdir(path):
            yield path
            continue
        for folder, _, names in os.walk(path):
            yield from (os.path.join(folder, name) for name in sorted(names))


def _describe(path: StrPath) -> NotedFile:
    """Tell about a file what needs no look into it."""
    if path == "-":
        return NotedFile("-", None, "pipe")
    source = find_source(path)
    part = f"offset {source.offset}" if source.offset else None
    part = part if source.snapshot is None else f"snapshot {source.snapshot}"
    name = os.path.abspath(source.path)
    try:
        status = os.stat(name)
        device = stat.S_ISBLK(status.st_mode)
        size = _device_size(name) if device else status.st_size
    except OSError as error:
        return NotedFile(name, part, "missing", problem=error.strerror or str(error))
    if not device and not stat.S_ISREG(status.st_mode):
        return NotedFile(name, part, "pipe" if stat.S_ISFIFO(status.st_mode) else "other")
    return NotedFile(
        name,
        part,
        "device" if device else "file",
        size,
        _stamp(status.st_mtime_ns),
        _stamp(status.st_ctime_ns),
        _stamp(status.st_atime_ns),
        status.st_dev,
        status.st_ino,
    )


def _device_size(path: str) -> int:
    fd = _open(path)
    try:
        return os.lseek(fd, 0, os.SEEK_END)
    finally:
        os.close(fd)


def _open(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)


def _identity(found: NotedFile) -> _Identity:
    return found.device, found.inode, found.size, found.modified, found.changed


def _status_of(path: str) -> _Identity | None:
    """Tell which file a name leads to at the moment."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _compared(found: NotedFile) -> NotedFile:
    if found.kind != "file":
        return found
    return replace(found, unchanged=_identity(_describe(found.path)) == _identity(found))


def _digest(found: NotedFile, meter: Meter) -> str | None:
    """Hash a whole file; None if it was another one, or another's content, by the end."""
    fd = _open(found.path)
    try:
        total, done, size = sha256(), 0, found.size or 0
        while done < size and (piece := os.read(fd, min(_PIECE, size - done))):
            total.update(piece)
            done += len(piece)
            meter.update(done)
        status = os.fstat(fd)
    finally:
        os.close(fd)
    same = (status.st_dev, status.st_ino) == (found.device, found.inode)
    if found.kind == "file":
        same = same and _stamp(status.st_ctime_ns) == found.changed
    return total.hexdigest() if same and done == size else None


def _kept(lines: AddedLines) -> Iterator[tuple[_Identity, NotedFile]]:
    """Yield the hashes that earlier notes of this user hold."""
    for line in lines.read():
        try:
            note = json.loads(line)
            for values in [*note["inputs"], *note["outputs"]]:
                found = NotedFile(**values)
                if found.sha256 and _was_settled(found):
                    yield _identity(found), found
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # of another release, or torn


def _was_settled(found: NotedFile) -> bool:
    """Whether a later change would show: times are kept by clocks that tick now and then."""
    try:
        changed = os.stat(found.path).st_ctime_ns
    except OSError:
        return False
    return found.kind == "file" and _stamp(changed + _SETTLED) < str(found.hashed)


def _stamp(nanoseconds: int) -> str:
    """Write a time as ISO 8601 has it, in UTC."""
    seconds, rest = divmod(nanoseconds, 10**9)
    try:
        return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:09}Z"
    except (OSError, OverflowError, ValueError):  # a year that no calendar has
        return f"{seconds}.{rest:09} s since 1970"


def _user() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:  # removed under us
        return ""


def _ending(code: int) -> list[str]:
    """Say what ended a command, where no error did."""
    if code == 128 + signal.SIGINT:
        return ["interrupted"]
    return [f"ended by signal {code - 128}"] if code > 128 else []
