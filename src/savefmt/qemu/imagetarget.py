"""The image while it is written: the envelope first, its final header last."""

from __future__ import annotations

import os
import select
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from savefmt.convert.room import volume_notes
from savefmt.convert.sinks import CodecSink, PipeSink, Sink, file_sink
from savefmt.errors import OperationCancelled, UnsupportedError
from savefmt.format.envelope import Envelope
from savefmt.model import IOOptions, StrPath
from savefmt.native.file import Appender
from savefmt.pipes import STANDARD_OUTPUT, wait_writable
from savefmt.qemu.descriptors import opened
from savefmt.reports import SavePlan
from savefmt.writing.imagefile import ImageOutput, open_image_output
from savefmt.writing.volumes import is_volume

_STANDARD_OUTPUT = "-"
_POLL_SECONDS = 0.1


class ImageTarget(ABC):
    """Where an image grows.

    Attributes
    ----------
    path : str or None
        By which this process can open the growing file once more; None for a pipe.
    lengths : tuple of int
        Of the sealed file, and what it takes on the disk; None for a pipe.
    notes : list of str
        What is worth telling about it.
    """

    path: str | None
    lengths: tuple[int, int] | tuple[None, None] = (None, None)
    notes: Sequence[str] = ()

    @abstractmethod
    def sink(self, codec: str, io: IOOptions, stopped: threading.Event) -> Sink:
        """Return what takes the stream, compressing it if so named, until `stopped`."""

    @abstractmethod
    def seal(self) -> None:
        """Mark the image as finished, and give it its name."""


class FileTarget(ImageTarget):
    """A file or block device: begins with libvirt's "Part" magic (format.md 2.8)."""

    def __init__(self, output: ImageOutput, envelope: Envelope) -> None:
        self.path = output.path
        self._output = output
        self._envelope = envelope
        self._appender: Appender | None = None
        self._codec = "raw"
        output.file.write(envelope.pack_header(finished=False) + envelope.data, 0)

    def sink(self, codec: str, io: IOOptions, stopped: threading.Event) -> Sink:
        """Return what appends to the file."""
        self._codec = codec
        self._appender = Appender(self._output.file, self._envelope.stream_offset, io)
        return file_sink(self._appender, codec, io)

    def seal(self) -> None:
        """Sync, mark, sync again, rename."""
        if self._appender is not None:
            self._output.end_at(self._appender.offset)
        self._output.file.sync()
        self._output.file.write(self._envelope.pack_header(finished=True), 0)
        self._output.commit()
        self.lengths = self._output.lengths
        self.notes = [*self._output.notes, *volume_notes(self._codec, self._output.target)]


class _StoppableSink(PipeSink):
    """Never hangs in a write: the reader of a pipe may sleep while QEMU waits for us."""

    def __init__(self, fd: int, name: str, stopped: threading.Event) -> None:
        super().__init__(fd, name)
        self._descriptor = fd
        self._stopped = stopped

    def write(self, data: bytes | memoryview) -> None:
        """Write all of `data`, unless stopped."""
        view = memoryview(data)
        # A pipe that is ready takes this much at once (POSIX, write).
        for start in range(0, len(view), select.PIPE_BUF):
            self.await_room(self._descriptor)
            super().write(view[start : start + select.PIPE_BUF])

    def await_room(self, fd: int) -> None:
        """Return when the pipe takes something, or raise if stopped."""
        while not wait_writable(fd, _POLL_SECONDS):
            if self._stopped.is_set():
                raise OperationCancelled("stopped while the pipe accepted no data", path=self._name)


class PipeTarget(ImageTarget):
    """A pipe or character device: what is written is gone, so it begins as finished."""

    path = None

    def __init__(self, fd: int, name: str, envelope: Envelope) -> None:
        self._fd = fd
        self._name = name
        self._envelope = envelope

    def sink(self, codec: str, io: IOOptions, stopped: threading.Event) -> Sink:
        """Return what writes to the pipe, behind the envelope."""
        pipe = _StoppableSink(self._fd, self._name, stopped)
        pipe.write(self._envelope.pack())
        return pipe if codec == "raw" else CodecSink(codec, pipe, io)

    def seal(self) -> None:
        """Nothing is left to do."""


@contextmanager
def image_target(
    target: StrPath,
    plan: SavePlan,
    envelope: Envelope,
    *,
    overwrite: bool,
    engine: str = "auto",
) -> Iterator[ImageTarget]:
    """Begin an image; unless it is sealed, nothing is left of it.

    Parameters
    ----------
    target : str or os.PathLike
        ``-`` is standard output.
    plan : SavePlan
        Whether the page cache is bypassed by us.
    envelope : Envelope
        Of the whole image.
    overwrite : bool
        Replace a file of that name.
    engine : str
        One of `savefmt.model.ENGINES`.

    Yields
    ------
    ImageTarget
        With the envelope written, or about to be.
    """
    name = os.fspath(target)
    if name == _STANDARD_OUTPUT:
        yield PipeTarget(1, STANDARD_OUTPUT, envelope)
    elif os.path.exists(name) and not os.path.isfile(name) and not is_volume(name):
        if plan.writer == "qemu":
            raise UnsupportedError("QEMU itself writes regular files only", path=target)
        with opened(name, os.O_WRONLY) as fd:
            yield PipeTarget(fd, name, envelope)
    else:
        direct = plan.direct and plan.writer == "savefmt"
        with open_image_output(target, overwrite=overwrite, direct=direct, engine=engine) as output:
            yield FileTarget(output, envelope)
