"""Builds small qcow2 disk images with snapshots, byte by byte and without the package."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

COPIED = 1 << 63
COMPRESSED = 1 << 62
SUBCLUSTERS = 32


@dataclass
class Disk:
    """A disk image under construction.

    Attributes
    ----------
    extended : bool
        16-byte L2 entries with a bitmap of subclusters.
    packed : str
        ``deflate`` or ``zstd``: every third cluster of a state is compressed.
    shuffle : bool
        Clusters in no order.
    """

    version: int = 3
    cluster_bits: int = 12
    disk_length: int = 5 << 20
    extended: bool = False
    packed: str = ""
    shuffle: bool = False
    extra: int = 24
    incompatible: int = 0
    crypt: int = 0
    content: bytearray = field(default_factory=bytearray)

    @property
    def cluster(self) -> int:
        """Bytes of one."""
        return 1 << self.cluster_bits

    def take(self, data: bytes) -> int:
        """Put a cluster somewhere and return where."""
        at = len(self.content)
        self.content += data + bytes(-len(data) % self.cluster)
        return at

    def build(self, states: Mapping[str, bytes | None]) -> bytes:
        """Return a disk image with a snapshot for each name; None has no state."""
        self.content = bytearray(self.cluster)
        entries = [
            self._snapshot(i, name, state) for i, (name, state) in enumerate(states.items(), 1)
        ]
        table = len(self.content)
        self.content += b"".join(entry.ljust(-(-len(entry) // 8) * 8, b"\0") for entry in entries)
        zstd = self.packed == "zstd"
        features = self.incompatible | 16 * self.extended | 8 * zstd
        header = struct.pack(
            ">4sIQIIQIIQQIIQQQQIIB",
            *(b"QFI\xfb", self.version, 0, 0, self.cluster_bits, self.disk_length, self.crypt),
            *(0, 0, 0, 0, len(entries), table),
            *((features, 0, 0, 4, 112, zstd) if self.version == 3 else (0, 0, 0, 0, 0, 0)),
        )
        self.content[: len(header)] = header
        return bytes(self.content)

    def _snapshot(self, number: int, name: str, state: bytes | None) -> bytes:
        content = state or b""
        l1 = self._tables(content)
        extra = struct.pack(">QQQ", len(content), self.disk_length, (1 << 64) - 1)[: self.extra]
        identity = str(number).encode()
        return (
            struct.pack(
                ">QIHHIIQII",
                self.take(b"".join(struct.pack(">Q", word) for word in l1)),
                len(l1),
                *(len(identity), len(name.encode())),
                *(1_700_000_000 + number, 5 * 10**8, number * 10**9 + 17),
                len(content) if self.extra < 8 else 0,
                len(extra),
            )
            + extra
            + identity
            + name.encode()
        )

    def _tables(self, state: bytes) -> list[int]:
        size, words = self.cluster, 2 if self.extended else 1
        per_table = size // (8 * words)
        l1 = [0] * -(-self.disk_length // (per_table * size))
        clusters = [state[at : at + size] for at in range(0, len(state), size)]
        order = list(range(len(clusters)))
        if self.shuffle:
            random.Random(7).shuffle(order)
        entries: dict[int, tuple[int, ...]] = {}
        for index in order:
            entries[index] = self._entry(index, clusters[index])
        for first in range(0, len(clusters), per_table):
            flat: list[int] = []
            for index in range(first, min(first + per_table, len(clusters))):
                flat += entries[index]
            l1.append(self.take(struct.pack(f">{len(flat)}Q", *flat)) | COPIED if any(flat) else 0)
        return l1

    def _entry(self, index: int, data: bytes) -> tuple[int, ...]:
        rest: tuple[int, ...] = (0,) if self.extended else ()
        if not data.strip(b"\0"):
            zero = 1 if self.version == 3 and not self.extended and index % 2 else 0
            return (zero, *rest)
        if self.packed and index % 3 == 0:
            return (self._pack(data.ljust(self.cluster, b"\0")), *rest)
        if not self.extended:
            return (self.take(data) | COPIED,)
        data = data.ljust(self.cluster, b"\0")
        part = self.cluster // SUBCLUSTERS
        there = sum(
            1 << i for i in range(SUBCLUSTERS) if data[i * part : (i + 1) * part].strip(b"\0")
        )
        # What is not there must not be read: let something else stand in its place.
        filled = b"".join(
            data[i * part : (i + 1) * part] if there >> i & 1 else b"\xee" * part
            for i in range(SUBCLUSTERS)
        )
        zeros = ~there & 0xFFFF_FFFF if index % 2 else 0
        return (self.take(filled) | COPIED, zeros << 32 | there)

    def _pack(self, data: bytes) -> int:
        if self.packed == "zstd":
            from oracle import compress

            packed = compress("zstd", data)
        else:
            maker = zlib.compressobj(wbits=-12)
            packed = maker.compress(data) + maker.flush()
        self.content += b"\xdd" * 13  # compressed clusters begin anywhere
        at = len(self.content)
        self.content += packed
        bits = 62 - (self.cluster_bits - 8)
        sectors = (at % 512 + len(packed) - 1) // 512
        self.content += bytes(-len(self.content) % self.cluster)
        return COMPRESSED | sectors << bits | at


def with_word(disk: bytes, at: int, word: int, length: int = 8) -> bytes:
    """Return a disk image with another big-endian number somewhere."""
    return disk[:at] + word.to_bytes(length, "big") + disk[at + length :]


def table_offset(disk: bytes) -> int:
    """Return where the snapshot table is."""
    return int.from_bytes(disk[64:72], "big")


def l1_of_first(disk: bytes) -> tuple[int, int]:
    """Return where the first snapshot's L1 table is, and how many words it has."""
    at = table_offset(disk)
    return int.from_bytes(disk[at : at + 8], "big"), int.from_bytes(disk[at + 8 : at + 12], "big")


def words(disk: bytes, at: int, count: int) -> Sequence[int]:
    """Return big-endian words."""
    return struct.unpack_from(f">{count}Q", disk, at)
