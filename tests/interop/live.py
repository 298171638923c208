"""Guests with a QMP socket that savefmt may use, beside the one of the tests."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from golden import load

from interop.qemu import Guest

MACHINE = "pc-q35-10.0"


class LiveGuest(Guest):
    """A guest with a second monitor; `socket` is its path.

    Parameters
    ----------
    directory, arguments, name, incoming
        As for `Guest`.
    """

    def __init__(
        self,
        directory: Path,
        arguments: Sequence[str],
        *,
        name: str = "guest",
        incoming: bool = False,
    ) -> None:
        # Not in pytest's folder: the path of a socket must stay short.
        self._folder = tempfile.mkdtemp(prefix="savefmt-qmp-")
        self.socket = f"{self._folder}/qmp"
        words = [*arguments, "-qmp", f"unix:{self.socket},server=on,wait=off"]
        super().__init__(directory, words, name=name, incoming=incoming)

    def kill(self) -> None:
        """End the process, whatever it is doing."""
        super().kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def settings(self) -> tuple[Any, Any]:
        """Return all migration capabilities and parameters."""
        return self.qmp("query-migrate-capabilities"), self.qmp("query-migrate-parameters")

    def descriptors(self) -> list[str]:
        """Return what QEMU has open, connections left out: they come and go."""
        folder = Path(f"/proc/{self.process.pid}/fd")
        names = sorted(os.readlink(entry) for entry in folder.iterdir())
        return [name for name in names if not name.startswith("socket:")]


def tiny_arguments(directory: Path, firmware: str = "halt", memory: int = 8) -> list[str]:
    """Return the arguments of a guest whose firmware fills some pages."""
    path = load.firmware(firmware, directory)
    return ["-machine", MACHINE, "-m", f"{memory}M", "-bios", str(path)]


@contextmanager
def tiny_guest(
    directory: Path, firmware: str = "halt", *, incoming: bool = False, name: str = "guest"
) -> Iterator[LiveGuest]:
    """Run such a guest until it has filled its pages, or have it wait for another."""
    arguments = tiny_arguments(directory, firmware)
    with LiveGuest(directory, arguments, name=name, incoming=incoming) as guest:
        if not incoming:
            guest.cont()
            guest.wait_console("R")
        yield guest


class Collector:
    """A FIFO whose other end is read into a file.

    Parameters
    ----------
    directory : Path
        Takes both.
    wait : bool
        Read the envelope, then let the writer fill the pipe, and hang until `finish`.
    pace : float
        Seconds to sleep after every 4 KiB.
    """

    ENVELOPE = 96 << 10
    """More than an envelope has, less than it and the stream have."""

    def __init__(self, directory: Path, *, wait: bool = False, pace: float = 0) -> None:
        self._pace = pace
        self.fifo, self.file = directory / "fifo", directory / "collected"
        os.mkfifo(self.fifo)
        self.go = threading.Event()
        if not wait:
            self.go.set()
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()

    def _collect(self) -> None:
        with self.fifo.open("rb") as source, self.file.open("wb") as target:
            target.write(source.read(self.ENVELOPE))
            self.go.wait()
            while self._pace and (piece := source.read(4096)):
                target.write(piece)
                time.sleep(self._pace)
            shutil.copyfileobj(source, target)

    def finish(self) -> Path:
        """Wait for the end of the data and return the file."""
        self.go.set()
        self._thread.join(30)
        assert not self._thread.is_alive()
        self.fifo.unlink()
        return self.file
