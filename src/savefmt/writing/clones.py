"""Pages that a target shares with its source without a copy, if the file system can.

Each block is tried in three ways: its ranges are cloned (``FICLONERANGE``: XFS, btrfs and
others), or the server of a network file system copies them, or the engine does.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Callable, Iterator, Sequence

from savefmt.errors import ConversionError, ImageIOError
from savefmt.frozen import dataclass
from savefmt.model import IOOptions
from savefmt.native.allocated import clear_pages, stored_pages
from savefmt.native.file import File
from savefmt.native.jobs import OnBytes, move_pages
from savefmt.native.pages import BlockPages, SumKey, Table, Watch, page_runs
from savefmt.writing.copying import share_content
from savefmt.writing.output import OutputFile

_CLONE_RANGE = 0x4020940D
_RANGE = struct.Struct("=qQQQ")
_PIECE_LENGTH = 1 << 30
"""Bytes cloned at a time: no signal is served in between."""

_COPY_LENGTH = 64 << 20
_ON_SERVERS = frozenset({"nfs4", "cifs", "smb3", "ceph"})
"""File systems whose servers copy; elsewhere the kernel would, and slower than the engine."""

_CANNOT = frozenset(
    {
        errno.EINVAL,  # not on borders of the file system's blocks
        errno.ENOSYS,
        errno.ENOTTY,
        errno.EOPNOTSUPP,
        errno.EPERM,
        errno.ETXTBSY,
        errno.EXDEV,
    }
)

Piece = tuple[int, int]
"""Offset in a block, and length."""


@dataclass(frozen=True, slots=True)
class Moved:
    """What `place_pages` did.

    Attributes
    ----------
    sums : list of Table or None
        Page sums of each block where a key was given.
    cloned : int
        Bytes of pages that the engine did not have to copy.
    """

    sums: list[Table] | None
    cloned: int


def place_pages(
    source: File,
    blocks: Sequence[BlockPages],
    target: File,
    offsets: Sequence[int],
    io: IOOptions,
    on_bytes: OnBytes,
    *,
    key: SumKey | None = None,
    watch: Watch | None = None,
) -> Moved:
    """Bring all present pages to their places in a fresh target, cloned where possible.

    Parameters
    ----------
    source : File
        A mapped-ram image.
    blocks : sequence of BlockPages
        Where its pages are.
    target : File
        Reads as zeros where pages go.
    offsets : sequence of int
        Where each block's page 0 goes in the target.
    io : IOOptions
        Window and threads, and whether cloning is allowed.
    on_bytes : callable
        Progress.
    key : SumKey, optional
        Sum the pages with it; those that were cloned are read for it.
    watch : Watch, optional
        Looks at the pages, as with the key.

    Returns
    -------
    Moved
        Sums, and what was cloned.
    """
    sums: list[Table | None] = [None] * len(blocks)
    done = cloned = 0

    def work(numbers: Sequence[int], to: File | None) -> None:
        """Let the engine copy some blocks, or only look at them."""
        nonlocal done
        if not numbers:
            return
        tables = move_pages(
            source,
            [blocks[i] for i in numbers],
            io,
            lambda count: on_bytes(done + count),
            target=to,
            target_offsets=[offsets[i] for i in numbers],
            key=key,
            watch=watch,
        )
        for i, table in zip(numbers, tables or (), strict=False):
            sums[i] = table
        done += sum(_present_length(blocks[i]) for i in numbers)

    def tick() -> None:
        on_bytes(cloned)

    shared, left = [], []
    for i, (block, offset) in enumerate(zip(blocks, offsets, strict=True)):
        if io.clone and _share(source, block, target, offset, tick):
            shared.append(i)
            cloned += _present_length(block)
        else:
            left.append(i)
    if key is not None or watch is not None:
        work(shared, None)
    else:
        done = cloned
    work(left, target)
    return Moved([table for table in sums if table] if key else None, cloned)


def clone_file(source: str, target: str) -> None:
    """Make a file that shares all of another's content, under a new name.

    Raises
    ------
    ConversionError
        If the target exists, or the two cannot share.
    ImageIOError
        What the operating system refused.
    """
    with OutputFile(target, overwrite=False) as output:
        try:
            with open(source, "rb") as file:
                shared = share_content(file.fileno(), output.descriptor)
        except OSError as error:
            raise ImageIOError.from_os(error, path=source) from error
        if not shared:
            raise ConversionError(
                "the two files cannot share their pages here; make the copy with "
                "cp --sparse=always, and name that",
                path=target,
            )
        output.commit(warn=True)


class CannotShareError(Exception):
    """Nothing of a file can be cloned into another one."""


def share_rest(source: File, start: int, target: File, offset: int) -> int:
    """Bring all of a file from an offset on into another one: cloned, except an incomplete block.

    Parameters
    ----------
    source : File
        Read only.
    start : int
        Where in it.
    target : File
        Ends before `offset`, or is overwritten from there on.
    offset : int
        Where in that: as far from a border of the file system's blocks as `start`.

    Returns
    -------
    int
        Bytes that were cloned.

    Raises
    ------
    CannotShareError
        If nothing can be.
    ImageIOError
        What the operating system refused.
    """
    try:
        grain = os.fstatvfs(target.descriptor).f_bsize
        head = -start % grain
        if source.start != 0 or (start - offset) % grain or start + head >= source.length:
            raise CannotShareError
        for at, length in _pieces(start + head, source.length, _PIECE_LENGTH):
            _clone(source, at, target, at - start + offset, length)
    except OSError as error:
        if error.errno in _CANNOT:
            raise CannotShareError from error
        raise ImageIOError.from_os(error, path=target.path) from error
    target.write(source.read(head, start), offset)
    return source.length - start - head


def _present_length(block: BlockPages) -> int:
    return block.present * block.page_size


def _share(
    source: File, block: BlockPages, target: File, offset: int, tick: Callable[[], None]
) -> bool:
    """Clone a block, or let a server copy it; False if neither is possible."""
    if source.start != 0:  # its offsets are not those of the file
        return False
    try:
        grain = os.fstatvfs(target.descriptor).f_bsize
        if any(place % grain for place in (block.offset, offset, block.page_size)):
            return False
        if not _try(_clone, source, block, target, offset, _unstale(source, block), tick):
            return _file_system(target.descriptor) in _ON_SERVERS and _try(
                _copy, source, block, target, offset, _stored(source, block), tick
            )
    except OSError as error:
        raise ImageIOError.from_os(error, path=target.path) from error
    return True


_Way = Callable[[File, int, File, int, int], None]


def _try(
    way: _Way,
    source: File,
    block: BlockPages,
    target: File,
    offset: int,
    pieces: Iterator[Piece],
    tick: Callable[[], None],
) -> bool:
    try:
        for start, length in pieces:
            way(source, block.offset + start, target, offset + start, length)
            tick()
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        return False
    return True


def _clone(source: File, start: int, target: File, offset: int, length: int) -> None:
    wanted = _RANGE.pack(source.descriptor, start, length, offset)
    fcntl.ioctl(target.descriptor, _CLONE_RANGE, wanted)


def _copy(source: File, start: int, target: File, offset: int, length: int) -> None:
    while length:
        count = os.copy_file_range(source.descriptor, target.descriptor, length, start, offset)
        if not count:  # the source ends here, which the engine says better
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        start, offset, length = start + count, offset + count, length - count


def _unstale(source: File, block: BlockPages) -> Iterator[Piece]:
    """Yield all of a block but its stale pages: bits clear, and the file not empty there."""
    size = block.page_size
    at = 0
    for run in page_runs(clear_pages(source, block), block.count):
        yield from _pieces(at * size, run.first * size, _PIECE_LENGTH)
        at = run.first + run.count
    yield from _pieces(at * size, block.count * size, _PIECE_LENGTH)


def _stored(source: File, block: BlockPages) -> Iterator[Piece]:
    """Yield the present pages of a block that are no holes."""
    size = block.page_size
    for run in page_runs(stored_pages(source, block), block.count):
        yield from _pieces(run.first * size, (run.first + run.count) * size, _COPY_LENGTH)


def _pieces(start: int, end: int, most: int) -> Iterator[Piece]:
    while start < end:
        yield start, min(most, end - start)
        start += most


def _file_system(fd: int) -> str:
    """Return the type of the file system that a file lies on, empty where it cannot be told."""
    device = os.fstat(fd).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo", errors="replace") as file:
            mounts = file.read().splitlines()
    except OSError:
        return ""
    for line in mounts:
        left, _, right = line.partition(" - ")
        if left.split(" ")[2:3] == [number]:
            return right.split(" ")[0]
    return ""
