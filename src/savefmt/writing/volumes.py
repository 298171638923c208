"""A block device as a target: it keeps its name, and its old content is lost at once."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from savefmt.errors import ConversionError, ImageIOError, located
from savefmt.model import StrPath
from savefmt.native.file import File
from savefmt.writing import unfinished
from savefmt.writing.nameless import own_path
from savefmt.writing.places import Place

if TYPE_CHECKING:  # loaded for block devices, which few targets are
    from pathlib import Path

_OPEN_LOCK = struct.Struct("hhqqi4x")
_GET_LOCK = 36  # F_OFD_GETLK
_READ_ONLY = 0x125E  # BLKROGET
_ZERO_RANGE = 0x10
_PUNCH_HOLE = 0x02 | 0x01
_BLOCK_LENGTH = 4096
_PIECE_LENGTH = 1 << 20
_TAIL_LENGTH = 64 << 10
"""Zeros behind an image: nobody takes an older one's bytes for its end."""

_Identity = tuple[int | None, int]
"""Device and inode of a file; None and the number of a block device."""


def is_volume(path: StrPath) -> bool:
    """Tell whether a target is a block device."""
    try:
        return stat.S_ISBLK(os.stat(path).st_mode)
    except OSError:
        return False


def volume_length(path: StrPath) -> int | None:
    """Return the bytes of a block device, None for anything else."""
    if not is_volume(path):
        return None
    try:
        with open(path, "rb") as device:
            return device.seek(0, os.SEEK_END)
    except OSError as error:
        raise ImageIOError.from_os(error, path=path) from error


def same_content(one: os.stat_result, other: os.stat_result) -> bool:
    """Tell whether two names lead to one file, or two nodes to one device."""
    return _identity(one) == _identity(other)


def require_apart(source: StrPath, target: StrPath) -> None:
    """Refuse a device that is the source or made of it, or the other way round.

    A loop device is made of its file, a partition of its disk, a volume of other devices:
    what is written to one is written to the other, and the source would be gone.

    Raises
    ------
    ConversionError
        If they share storage.
    """
    if not is_volume(target):  # a file is replaced, and its readers keep the old one
        return
    try:
        one, other = _identity(os.stat(source)), _identity(os.stat(target))
    except OSError:  # the code that opens them says what is wrong
        return
    if one in (other, *_made_of(other)) or other in _made_of(one):
        raise ConversionError(
            f"what is written to this device would also be written to {os.fspath(source)}, "
            "which is read; name another target",
            path=target,
        )


def _identity(status: os.stat_result) -> _Identity:
    if stat.S_ISBLK(status.st_mode):
        return None, status.st_rdev
    return status.st_dev, status.st_ino


def _made_of(identity: _Identity) -> Iterator[_Identity]:
    """Yield what a device is made of, down to the last."""
    if identity[0] is not None:
        return
    system = _system(identity[1]).resolve()
    with contextlib.suppress(OSError):
        parents = [system.parent] if (system / "partition").exists() else []
        for below in [*parents, *system.glob("slaves/*")]:
            major, minor = map(int, (below / "dev").read_text().split(":"))
            found = None, os.makedev(major, minor)
            yield found
            yield from _made_of(found)
    with contextlib.suppress(OSError):
        backing = os.stat((system / "loop/backing_file").read_bytes().removesuffix(b"\n"))
        yield _identity(backing)
        yield from _made_of(_identity(backing))


def check_volume(path: StrPath, *, overwrite: bool) -> None:
    """Refuse a device that may not be written, before the work rather than after it.

    Raises
    ------
    ConversionError, ImageIOError, UnsupportedError
        As `OutputVolume` does.
    """
    os.close(_open(path, overwrite=overwrite))


class OutputVolume:
    """A block device that gets an image; takes the place of an `OutputFile`.

    Nothing is written before it is known that nobody else uses the device: none of its file
    systems is mounted, it has no partitions, and no other program holds it. Meanwhile the
    kernel keeps others from mounting it. A device does not get a name in the end. Instead, it
    begins with zeros until it is committed, and no reader takes zeros for an image.

    Parameters
    ----------
    target : str or os.PathLike
        The device.
    overwrite : bool
        The caller knows that what is there will be gone.
    direct : bool
        Ask for direct I/O.
    engine : str
        One of `savefmt.model.ENGINES`.

    Attributes
    ----------
    file, target, notes
        As those of an `OutputFile`.

    Raises
    ------
    ConversionError
        If the device is in use, or `overwrite` is not set.
    ImageIOError
        What the operating system refused.
    UnsupportedError
        If it cannot be known what is on the device.
    """

    def __init__(
        self,
        target: StrPath,
        *,
        overwrite: bool,
        direct: bool = False,
        engine: str = "auto",
    ) -> None:
        self.target = target
        self.notes: list[str] = []
        self._end = 0
        self._begun = False
        self._fd = _open(target, overwrite=overwrite)
        unfinished.begin(self)
        try:
            self.file = File(self._fd, path=target, write=True, direct=direct, engine=engine)
            self._begin()
        except BaseException as error:
            self.abort()
            if isinstance(error, OSError) and not isinstance(error, ImageIOError):
                raise ImageIOError.from_os(error, path=target) from error
            raise

    def _begin(self) -> None:
        self._begun = True
        self.notes.append("written directly to the device: what the device held before is gone")
        from savefmt.writing.signatures import wipe_signatures

        wipe_signatures(self._fd)
        self._clear(0, min(_BLOCK_LENGTH, self.file.length))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abort()

    @property
    def path(self) -> str:
        """A path by which this process can open the device once more."""
        return own_path(self._fd)

    @property
    def lengths(self) -> tuple[int, int]:
        """Bytes of the image, and what it takes: a device has no holes."""
        return self._end, self._end

    @property
    def room(self) -> int:
        """Bytes that the device has."""
        return self.file.length

    def extend(self, start: int, end: int) -> None:
        """Let the device read as zeros from `start` to `end`."""
        try:
            self._clear(start, end)
        except OSError as error:
            raise ImageIOError.from_os(error, path=self.target, offset=start) from error

    def _clear(self, start: int, end: int) -> None:
        """Zero a range: the device does it where it can, else the kernel writes."""
        first = -(-start // _BLOCK_LENGTH) * _BLOCK_LENGTH
        last = max(end // _BLOCK_LENGTH * _BLOCK_LENGTH, first)
        ragged = [(start, min(first, end)), (last, end)]
        if first < last and not _zero(self._fd, first, last - first):
            ragged.append((first, last))
        for begin, stop in ragged:
            for at in range(begin, stop, _PIECE_LENGTH):
                self.file.write(bytes(min(_PIECE_LENGTH, stop - at)), at)

    def end_at(self, end: int) -> None:
        """Say where the image ends; zeros follow, as far as any reader looks."""
        self._end = end
        self.extend(end, min(end + _TAIL_LENGTH, self.file.length))

    def commit(self) -> None:
        """Return when all is on the device."""
        self.file.sync()
        self._begun = False
        self._close()

    def abort(self) -> None:
        """Leave no half image, unless it was committed; harmless when repeated."""
        if self._begun:
            with contextlib.suppress(OSError):
                self._clear(0, min(_BLOCK_LENGTH, self.file.length))
                self.file.sync()
            self._begun = False
        self._close()

    def _close(self) -> None:
        file = getattr(self, "file", None)
        if file is not None:
            file.close()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)
        unfinished.end(self)


def _zero(fd: int, offset: int, length: int) -> bool:
    """Let the kernel zero a range; False where it cannot."""
    import ctypes  # Python has no fallocate() with a mode

    call = ctypes.CDLL(None, use_errno=True).fallocate
    call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    for mode in (_PUNCH_HOLE, _ZERO_RANGE):
        while call(fd, mode, offset, length):
            number = ctypes.get_errno()
            if number == errno.EINTR:
                continue
            if number in (errno.EOPNOTSUPP, errno.EINVAL):
                break
            raise OSError(number, os.strerror(number))
        else:
            return True
    return False


def _open(path: StrPath, *, overwrite: bool) -> int:
    """Open a device that nobody uses, so that nobody can from now on."""
    fd = -1
    try:
        with Place.open(path) as place:
            flags = os.O_RDWR | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(place.name, flags, dir_fd=place.folder)
        _require_free(fd, path, overwrite=overwrite)
    except OSError as error:
        _close(fd)
        if error.errno == errno.EBUSY:
            users = "; ".join(_users(os.stat(path).st_rdev)) or "another program holds it"
            raise ConversionError(
                f"this device is in use ({users}), and is not written to", path=path
            ) from error
        if isinstance(error, ImageIOError):
            raise
        raise ImageIOError.from_os(error, path=path) from error
    except BaseException:
        _close(fd)
        raise
    return fd


def _close(fd: int) -> None:
    if fd >= 0:
        os.close(fd)


def _require_free(fd: int, path: StrPath, *, overwrite: bool) -> None:
    status = os.fstat(fd)
    if not stat.S_ISBLK(status.st_mode):
        raise ConversionError("this was a block device, and it is not one any more", path=path)
    if fcntl.ioctl(fd, _READ_ONLY, bytes(4)) != bytes(4):
        raise ConversionError("this device is read-only", path=path)
    number = status.st_rdev
    partitions = sorted(entry.parent.name for entry in _system(number).glob("*/partition"))
    if partitions:
        raise ConversionError(
            f"this device has partitions ({', '.join(partitions)}), and is not written to; "
            "name one of them",
            path=path,
        )
    if _is_locked(fd):
        raise ConversionError(
            "another program has this device locked, as QEMU does with a guest's disk; it is "
            "not written to",
            path=path,
        )
    from savefmt.writing.signatures import find_signatures

    with located(path):
        found = find_signatures(fd)
    kinds = ", ".join(dict.fromkeys(one.kind for one in found))
    if any(one.shared for one in found):
        raise ConversionError(
            f"this device holds {kinds}, in which there may be other things, and is not written "
            "to; if all of that may go, remove it first (wipefs --all)",
            path=path,
        )
    if not overwrite:
        told = f"holds {kinds}" if kinds else "loses all that is on it"
        raise ConversionError(
            f"the target is a block device, which {told}; --force overwrites it", path=path
        )


def _is_locked(fd: int) -> bool:
    """Whether somebody holds a lock on any byte: QEMU locks the disks of its guests."""
    asked = _OPEN_LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        answer = fcntl.fcntl(fd, _GET_LOCK, asked)
    except OSError:
        return False
    return bool(_OPEN_LOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def _system(number: int) -> Path:
    """What the kernel tells about a device."""
    from pathlib import Path

    return Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")


def _users(number: int) -> Iterator[str]:
    """Tell who has a device, or one of its partitions."""
    mine = {f"{os.major(number)}:{os.minor(number)}"}
    with contextlib.suppress(OSError):
        for entry in _system(number).glob("*/dev"):
            mine.add(entry.read_text().strip())
    with contextlib.suppress(OSError):
        with open("/proc/self/mountinfo", errors="replace") as file:
            mounts = file.read().splitlines()
        for line in mounts:
            words = line.split(" ")
            if words[2] in mine:
                yield f"mounted at {words[4]}"
    with contextlib.suppress(OSError):
        for entry in _system(number).glob("holders/*"):
            yield f"held by {entry.name}"
