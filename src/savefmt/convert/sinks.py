"""Where a sequential stream goes: a file, a pipe, a codec, nowhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from savefmt.errors import ImageIOError
from savefmt.model import IOOptions
from savefmt.native.file import Appender
from savefmt.pipes import wait_writable, write_some


class Sink(Protocol):
    """Takes bytes in order."""

    def write(self, data: bytes | memoryview) -> None:
        """Take all of `data`."""

    def close(self) -> None:
        """Finish: everything taken is written."""

    def abort(self) -> None:
        """Give up without finishing; harmless when repeated or after `close`."""


class NullSink:
    """Takes everything and keeps nothing."""

    def write(self, data: bytes | memoryview) -> None:
        """Take `data`."""

    def close(self) -> None:
        """Nothing to finish."""

    def abort(self) -> None:
        """Nothing to give up."""


class PipeSink:
    """Writes to a descriptor that cannot be sought in."""

    def __init__(self, fd: int, name: str) -> None:
        self._fd = fd
        self._name = name
        self.written = 0

    def write(self, data: bytes | memoryview) -> None:
        """Write all of `data`; a closed pipe is BrokenPipeError."""
        view = memoryview(data)
        while len(view):
            try:
                count = write_some(self._fd, view, self._name, self.await_room)
            except BrokenPipeError:
                raise
            except OSError as error:
                raise ImageIOError.from_os(error, path=self._name, offset=self.written) from error
            self.written += count
            view = view[count:]

    def await_room(self, fd: int) -> None:
        """Return when the descriptor, which took nothing, may take something."""
        wait_writable(fd)

    def close(self) -> None:
        """The descriptor stays open."""

    def abort(self) -> None:
        """The descriptor stays open."""


class CodecSink:
    """Compresses on the way to another sink."""

    def __init__(self, codec: str, inner: Sink, io: IOOptions) -> None:
        self._inner = inner
        from savefmt.codec.registry import find_codec

        self._writer = find_codec(codec).open_writer(inner.write, threads=io.worker_count)

    def write(self, data: bytes | memoryview) -> None:
        """Compress `data`."""
        self._writer.write(data)

    def close(self) -> None:
        """Finish the compressed stream and the sink below."""
        self._writer.close()
        self._inner.close()

    def abort(self) -> None:
        """Stop both."""
        self._writer.abort()
        self._inner.abort()


def file_sink(appender: Appender, codec: str, io: IOOptions) -> Sink:
    """Return the sink that appends to a file, compressing if so named."""
    return _wrap(lambda: appender, codec, io)


def pipe_sink(fd: int, name: str, codec: str, io: IOOptions) -> Sink:
    """Return the sink that writes to a descriptor, compressing if so named."""
    return _wrap(lambda: PipeSink(fd, name), codec, io)


def _wrap(make: Callable[[], Sink], codec: str, io: IOOptions) -> Sink:
    inner = make()
    if codec == "raw":
        return inner
    try:
        return CodecSink(codec, inner, io)
    except BaseException:
        inner.abort()
        raise
