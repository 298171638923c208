"""Standard input, output and error as savefmt uses them: nothing is lost or mixed up."""

from __future__ import annotations

import codecs
import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

from savefmt.pipes import STANDARD_INPUT, STANDARD_OUTPUT, read_some, wait_writable, write_some

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

_BUFFER_LENGTH = 1 << 16
_ERRORS = "savefmt.lossless"


def settle() -> None:
    """Take over the standard streams of this process.

    Writes wait where a descriptor is not ready; an error names the stream.  If the process was
    started without a stream, that stream cannot be used, and no other file gets its number.
    """
    # The wrong way round, so that each use fails.  By turns: open() takes the lowest number.
    for fd, access in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_RDONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, access)
    codecs.register_error(_ERRORS, _bytes_or_escapes)
    sys.stdin = io.TextIOWrapper(io.BufferedReader(_Input(0)), _encoding(sys.stdin))
    sys.stdout = _writer(_Output(1), sys.stdout, _ERRORS)
    sys.stderr = _writer(_Complaints(2), sys.stderr, "backslashreplace", by_line=True)


def _writer(
    raw: io.RawIOBase, replaced: TextIO | None, errors: str, *, by_line: bool = False
) -> io.TextIOWrapper:
    buffered = io.BufferedWriter(raw, _BUFFER_LENGTH)
    lines = by_line or raw.isatty()
    return io.TextIOWrapper(buffered, _encoding(replaced), errors, line_buffering=lines)


def _encoding(replaced: TextIO | None) -> str:
    return "utf-8" if replaced is None else replaced.encoding


def _bytes_or_escapes(error: UnicodeError) -> tuple[str | bytes, int]:
    """Write file names as the bytes that they came as, and escape what has no bytes."""
    assert isinstance(error, UnicodeEncodeError)
    error.end = error.start + 1
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeEncodeError:
        return codecs.lookup_error("backslashreplace")(error)


class _Descriptor(io.RawIOBase):
    """One of the three, which stays open."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return os.isatty(self._fd)


class _Input(_Descriptor):
    """Waits for what comes."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)
        try:
            data = read_some(self._fd, len(view))
        except OSError as error:
            error.filename = STANDARD_INPUT
            raise
        view[: len(data)] = data
        return len(data)


class _Output(_Descriptor):
    """Waits for the reader."""

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer) -> int:
        return write_some(self._fd, memoryview(data), STANDARD_OUTPUT)


class _Complaints(_Descriptor):
    """Waits likewise; what cannot be said at all is no reason to fail."""

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer) -> int:
        view = memoryview(data)
        try:
            return write_some(self._fd, view, "standard error", wait_writable)
        except OSError:
            return len(view)
