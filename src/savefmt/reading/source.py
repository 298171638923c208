"""Where an image is: a file, part of one, or a snapshot in a disk image."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from savefmt.errors import ImageIOError, SavefmtError, TruncatedError, UnsupportedError
from savefmt.frozen import dataclass
from savefmt.model import IOOptions, Snapshot, StrPath
from savefmt.native.file import File, View
from savefmt.reading.otherformats import ELF, FLATTENED, KDUMP, QCOW
from savefmt.reading.patched import Patched

if TYPE_CHECKING:  # most images are in no disk image, and no dumps
    from savefmt.reading.dumpview import Dump
    from savefmt.reading.qcow2 import Disk

OnSalvage = Callable[[Any], None]
"""Gets a `savefmt.salvage.rescue.Rescue`."""

DIRECT_FROM = 256 << 20
"""Images and guests from this size on bypass the page cache unless told otherwise: they
would push everything else out of it."""

_DUMPS = (ELF, FLATTENED[:4], KDUMP[:4])


@dataclass(frozen=True, slots=True)
class Source:
    """An image that a path alone does not name; it can be used wherever a path of an image can.

    Parameters
    ----------
    path : str or os.PathLike
        The file or block device.
    snapshot : str, optional
        Name or ID of an internal snapshot, in a qcow2 disk image.
    offset : int
        Where in the file the image begins.
    shared : tuple of (str, str or os.PathLike)
        Files with the RAM blocks that were left out of the image (x-ignore-shared), by idstr.
    salvage : bool
        Take what can be read of a damaged image; what is lost is told by it.
    bad : str or os.PathLike, optional
        A GNU ddrescue map file that lists what of the file could not be copied.
    on_salvage : callable, optional
        Told of each image that was salvaged, once it is open.
    unproven : bool
        With `salvage`: take what was unpacked of compressed data before damage was noticed,
        though a checksum behind it is wrong or was never reached.
    repaired : Patched, optional
        What it is to be shown with in the place of bytes of its own.
    """

    path: StrPath
    snapshot: str | None = None
    offset: int = 0
    shared: tuple[tuple[str, StrPath], ...] = ()
    salvage: bool = False
    bad: StrPath | None = None
    on_salvage: OnSalvage | None = None
    unproven: bool = False
    repaired: Patched | None = None

    def __post_init__(self) -> None:
        if self.offset < 0:
            raise ValueError(f"an image cannot begin at {self.offset}")
        if self.offset and self.snapshot is not None:
            raise ValueError("a snapshot has no offset")
        if self.bad is not None and not self.salvage:
            raise ValueError("a map of bad sectors goes with salvage")
        if self.unproven and not self.salvage:
            raise ValueError("what is not proven can be taken with salvage only")
        if self.shared and self.salvage:
            raise ValueError("shared memory cannot be filled into a damaged image")
        if len(dict(self.shared)) != len(self.shared):
            raise ValueError("a block is named twice, and can be in one file only")

    @property
    def is_part(self) -> bool:
        """Whether the image is only part of the file, or made of several parts."""
        return (
            self.snapshot is not None
            or self.offset > 0
            or bool(self.shared)
            or self.salvage
            or self.repaired is not None
        )

    def __fspath__(self) -> str:
        """Return the path of the file."""
        return os.fspath(self.path)

    def __str__(self) -> str:
        """Name it as people do: ``disk.qcow2:snapshot``."""
        path = os.fspath(self.path)
        return path if self.snapshot is None else f"{path}:{self.snapshot}"


def find_source(path: StrPath) -> Source:
    """Split a name; ``disk.qcow2:snapshot`` names a snapshot if no file has this name."""
    if isinstance(path, Source):
        return path
    name = os.fspath(path)
    if ":" in name and not os.path.lexists(name):
        parts = name.split(":")
        for count in range(1, len(parts)):
            disk, snapshot = ":".join(parts[:count]), ":".join(parts[count:])
            if is_disk(disk):
                return Source(disk, snapshot)
    return Source(path)


def open_file(source: Source, io: IOOptions) -> File:
    """Open the file behind an image; one that is part of another is shown by itself.

    Raises
    ------
    ImageIOError
        What the operating system refused.
    UnsupportedError
        If it is neither a regular file nor a block device.
    NotASaveImageError, CorruptError, TruncatedError
        If the named snapshot is not in it.
    """
    with _opened(source) as fd:
        length = os.lseek(fd, 0, os.SEEK_END)
        direct = length >= DIRECT_FROM if io.direct is None else io.direct
        if source.snapshot is not None or (not source.offset and _begins_disk(fd)):
            with _disk(fd, source.path) as disk:
                return disk.open(source.snapshot, io, direct=direct)
        view = _from(source.offset, length) if source.offset else None
        if source.repaired is not None:
            patched = source.repaired.view(length - source.offset)
            view = patched if view is None else patched.through(view)
        return File(fd, path=source.path, direct=direct, engine=io.engine, view=view)


def open_source(source: Source, io: IOOptions) -> tuple[File, Dump | None]:
    """Open what is behind an image, which a memory dump may be; otherwise as `open_file`.

    Returns
    -------
    File
        To be closed.
    Dump or None
        What a dump is that is shown as an image.
    """
    with _opened(source) as fd:
        if not source.is_part and os.pread(fd, 4, 0) in _DUMPS:
            from savefmt.reading.dumps import is_dump, open_dump

            if is_dump(fd):
                length = os.lseek(fd, 0, os.SEEK_END)
                direct = length >= DIRECT_FROM if io.direct is None else io.direct
                return open_dump(fd, source.path, io, direct=direct)
    return open_file(source, io), None


def _from(offset: int, length: int) -> View:
    if offset >= length:
        raise TruncatedError(f"the file ends before offset {offset:#x}", offset=length)
    return View(length - offset, [(0, length - offset, offset)])


def list_snapshots(path: StrPath) -> tuple[Snapshot, ...]:
    """List the internal snapshots of a qcow2 disk image.

    Parameters
    ----------
    path : str or os.PathLike
        The disk image.

    Returns
    -------
    tuple of Snapshot
        All of them, also those of the disk alone.

    Raises
    ------
    NotASaveImageError
        If it is no qcow2 disk image.
    CorruptError, TruncatedError, UnsupportedError
        What is wrong with it.
    """
    with _opened(Source(path)) as fd, _disk(fd, path) as disk:
        return disk.snapshots()


def describe_snapshot(source: Source) -> Snapshot | None:
    """Tell about the snapshot that a source names, if it names one."""
    if source.snapshot is None:
        return None
    with _opened(source) as fd, _disk(fd, source.path) as disk:
        return disk.describe(source.snapshot)


def lengths_of(source: Source, file: File) -> tuple[int, int]:
    """Return how many bytes an image has, and how many of them lie on the disk."""
    status = os.stat(source.path)
    if stat.S_ISREG(status.st_mode) and not source.is_part:
        return status.st_size, status.st_blocks * 512
    return file.length, sum(length for _, length in file.extents(0, file.length))


def is_disk(path: StrPath) -> bool:
    """Tell whether a file begins like a qcow2 disk image; False where it cannot be read."""
    try:
        with _opened(Source(path)) as fd:
            return _begins_disk(fd)
    except SavefmtError:
        return False


def _begins_disk(fd: int) -> bool:
    return os.pread(fd, len(QCOW), 0) == QCOW


@contextmanager
def _disk(fd: int, path: StrPath) -> Iterator[Disk]:
    from savefmt.reading.qcow2 import Disk

    with File(fd, path=path, engine="psync") as whole:
        yield Disk(fd, whole)


@contextmanager
def _opened(source: Source) -> Iterator[int]:
    try:
        fd = os.open(source.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise ImageIOError.from_os(error, path=source.path) from error
    try:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
            raise UnsupportedError(
                "this is neither a regular file nor a block device; savefmt reads an image by "
                "seeking, so write it to a file first",
            )
        yield fd
    except SavefmtError as error:
        error.path = error.path or source.path
        raise
    except OSError as error:
        raise ImageIOError.from_os(error, path=source.path) from error
    finally:
        os.close(fd)
