"""qcow2 disk images, as far as needed for the guests in their internal snapshots."""

from __future__ import annotations

import os
import sys
from array import array
from collections.abc import Callable, Iterator
from itertools import pairwise
from struct import Struct
from typing import ClassVar

from savefmt.errors import CorruptError, NotASaveImageError, TruncatedError, UnsupportedError
from savefmt.frozen import dataclass, replace

MAGIC = b"QFI\xfb"
MAX_SNAPSHOTS = 65536
MAX_TABLE_LENGTH = 64 << 20
"""Bytes of all entries in the snapshot table; QEMU takes no more either."""

_CLUSTER_BITS = range(9, 22)
_EXTENDED_BITS = 14
"""Of clusters with subclusters, at least."""
_MAX_L1_LENGTH = 32 << 20
_EXTERNAL_DATA, _COMPRESSION_TYPE, _EXTENDED_L2 = 4, 8, 16
_KNOWN_FEATURES = 31
_FEATURES_FROM = 3
_OFFSET_MASK = 0x00FF_FFFF_FFFF_FE00
_COMPRESSED = 1 << 62
_READS_AS_ZEROS = 1
_SECTOR = 512
_LEAST_PACKED = 8
"""No compressed cluster takes fewer bytes."""
_SUBCLUSTERS = 32
_LARGEST_EXTRA = 1024
_HEADER_LENGTH = 112
_COMPRESSIONS = {0: "deflate", 1: "zstd"}
_SHARED = "the state of a snapshot uses the same place twice; the disk image is damaged"
_CUT_SHORT = "the disk image was cut short, so get a complete copy"

Read = Callable[[int, int], bytes]
"""``read(length, offset)`` gives exactly so many bytes of the file."""


@dataclass(frozen=True, slots=True)
class Qcow2:
    """The header of a disk image.

    Attributes
    ----------
    version : int
        2 or 3.
    cluster_bits : int
        Clusters have two to that power bytes.
    disk_length : int
        Of the disk that the guest sees.
    snapshot_count, snapshots_offset : int
        The snapshot table.
    extended : bool
        L2 entries have a bitmap of subclusters.
    compression : str
        Of compressed clusters: ``deflate`` or ``zstd``.
    obstacle : str
        Why the state in snapshots cannot be read; empty where it can.
    """

    version: int
    cluster_bits: int
    disk_length: int
    snapshot_count: int
    snapshots_offset: int
    extended: bool = False
    compression: str = "deflate"
    obstacle: str = ""

    WIRE: ClassVar[Struct] = Struct(">4sI12xIQIIQ12xIQQ24xB")

    @classmethod
    def read(cls, read: Read, length: int) -> Qcow2:
        """Read the header of a file of `length` bytes."""
        head = read(min(_HEADER_LENGTH, length), 0).ljust(_HEADER_LENGTH, b"\0")
        if head[:4] != MAGIC:
            raise NotASaveImageError(
                "this is not a qcow2 disk image, and nothing else has snapshots; leave "
                "--snapshot out"
            )
        values = cls.WIRE.unpack_from(head)
        _, version, bits, disk, crypt, _, _, count, table, features, compression = values
        if version == 1:
            raise NotASaveImageError(
                "this is a disk image (qcow) without internal snapshots; name the file with the "
                "guest's memory instead"
            )
        if version not in (2, 3):
            raise UnsupportedError(
                f"this is a disk image of qcow version {version}, which this release does not read",
                offset=4,
            )
        if version < _FEATURES_FROM:
            features = compression = 0
        smallest = _EXTENDED_BITS if features & _EXTENDED_L2 else _CLUSTER_BITS[0]
        if count and not smallest <= bits <= _CLUSTER_BITS[-1]:
            raise CorruptError(
                f"the disk image has clusters of 2^{bits} bytes, which QEMU does not allow",
                offset=20,
            )
        if count > MAX_SNAPSHOTS:
            raise CorruptError(
                f"the disk image claims {count} snapshots, and QEMU allows 65536", offset=60
            )
        if count and table + 40 * count > length:
            raise TruncatedError(f"the snapshot table is not in the file; {_CUT_SHORT}", offset=64)
        if not features & _COMPRESSION_TYPE:
            compression = 0
        obstacle = _obstacle(crypt, features, compression)
        return cls(
            version,
            bits,
            disk,
            count,
            table,
            bool(features & _EXTENDED_L2),
            _COMPRESSIONS.get(compression, ""),
            obstacle,
        )

    @property
    def cluster_length(self) -> int:
        """Bytes of a cluster."""
        return 1 << self.cluster_bits

    @property
    def words(self) -> int:
        """64-bit words of an L2 entry."""
        return 2 if self.extended else 1

    @property
    def entries(self) -> int:
        """Entries of an L2 table, which fills a cluster."""
        return self.cluster_length // (8 * self.words)


def _obstacle(crypt: int, features: int, compression: int) -> str:
    if crypt:
        return "the disk image is encrypted, and so is the state of its snapshots"
    if features & _EXTERNAL_DATA:
        return "the disk image keeps its data in another file"
    if features & ~_KNOWN_FEATURES or compression not in _COMPRESSIONS:
        return "the disk image has features that this release does not know"
    return ""


_BACKING = Struct(">QI")
_BACKING_AT = 8
_MAX_NAME_LENGTH = 1023
_EXTENSION = Struct(">II")
_BACKING_FORMAT = 0xE279_2ACA
_EXTENSIONS_AT = 100
_OLD_HEADER_LENGTH = 72


def backing_name(head: bytes) -> tuple[str, str] | None:
    """Return what a disk image has below it.

    Parameters
    ----------
    head : bytes
        The first cluster, or the first 64 KiB.

    Returns
    -------
    (str, str) or None
        Name and format of the backing file, the format empty where it is not said; None where
        the disk stands alone.

    Raises
    ------
    CorruptError
        If the name is not in the head.
    """
    if head[:4] != MAGIC or len(head) < _OLD_HEADER_LENGTH:
        return None
    offset, length = _BACKING.unpack_from(head, _BACKING_AT)
    if not offset:
        return None
    if length > _MAX_NAME_LENGTH or offset + length > len(head):
        raise CorruptError("the name of the backing file is not in the header", offset=_BACKING_AT)
    name = head[offset : offset + length]
    return os.fsdecode(name), _backing_format(head, offset)


def _backing_format(head: bytes, end: int) -> str:
    """Look through the header extensions, which lie before the backing file's name."""
    at = _OLD_HEADER_LENGTH
    if int.from_bytes(head[4:8], "big") >= _FEATURES_FROM:
        at = int.from_bytes(head[_EXTENSIONS_AT : _EXTENSIONS_AT + 4], "big")
    while _OLD_HEADER_LENGTH <= at <= end - _EXTENSION.size:
        kind, length = _EXTENSION.unpack_from(head, at)
        at += _EXTENSION.size
        if kind == _BACKING_FORMAT:
            return head[at : min(at + length, end)].decode("ascii", "replace")
        if kind == 0:
            break
        at += -(-length // 8) * 8
    return ""


@dataclass(frozen=True, slots=True)
class SnapshotEntry:
    """One entry of the snapshot table.

    Attributes
    ----------
    identity, name : str
        Both name it; names need not be unique.
    date : float
        Seconds since the epoch.
    clock : int
        Guest time in nanoseconds.
    length : int
        Bytes of the guest's state; 0 for a snapshot of the disk alone.
    disk_length : int
        Of the disk, then.
    l1_offset, l1_count : int
        The table that leads to its clusters.
    """

    identity: str
    name: str
    date: float
    clock: int
    length: int
    disk_length: int
    l1_offset: int
    l1_count: int

    WIRE: ClassVar[Struct] = Struct(">QIHHIIQII")


def read_snapshots(qcow: Qcow2, read: Read, length: int) -> list[SnapshotEntry]:
    """Read the snapshot table of a file of `length` bytes."""
    found: list[SnapshotEntry] = []
    start = at = qcow.snapshots_offset
    wire = SnapshotEntry.WIRE

    def take(count: int, offset: int) -> bytes:
        if offset + count > min(length, start + MAX_TABLE_LENGTH):
            raise TruncatedError(f"the snapshot table is not in the file; {_CUT_SHORT}", offset=at)
        return read(count, offset)

    for _ in range(qcow.snapshot_count):
        head = wire.unpack(take(wire.size, at))
        l1, l1_count, id_length, name_length, seconds, nanoseconds, clock, small, extra = head
        if extra > _LARGEST_EXTRA:
            raise CorruptError(
                f"a snapshot claims {extra} bytes of extra data, which is too many", offset=at
            )
        rest = take(extra + id_length + name_length, at + wire.size)
        state = int.from_bytes(rest[:8], "big") if extra >= 8 else small
        disk = int.from_bytes(rest[8:16], "big") if extra >= 16 else qcow.disk_length
        names = rest[extra:]
        found.append(
            SnapshotEntry(
                names[:id_length].decode(errors="surrogateescape"),
                names[id_length:].decode(errors="surrogateescape"),
                seconds + nanoseconds / 1e9,
                clock,
                state,
                disk,
                l1,
                l1_count,
            )
        )
        at += -(-(wire.size + len(rest)) // 8) * 8
    return found


Extent = tuple[int, int, int]
"""Offset in the state, length, and offset in the file."""


@dataclass(frozen=True, slots=True)
class StateMap:
    """Where the state of a guest lies.

    Attributes
    ----------
    length : int
        The whole length; parts without a place read as zeros.
    plain : list of (int, int, int)
        Uncompressed clusters: offset in the state, length, offset in the file.
    packed : list of (int, int, int)
        Compressed clusters: offset in the state, length and offset in the file.
    """

    length: int
    plain: list[Extent]
    packed: list[Extent]


def whole_state(qcow: Qcow2, entry: SnapshotEntry) -> SnapshotEntry:
    """Return an entry that claims all that its table has room for."""
    first = _first_table(qcow, entry)
    return replace(entry, length=max(entry.l1_count - first, 0) * _covered(qcow))


def map_state(qcow: Qcow2, entry: SnapshotEntry, read: Read, length: int) -> StateMap:
    """Find the clusters of a snapshot's state in a file of `length` bytes.

    The state follows the disk's last byte, as if the disk continued there. No byte of the file
    may be used twice, so the state holds no more bytes than the file.
    """
    if qcow.obstacle:
        raise UnsupportedError(qcow.obstacle)
    state = StateMap(entry.length, [], [])
    used = 0
    for base, table in _l2_tables(qcow, entry, read, length):
        for offset, count, place, compressed in _clusters(qcow, table, base):
            count = min(count, entry.length - offset if not compressed else length - place)
            if offset >= entry.length:
                break
            if place >= length or place + count > length:
                message = f"the state of snapshot {entry.name!r} is not all there; {_CUT_SHORT}"
                raise TruncatedError(message, offset=min(place, length))
            used += _LEAST_PACKED if compressed else count
            if used > length:
                raise CorruptError(_SHARED, offset=place)
            if compressed:
                state.packed.append((offset, count, place))
            else:
                _append(state.plain, offset, count, place)
    # Compressed clusters may share a sector, and begin each at a place of its own.
    shared = len({place for _, _, place in state.packed}) < len(state.packed) or any(
        one[2] + one[1] > other[2] for one, other in pairwise(sorted(state.plain, key=_place))
    )
    if shared:
        raise CorruptError(_SHARED)
    return state


def _place(extent: Extent) -> int:
    return extent[2]


def _append(extents: list[Extent], offset: int, count: int, place: int) -> None:
    """Append an extent, or make the last one longer."""
    if extents:
        start, before, there = extents[-1]
        if (start + before, there + before) == (offset, place):
            extents[-1] = (start, before + count, there)
            return
    extents.append((offset, count, place))


def _l2_tables(
    qcow: Qcow2, entry: SnapshotEntry, read: Read, length: int
) -> Iterator[tuple[int, array[int]]]:
    """Yield where in the state each table begins to tell, and its words."""
    covered, first = _covered(qcow), _first_table(qcow, entry)
    count = -(-entry.length // covered)
    if first + count > entry.l1_count or 8 * entry.l1_count > _MAX_L1_LENGTH:
        raise CorruptError(
            f"the table of snapshot {entry.name!r} has no room for its state",
            offset=entry.l1_offset,
        )
    if entry.l1_offset + 8 * entry.l1_count > length:
        message = f"the table of snapshot {entry.name!r} is not in the file; {_CUT_SHORT}"
        raise TruncatedError(message, offset=length)
    seen: set[int] = set()
    for number, word in enumerate(_words(read(8 * count, entry.l1_offset + 8 * first))):
        place = word & _OFFSET_MASK
        if not place:
            continue
        if place in seen or place % qcow.cluster_length:
            raise CorruptError(_SHARED, offset=entry.l1_offset + 8 * (first + number))
        if place + qcow.cluster_length > length:
            message = f"a table of snapshot {entry.name!r} is not in the file; {_CUT_SHORT}"
            raise TruncatedError(message, offset=length)
        seen.add(place)
        yield number * covered, _words(read(qcow.cluster_length, place))


def _covered(qcow: Qcow2) -> int:
    """Return how many bytes one L2 table describes."""
    return qcow.entries << qcow.cluster_bits


def _first_table(qcow: Qcow2, entry: SnapshotEntry) -> int:
    """Return which word of the L1 table is the first behind the disk's."""
    return -(-entry.disk_length // _covered(qcow))


def _words(data: bytes) -> array[int]:
    words = array("Q", data)
    if sys.byteorder == "little":
        words.byteswap()
    return words


def _clusters(qcow: Qcow2, table: array[int], base: int) -> Iterator[tuple[int, int, int, bool]]:
    """Yield offset in the state, length, offset in the file, and whether it is compressed."""
    cluster = qcow.cluster_length
    for index in range(0, len(table), qcow.words):
        word = table[index]
        if not word:
            continue
        offset = base + (index // qcow.words << qcow.cluster_bits)
        if word & _COMPRESSED:
            bits = 62 - (qcow.cluster_bits - 8)
            place = word & ((1 << bits) - 1)
            sectors = (word >> bits & ((1 << 62 - bits) - 1)) + 1
            yield offset, sectors * _SECTOR - place % _SECTOR, place, True
            continue
        place = word & _OFFSET_MASK
        if place % cluster:
            raise CorruptError(
                f"a cluster begins at {place:#x}, which is not a cluster boundary", offset=place
            )
        if not place:
            continue
        if qcow.extended:
            part = cluster // _SUBCLUSTERS
            for first, count in _subclusters(table[index + 1]):
                yield offset + first * part, count * part, place + first * part, False
        elif not (qcow.version >= _FEATURES_FROM and word & _READS_AS_ZEROS):
            yield offset, cluster, place, False


def _subclusters(bitmap: int) -> Iterator[tuple[int, int]]:
    """Yield runs of subclusters that are there and do not read as zeros."""
    there = bitmap & ~(bitmap >> 32) & 0xFFFF_FFFF
    first = 0
    while there >> first:
        rest = there >> first
        first += (rest & -rest).bit_length() - 1
        rest = there >> first
        count = (~rest & rest + 1).bit_length() - 1
        yield first, count
        first += count
