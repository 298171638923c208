"""Save images as physical memory of volatility3: a layer, and the automagic that finds it.

volatility3 hides exceptions: one in a stacker makes it try the next, until the image is
taken for flat memory; one in a scan ends that scan.  Both show as an empty table and exit
code 0.  So an image that cannot be understood ends the process here, with the reason.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from multiprocessing.util import get_temp_dir
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn
from urllib.parse import urlsplit
from urllib.request import url2pathname

from volatility3.framework import exceptions, interfaces
from volatility3.framework.configuration import requirements
from volatility3.framework.layers import physical

try:
    from savefmt.codec.registry import detect
    from savefmt.errors import FormatError, NotASaveImageError, SavefmtError
    from savefmt.image import SaveImage
    from savefmt.model import IOOptions, Severity
except ImportError as lack:  # volatility3 would leave this file out without a word
    _LACK = f"volatility3 runs in a Python that cannot load savefmt ({lack}); install it there"
else:
    _LACK = ""

_log = logging.getLogger(__name__)

# volatility3 loads this file under a name that only its own process can import.  Workers that
# are not forked (Python 3.14) get layers by pickle, and look for their class by this one.
_IMPORTABLE = "savefmt.plugins.volatility.save_image"
if not _LACK:
    sys.modules.setdefault(_IMPORTABLE, sys.modules[__name__])

_MAGICS = (b"LibvirtQemudSave", b"LibvirtQemudPart", b"QEVM")
_HEAD_LENGTH = 16


def _refuse(reason: object) -> NoReturn:
    """End volatility3 with exit code 1: it holds back any milder exception."""
    if not _LACK and isinstance(reason, FormatError):
        damaged = not isinstance(reason, NotASaveImageError)
        reason = f"{reason}{'; `savefmt salvage` writes an image of what is left' * damaged}"
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in f"savefmt: {reason}")
    parent = multiprocessing.parent_process()
    if parent is None and threading.current_thread() is threading.main_thread():
        raise SystemExit(shown)
    print(shown, file=sys.stderr, flush=True)
    if parent is None:
        _end()
    # A worker that scans.  volatility3 would wait without end for a result of it, and its pool
    # would replace it: so it lives until it is killed.
    assert parent.pid is not None
    forked = multiprocessing.get_start_method() == "fork"
    unheard = forked and signal.getsignal(_END) is signal.SIG_DFL
    with contextlib.suppress(ProcessLookupError):
        while True:
            os.kill(parent.pid, signal.SIGINT if unheard else _END)
            time.sleep(1)
    os._exit(1)


_END = signal.SIGUSR1
"""What a worker sends to volatility3 itself.  With an interrupt, that would ask its pool to
end in good order, which hangs where a worker is in the middle of something."""


def _end(number: int = _END, frame: FrameType | None = None) -> NoReturn:
    """End this process and its workers, even if they are waiting for something."""
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(_END, signal.SIG_IGN)
    os.fork = _no_more  # the pool's thread would replace those that we kill
    try:
        for pid in _children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(get_temp_dir(), ignore_errors=True)  # what removes it else is not run
    finally:
        os._exit(1)


def _no_more() -> NoReturn:
    raise OSError("volatility3 is about to end")


def _children() -> Iterator[int]:
    """Yield our workers, also those that are not in any list yet."""
    for worker in multiprocessing.active_children():
        if worker.pid is not None:
            yield worker.pid
    for task in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            yield from map(int, task.read_text().split())


def _expect_end() -> None:
    """Be ready for the word of a worker."""
    if multiprocessing.parent_process() is None:
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(_END, _end)
        get_temp_dir()  # the manager of a pool takes it for its socket if it is there


class _OpenImage:
    """An open image and the spans of physical memory in it.

    Parameters
    ----------
    path : Path
        The image.
    """

    def __init__(self, path: Path) -> None:
        _expect_end()
        # Small reads all over the file: the page cache helps where direct I/O would not.  No
        # ring: workers are forked with the file open, and would share it.
        self.image = SaveImage(path, io=IOOptions(direct=False, engine="psync"))
        self.physical = self.image.guest.physical
        findings = self.physical.map.findings
        for finding in findings:
            _log.warning("savefmt: %s: %s: %s", path, finding.severity, finding.message)
        if any(finding.severity is Severity.ERROR for finding in findings):
            raise SavefmtError("the memory map contradicts itself", path=path)
        self.starts, self.ends = _join(self.physical.map.ranges)
        if not self.starts:
            raise SavefmtError("no memory of the guest has a place in it", path=path)
        self._touch()

    def _touch(self) -> None:
        """Read a page of each block: damage must show here and not in the middle of a scan."""
        first = {item.block: item.start for item in reversed(self.physical.map.ranges)}
        for start in first.values():
            self.physical.read(start, 1)

    def span(self, address: int) -> tuple[int, int] | None:
        """Return start and end of the span around an address."""
        number = bisect_right(self.starts, address) - 1
        if number < 0 or address >= self.ends[number]:
            return None
        return self.starts[number], self.ends[number]

    def spans(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the spans between two addresses, cut to them."""
        number = max(bisect_right(self.starts, start) - 1, 0)
        for begin, stop in zip(self.starts[number:], self.ends[number:], strict=True):
            if begin >= end:
                return
            if stop > start:
                yield max(begin, start), min(stop, end)


def _join(ranges: Iterable[Any]) -> tuple[list[int], list[int]]:
    """Join ranges that touch: what a guest keeps does not end where a block does."""
    starts: list[int] = []
    ends: list[int] = []
    for item in ranges:
        if ends and ends[-1] == item.start:
            ends[-1] = item.end
        else:
            starts.append(item.start)
            ends.append(item.end)
    return starts, ends


@functools.cache
def _open(path: Path) -> _OpenImage:
    """Open an image once: volatility3 makes each layer twice, and compressed ones are spooled."""
    return _OpenImage(path)


def _local_path(location: str) -> Path | None:
    """Return the file that a location names, None for one behind a network."""
    parts = urlsplit(location)
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else None


class SaveImageLayer(interfaces.layers.DataLayerInterface):
    """The guest-physical memory in a save image of libvirt or QEMU.

    The configuration has one value, ``location``, the image as a ``file://`` URL.
    """

    __module__ = _IMPORTABLE

    def __init__(
        self,
        context: interfaces.context.ContextInterface,
        config_path: str,
        name: str,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(context, config_path, name, dict(metadata or {}))
        path = _local_path(self.config["location"])
        if path is None:
            raise exceptions.LayerException(name, "save images are read from local files only")
        self._path = path

    @property
    def _memory(self) -> _OpenImage:
        # Not kept here: layers get copied, and sent to other processes.
        try:
            return _open(self._path)
        except (SavefmtError, OSError) as error:
            _refuse(error)

    @property
    def minimum_address(self) -> int:
        """The first address with memory behind it."""
        return self._memory.starts[0]

    @property
    def maximum_address(self) -> int:
        """The last address with memory behind it."""
        return self._memory.ends[-1] - 1

    def is_valid(self, offset: int, length: int = 1) -> bool:
        """Whether all of a range is memory."""
        span = self._memory.span(offset)
        return span is not None and offset + length <= span[1]

    def read(self, offset: int, length: int, pad: bool = False) -> bytes:
        """Read guest-physical memory.

        Parameters
        ----------
        offset, length : int
            Guest-physical.
        pad : bool
            Return zeros for addresses without memory.

        Returns
        -------
        bytes
            As many.

        Raises
        ------
        InvalidAddressException
            Without `pad`, if not all of it is memory.
        """
        memory = self._memory
        span = memory.span(offset)
        try:
            if span is not None and offset + length <= span[1]:
                return memory.physical.read(offset, length)
            if not pad:
                hole = offset if span is None else span[1]
                raise exceptions.InvalidAddressException(
                    self.name, hole, f"there is no memory at guest-physical address {hole:#x}"
                )
            data = bytearray(length)
            for start, end in memory.spans(offset, offset + length):
                data[start - offset : end - offset] = memory.physical.read(start, end - start)
            return bytes(data)
        except (SavefmtError, OSError) as error:
            _refuse(error)

    def destroy(self) -> None:
        """Close the image, for all layers that read it."""
        self._memory.image.close()
        _open.cache_clear()

    def write(self, offset: int, data: bytes) -> None:
        """Refuse: images are evidence."""
        raise exceptions.LayerException(self.name, "save images are not written to")

    def _scan_iterator(
        self,
        scanner: interfaces.layers.ScannerInterface,
        sections: Iterable[tuple[int, int]],
    ) -> Iterator[Any]:
        """Yield what to read for a scan, hole by hole: one in a chunk would lose all of it."""
        memory = self._memory
        inside = [
            (first, last - first)
            for start, length in sections
            for first, last in memory.spans(start, start + length)
        ]
        yield from super()._scan_iterator(scanner, inside)

    @classmethod
    def get_requirements(cls) -> list[interfaces.configuration.RequirementInterface]:
        """Return what makes a layer: where the image is."""
        return [requirements.StringRequirement(name="location", optional=False)]


class SaveImageStacker(interfaces.automagic.StackerLayerInterface):
    """Recognises save images, before volatility3's own reader of QEMU streams would."""

    stack_order = 9

    @classmethod
    def stack(
        cls,
        context: interfaces.context.ContextInterface,
        layer_name: str,
        progress_callback: Any = None,
    ) -> interfaces.layers.DataLayerInterface | None:
        """Put a layer on a file that is a save image.

        Parameters
        ----------
        context : ContextInterface
            The context with the layer.
        layer_name : str
            The file.
        progress_callback : callable, optional
            Unused: volatility3 has no callback that counts bytes.

        Returns
        -------
        SaveImageLayer or None
            None for anything else.
        """
        base = context.layers[layer_name]
        if not isinstance(base, physical.FileLayer) or base.maximum_address < _HEAD_LENGTH:
            return None
        certain = base.read(0, _HEAD_LENGTH).startswith(_MAGICS)
        path = _local_path(base.location)
        if path is None or _LACK:
            if certain:
                _refuse(_LACK or "save images are read from local files only; fetch it first")
            return None
        if not (certain or _is_compressed(path)):
            return None
        try:
            _open(path)
        except NotASaveImageError as error:
            if certain:
                _refuse(error)
            return None
        except (SavefmtError, OSError) as error:
            _refuse(error)
        name = context.layers.free_layer_name("SaveImageLayer")
        config_path = interfaces.configuration.path_join("SaveImageHelper", name)
        location = interfaces.configuration.path_join(config_path, "location")
        context.config[location] = base.location
        return SaveImageLayer(context, config_path, name)


def _is_compressed(path: Path) -> bool:
    with path.open("rb") as file:
        return detect(file.read(_HEAD_LENGTH)) is not None
