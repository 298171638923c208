"""All that is known about one image. Each part is separate: a damaged part never hides others."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TypeVar

from savefmt.check import check
from savefmt.compat.releases import MILESTONES, Reader
from savefmt.compat.verdict import compatibility
from savefmt.errors import (
    ClosedImageError,
    ConversionError,
    FormatError,
    ImageIOError,
    OperationCancelled,
    SavefmtError,
    UnsupportedError,
)
from savefmt.format.devicetree import Struct
from savefmt.frozen import dataclass
from savefmt.guest.arch.table import Registers
from savefmt.guest.memorymap import MemoryMap
from savefmt.image import SaveImage
from savefmt.linux.answers import ask as what_runs
from savefmt.linux.facts import GuestReport
from savefmt.model import CheckLevel, IOOptions, OnProgress, Section, StrPath
from savefmt.progress import Meter
from savefmt.reading.source import find_source
from savefmt.report.resources import Resources, read_resources
from savefmt.reports import CheckReport, CompatReport
from savefmt.scan.hashes import hash_memory
from savefmt.scan.picture import paint
from savefmt.scan.results import MemoryHash, MemoryStats, Painting, SystemHint
from savefmt.scan.stats import stats
from savefmt.scan.system import identify

T = TypeVar("T")

PICTURE_WIDTH, PICTURE_HEIGHT = 1024, 4096
"""Pixels of the picture of memory at most: a page must stay one that opens."""

_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Missing:
    """Why a part is not there, in words."""

    reason: str


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A part of a report that is missing, and why."""

    part: str
    reason: str


@dataclass(frozen=True, slots=True)
class ReportWritten:
    """What ``savefmt report`` did, or would do: `digest` is the image's, empty where not made."""

    source: str
    target: str
    digest: str
    sound: bool
    left_out: tuple[LeftOut, ...]
    target_length: int
    seconds: float
    dry_run: bool


@dataclass(frozen=True, slots=True)
class DeviceState:
    """A device section with its fields, or why they cannot be told."""

    section: Section
    tree: Struct | Missing
    described: bool


@dataclass(frozen=True, slots=True)
class Dossier:
    """What is known of an image.

    Attributes
    ----------
    path : str
        The image, as `Source` calls it.
    length, digest : int, str
        Bytes and SHA-256 of the file that holds the image, including everything else in that
        file; the SHA-256 is empty if it was not computed.
    check : CheckReport
        Its findings; its summary is None if even the head could not be read.
    compat, resources, memory_map, cpus, devices, stats, painting, system, linux, hashes
        What the rooms of these names say, or `Missing`.
    """

    path: str
    length: int
    digest: str
    check: CheckReport
    compat: CompatReport | Missing
    resources: Resources | Missing
    memory_map: MemoryMap | Missing
    cpus: tuple[Registers, ...] | Missing
    devices: tuple[DeviceState, ...] | Missing
    stats: MemoryStats | Missing
    painting: Painting | Missing
    system: SystemHint | Missing
    linux: GuestReport | Missing
    hashes: tuple[MemoryHash, ...] | Missing

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """Parts that are missing, and why."""
        parts = [(name, getattr(self, name)) for name in self.__match_args__]
        return tuple(LeftOut(name, p.reason) for name, p in parts if isinstance(p, Missing))


_NOT_READ = Missing("memory was not read (--quick)")


def gather(
    path: StrPath,
    *,
    readers: Sequence[Reader] = (),
    places: Mapping[str, int] | None = None,
    quick: bool = False,
    io: IOOptions = IOOptions(),
    progress: OnProgress | None = None,
) -> Dossier:
    """Gather what an image tells.

    Parameters
    ----------
    path : str or os.PathLike
        The image; an unfinished or damaged one, too.
    readers : sequence of Reader
        Who is to load it; by default the releases between which behaviour changed.
    places : mapping of str to int, optional
        Where blocks lie, as for `savefmt.open`.
    quick : bool
        Read headers and devices, not memory.
    io : IOOptions
        How pages are read.
    progress : callable, optional
        Called with the work done so far; it cancels by returning False.

    Returns
    -------
    Dossier
        What cannot be told is `Missing` in it.

    Raises
    ------
    NotASaveImageError
        If the file is none.
    ConversionError
        If it changed meanwhile.
    ImageIOError
        What the operating system refused.
    """
    path = find_source(path)
    before = _identity(path)
    level = CheckLevel.QUICK if quick else CheckLevel.FULL
    report = check(path, level=level, io=io, progress=progress)
    digest = "" if quick else _digest(path, before[2], progress)
    with ExitStack() as stack:
        opened = _attempt(
            lambda: stack.enter_context(SaveImage(path, io=io, strict=False, places=places))
        )

        def ask(question: Callable[[SaveImage], T], *, reads: bool = False) -> T | Missing:
            """Put a question to the image; one that `reads` memory not where that is unwanted."""
            if isinstance(opened, Missing):
                return opened
            return _NOT_READ if reads and quick else _attempt(lambda: question(opened))

        def picture(image: SaveImage) -> Painting:
            most = (PICTURE_WIDTH, PICTURE_HEIGHT)
            return paint(image, palette="entropy", most=most, io=io, progress=progress)

        dossier = Dossier(
            path=str(path),
            length=before[2],
            digest=digest,
            check=report,
            compat=ask(lambda i: compatibility(i, readers or MILESTONES, io=io, progress=progress)),
            resources=ask(_resources),
            memory_map=ask(lambda image: image.guest.physical.map),
            cpus=ask(lambda image: tuple(image.guest.cpus)),
            devices=ask(lambda image: tuple(_devices(image))),
            stats=ask(lambda image: stats(image, io=io, progress=progress), reads=True),
            painting=ask(picture, reads=True),
            system=ask(lambda image: identify(image, io=io, progress=progress), reads=True),
            linux=ask(what_runs, reads=True),
            hashes=ask(lambda i: tuple(hash_memory(i, io=io, progress=progress)), reads=True),
        )
    if _identity(path) != before:
        raise ConversionError(
            "the image changed while it was read; wait until the save has finished", path=path
        )
    return dossier


def _attempt(work: Callable[[], T]) -> T | Missing:
    try:
        return work()
    except (OperationCancelled, ClosedImageError):
        raise
    except SavefmtError as error:
        at = f" (at offset {error.offset:#x})" if error.offset is not None else ""
        return Missing(error.message + at)


def _resources(image: SaveImage) -> Resources:
    if image.envelope is None:
        raise UnsupportedError("a bare QEMU stream has no domain XML")
    return read_resources(image.envelope.xml)


def _devices(image: SaveImage) -> Iterator[DeviceState]:
    devices = image.devices
    for section in devices.sections:
        try:
            yield DeviceState(section, devices.tree(section), devices.described(section))
        except FormatError as error:
            yield DeviceState(section, Missing(error.message), False)


def _digest(path: StrPath, length: int, progress: OnProgress | None) -> str:
    meter, made = Meter(progress, length, "hashing the file"), hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while piece := file.read(_PIECE):
                made.update(piece)
                meter.update(file.tell())
    except OSError as error:
        raise ImageIOError.from_os(error, path=path) from error
    return made.hexdigest()


def _identity(path: StrPath) -> tuple[int, ...]:
    try:
        status = os.stat(path)
    except OSError as error:
        raise ImageIOError.from_os(error, path=path) from error
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
