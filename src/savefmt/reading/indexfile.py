"""An index kept in a file, so that the next reading of an image need not make it again.

The file is bound to the image by its length, its time of change, and a digest of its first and
last bytes, which hold the domain XML, the block list and the device state.  An index that
belongs to another image, is damaged, or comes from another release is ignored and written
again.

An index says which pages are zeros, and nothing in the image tells whether that is true. So it
is believed only if this user made it: it must be the user's own file that nobody else may
write, and its digest is made with a key that only the user can read. Its content must also be
possible: runs are inside of their block and of the image, and when a page is read, its record
must be where the index has it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from savefmt.errors import ConversionError, SavefmtError
from savefmt.format.ram import ListedBlock
from savefmt.frozen import dataclass
from savefmt.model import StrPath
from savefmt.native.file import File
from savefmt.native.index import BlockIndex
from savefmt.native.records import RecordCounts
from savefmt.reading.pageindex import PageIndex
from savefmt.reading.source import Source
from savefmt.reading.stored import StoredImage
from savefmt.writing.cachefolder import cache_folder, cache_key, evict, is_own, mark_used
from savefmt.writing.output import OutputFile

AUTO = "auto"
"""Means a file in the user's cache folder; write ``./auto`` for a file of that name."""

_NAME = b"savefmt index"
_MAGIC = _NAME + b"\x02"
_SUFFIX = ".index"
_CACHE_LIMIT = 256 << 20
"""Bytes that all indexes in the cache folder take: what was not used for longest goes."""
_ORDER = struct.pack("=I", 0x01020304)  # runs are kept as this host has them
_BOUND_LENGTH = 64 << 10
_HEAD = struct.Struct("=14s4sQq32sI4QI")
_BLOCK = struct.Struct("=B255sQQ")
_RUN_LENGTH = 32
_DIGEST_LENGTH = 32
_BATCH = 1024 * _RUN_LENGTH


@dataclass(frozen=True, slots=True)
class Identity:
    """What tells an image from another one.

    Attributes
    ----------
    length : int
        In bytes.
    changed : int
        Time of the last change, in nanoseconds.
    digest : bytes
        SHA-256 of its first and last 64 KiB.
    """

    length: int
    changed: int
    digest: bytes

    @classmethod
    def of(cls, file: File, source: Source) -> Identity:
        """Tell the identity of an open image."""
        part = min(_BOUND_LENGTH, file.length)
        both = file.read(part, 0) + file.read(part, file.length - part)
        if source.is_part:  # another part of the file may begin and end like this one
            both += f"{source.offset} {source.snapshot}".encode(errors="surrogateescape")
        return cls(file.length, file.state.changed, hashlib.sha256(both).digest())


def kept_index(place: StrPath, image: StoredImage, make: Callable[[], PageIndex]) -> PageIndex:
    """Return the index of an image from its file, or make it and write the file.

    Parameters
    ----------
    place : str or os.PathLike
        The file, or `AUTO`, whose failures the caller never sees.
    image : StoredImage
        A sequential image.
    make : callable
        Makes the index.

    Returns
    -------
    PageIndex
        That of this image.
    """
    blocks = image.head.blocks
    identity = Identity.of(image.file, image.source)
    try:
        path = locate(place, identity)
        key = cache_key()
        kept = load_index(path, key, identity, blocks.blocks, blocks.page_size, image.stream_offset)
    except SavefmtError:
        if place != AUTO:
            raise
        return make()  # it works without a cache folder, too
    if kept is not None:
        return kept
    index = make()
    try:
        save_index(path, key, identity, index, blocks.blocks, warn=place != AUTO)
        if place == AUTO:
            evict(path.parent, _SUFFIX, _CACHE_LIMIT, path.name)
    except SavefmtError:
        if place != AUTO:
            raise
    return index


def locate(index: StrPath, identity: Identity) -> Path:
    """Return where an index lies; `AUTO` names one by the image's identity.

    Raises
    ------
    ConversionError
        If a file is there that is no index.
    ImageIOError
        If the cache folder cannot be made.
    """
    if index != AUTO:
        _check_place(Path(index))
        return Path(index)
    name = f"{identity.length} {identity.changed} {identity.digest.hex()}"
    return cache_folder() / f"{hashlib.sha256(name.encode()).hexdigest()[:40]}{_SUFFIX}"


def load_index(
    path: Path,
    key: bytes,
    identity: Identity,
    blocks: Sequence[ListedBlock],
    page_size: int,
    start: int,
) -> PageIndex | None:
    """Read an index, if it is that of this image.

    Parameters
    ----------
    path : Path
        The index.
    key : bytes
        Of the user who made it.
    identity : Identity
        Of the image.
    blocks : sequence of ListedBlock
        What the image lists.
    page_size : int
        Its page size.
    start : int
        Where its stream begins: no page lies in front of that.

    Returns
    -------
    PageIndex or None
        None where there is no sound index of just this image.

    Raises
    ------
    ConversionError
        If others than this user may have written it.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return None
    try:
        if not is_own(os.fstat(fd)):
            raise ConversionError(
                "this index is not your own, or others may write to it, so savefmt does not "
                "use it; name another file",
                path=path,
            )
        return _load_sound(fd, path, key, identity, blocks, page_size, start)
    finally:
        os.close(fd)


def _load_sound(
    fd: int,
    path: Path,
    key: bytes,
    identity: Identity,
    blocks: Sequence[ListedBlock],
    page_size: int,
    start: int,
) -> PageIndex | None:
    try:
        with File(fd, path=path) as file:
            index = _load(_Reader(file, key), identity, blocks, page_size, start)
        if index is not None:
            mark_used(fd)
    except (SavefmtError, OSError):
        return None
    return index


def _new_seal(key: bytes) -> hashlib.blake2b:
    return hashlib.blake2b(key=key, digest_size=_DIGEST_LENGTH)


class _Reader:
    """Reads an index from front to back, and sums what it reads."""

    def __init__(self, file: File, key: bytes) -> None:
        self._file = file
        self._at = 0
        self._sum = _new_seal(key)

    def take(self, length: int) -> bytes:
        data = self._file.read(length, self._at)
        self._at += length
        self._sum.update(data)
        return data

    def ends_well(self) -> bool:
        """Whether the digest of all before follows, and then nothing."""
        expected = self._sum.digest()
        if self._file.length != self._at + _DIGEST_LENGTH:
            return False
        return hmac.compare_digest(self.take(_DIGEST_LENGTH), expected)


def _load(
    reader: _Reader,
    identity: Identity,
    blocks: Sequence[ListedBlock],
    page_size: int,
    start: int,
) -> PageIndex | None:
    head = reader.take(_HEAD.size)
    counts = RecordCounts(*_HEAD.unpack(head)[6:10])
    if head != _pack_head(identity, counts, page_size, len(blocks)):
        return None
    indexes = []
    for block in blocks:
        entry = reader.take(_BLOCK.size)
        runs = _BLOCK.unpack(entry)[3]
        if entry != _pack_block(block.name, block.page_count, runs) or runs > block.page_count:
            return None
        index = BlockIndex(block.name, block.page_count, page_size)
        reached = 0
        left = runs * _RUN_LENGTH
        while left:
            batch = reader.take(min(left, _BATCH))
            if struct.unpack_from("=Q", batch)[0] != reached:
                return None
            # A compressed image has more bytes than its file.
            index.load(batch, start, 1 << 62)
            first, count = struct.unpack_from("=QQ", batch, len(batch) - _RUN_LENGTH)
            reached = first + count
            left -= len(batch)
        if reached != block.page_count:
            return None
        indexes.append(index)
    return PageIndex.of(indexes, counts, page_size) if reader.ends_well() else None


def _pack_head(identity: Identity, counts: RecordCounts, page_size: int, block_count: int) -> bytes:
    return _HEAD.pack(
        _MAGIC,
        _ORDER,
        identity.length,
        identity.changed,
        identity.digest,
        page_size,
        counts.pages,
        counts.zeros,
        counts.deltas,
        counts.flushes,
        block_count,
    )


def _pack_block(name: bytes, pages: int, runs: int) -> bytes:
    return _BLOCK.pack(len(name), name, pages, runs)


def save_index(
    path: Path,
    key: bytes,
    identity: Identity,
    index: PageIndex,
    blocks: Sequence[ListedBlock],
    *,
    warn: bool = False,
) -> None:
    """Write an index, in place of an older one; `warn` as for `OutputFile.commit`.

    Raises
    ------
    ConversionError
        If a file is there that is no index.
    ImageIOError
        If it cannot be written.
    """
    _check_place(path)
    with OutputFile(path, overwrite=True, direct=False) as output:
        at = 0
        total = _new_seal(key)

        def put(data: bytes) -> None:
            nonlocal at
            output.file.write(data, at)
            total.update(data)
            at += len(data)

        put(_pack_head(identity, index.counts, index.page_size, len(blocks)))
        for block, places in zip(blocks, index.blocks, strict=True):
            _put_block(put, block, places)
        put(total.digest())
        output.commit(warn=warn)


def _put_block(put: Callable[[bytes], None], block: ListedBlock, places: BlockIndex) -> None:
    batches = list(places.packed_runs())
    runs = sum(len(batch) for batch in batches) // _RUN_LENGTH
    put(_pack_block(block.name, block.page_count, runs))
    for batch in batches:
        put(batch)


def _check_place(path: Path) -> None:
    """Refuse to write over what is no index: a slip of the pen must not cost an image."""
    if not path.exists():
        return
    with suppress(OSError):
        if path.is_file():
            with path.open("rb") as file:
                if file.read(len(_NAME)) == _NAME:
                    return
    raise ConversionError(
        "this file is not an index of savefmt, so savefmt leaves it alone; name another one",
        path=path,
    )
