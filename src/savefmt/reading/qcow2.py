"""Guests in the internal snapshots of qcow2 disk images (`savevm`)."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from savefmt.codec.registry import find_codec
from savefmt.errors import CorruptError, NotASaveImageError, SavefmtError, UnsupportedError
from savefmt.format.qcow2 import (
    Qcow2,
    SnapshotEntry,
    StateMap,
    map_state,
    read_snapshots,
    whole_state,
)
from savefmt.format.stream import QEVM_MAGIC
from savefmt.model import IOOptions, Snapshot
from savefmt.native.file import File, View
from savefmt.reading.spool import spool

_MOST_NAMED = 8
_HEAD_LENGTH = 1024
"""Bytes of a stream in which its configuration section ends."""
_CAPABILITIES, _MAPPED_RAM = b"configuration/capabilities", b"\x0amapped-ram"
_PIECE_LENGTH = 1 << 20
_MOST_READ = 4
"""Times that tables as long as the file are read: snapshots may share some, not all."""
_STREAM_ENDS = (b"}", b"\0")
"""What a stream ends in: its vmdescription, or its EOF mark."""


class Disk:
    """A disk image with internal snapshots.

    Parameters
    ----------
    fd : int
        Open to read, and the caller's.
    file : File
        The same file, and the caller's.

    Raises
    ------
    NotASaveImageError
        If it is not a qcow2 disk image.
    CorruptError, TruncatedError, UnsupportedError
        What is wrong with it.
    """

    def __init__(self, fd: int, file: File) -> None:
        self._fd = fd
        self._file = file
        self._read_length = 0
        self._qcow = Qcow2.read(file.read, file.length)
        self._entries = read_snapshots(self._qcow, file.read, file.length)

    def open(self, name: str | None, io: IOOptions, *, direct: bool) -> File:
        """Open the state of the guest in a snapshot like a file of its own.

        Parameters
        ----------
        name : str or None
            The snapshot's name or ID.
        io : IOOptions
            How it is read.
        direct : bool
            Bypass the page cache.

        Returns
        -------
        File
            To be closed.

        Raises
        ------
        NotASaveImageError
            If there is no such snapshot, or none was named.
        CorruptError, TruncatedError, UnsupportedError
            What is wrong with its state.
        """
        return self._open(self._map(self._choose(name)), io, direct)

    def snapshots(self) -> tuple[Snapshot, ...]:
        """List all snapshots, those without a guest's state among them."""
        return tuple(map(self._described, self._entries))

    def describe(self, name: str) -> Snapshot:
        """Tell about one snapshot; otherwise it raises as `open` does."""
        return self._described(self._choose(name))

    def _described(self, entry: SnapshotEntry) -> Snapshot:
        complete = self._is_complete(entry)
        return Snapshot(entry.identity, entry.name, entry.date, entry.clock, entry.length, complete)

    def _choose(self, name: str | None) -> SnapshotEntry:
        with_state = [entry for entry in self._entries if entry.length]
        if name is None:
            raise NotASaveImageError(_advice(with_state, others=len(self._entries)))
        found = [entry for entry in self._entries if entry.name == name]
        found = found or [entry for entry in self._entries if entry.identity == name]
        if not found:
            raise NotASaveImageError(
                f"the disk image has no snapshot {name!r}; there are {_names(with_state)}"
            )
        if len(found) > 1:
            identities = ", ".join(entry.identity for entry in found)
            raise NotASaveImageError(
                f"{len(found)} snapshots are named {name!r}; name one by its ID: {identities}"
            )
        if not found[0].length:
            raise NotASaveImageError(f"the snapshot {name!r} is of the disk alone, without a guest")
        return found[0]

    def _open(self, state: StateMap, io: IOOptions, direct: bool) -> File:
        if state.packed:
            needed = len(state.packed) << self._qcow.cluster_bits
            needed += sum(length for _, length, _ in state.plain)
            return spool(self._unpacked(state), io, length=state.length, needed=needed)
        view = View(state.length, state.plain)
        path, engine = self._file.path, io.engine
        return File(self._fd, path=path, direct=direct, engine=engine, view=view)

    def _map(self, entry: SnapshotEntry) -> StateMap:
        """Find a state; QEMU tells the length of a mapped-ram one without its pages."""
        state = self._map_as_told(entry)
        if not self._is_mapped_ram(state):
            return state
        state = self._map_as_told(whole_state(self._qcow, entry))
        if state.plain:
            at, length, place = state.plain[-1]
            state.plain[-1] = (at, length - self._slack(length, place), place)
        ends = [at + length for at, length, _ in state.plain[-1:]]
        ends += [at + self._qcow.cluster_length for at, _, _ in state.packed[-1:]]
        return StateMap(max(*ends, entry.length), state.plain, state.packed)

    def _slack(self, length: int, place: int) -> int:
        """Count the zeros that fill a cluster behind the description that ends a stream."""
        count = min(length, self._qcow.cluster_length)
        data = self._file.read(count, place + length - count)
        content = data.rstrip(b"\0")
        return len(data) - len(content) if content.endswith(_STREAM_ENDS[0]) else 0

    def _map_as_told(self, entry: SnapshotEntry) -> StateMap:
        return map_state(self._qcow, entry, self._read, self._file.length)

    def _read(self, length: int, offset: int) -> bytes:
        self._read_length += length
        return self._file.read(length, offset)

    def _is_mapped_ram(self, state: StateMap) -> bool:
        head = b""
        if state.plain and state.plain[0][0] == 0:
            _, length, place = state.plain[0]
            head = self._file.read(min(length, _HEAD_LENGTH), place)
        elif state.packed and state.packed[0][0] == 0:
            _, length, place = state.packed[0]
            head = self._unpack(self._file.read(length, place))[:_HEAD_LENGTH]
        return head.startswith(QEVM_MAGIC) and _CAPABILITIES in head and _MAPPED_RAM in head

    def _unpacked(self, state: StateMap) -> Iterator[tuple[int, bytes]]:
        for offset, length, place in state.plain:
            for done in range(0, length, _PIECE_LENGTH):
                count = min(_PIECE_LENGTH, length - done)
                yield offset + done, self._file.read(count, place + done)
        for offset, length, place in state.packed:
            try:
                data = self._unpack(self._file.read(length, place))
            except SavefmtError as error:
                error.offset = place
                raise
            yield offset, data[: state.length - offset]

    def _unpack(self, data: bytes) -> bytes:
        length, compression = self._qcow.cluster_length, self._qcow.compression
        plain = b""
        if compression == "zstd":
            for piece in find_codec(compression).open_reader(iter([data]), offset=0):
                plain += piece
                if len(plain) >= length:
                    break
        else:
            try:
                plain = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, length)
            except zlib.error as error:
                raise CorruptError(f"a damaged cluster: {error}") from error
        if len(plain) < length:
            raise CorruptError("a compressed cluster is too short")
        return plain[:length]

    def _is_complete(self, entry: SnapshotEntry) -> bool | None:
        """Tell whether a stream lies there, from its magic to what ends it."""
        if not entry.length or self._read_length > _MOST_READ * self._file.length:
            return None
        try:
            state = self._map(entry)
            if state.packed:
                return None
            with self._open(state, IOOptions(), direct=False) as file:
                return (
                    file.length > len(QEVM_MAGIC)
                    and file.read(len(QEVM_MAGIC), 0) == QEVM_MAGIC
                    and file.read(1, file.length - 1) in _STREAM_ENDS
                )
        except UnsupportedError:
            return None
        except SavefmtError:
            return False


def _advice(guests: list[SnapshotEntry], others: int) -> str:
    if guests:
        return (
            "this is a disk image (qcow2) with guests in its internal snapshots; name one with "
            f"--snapshot: there are {_names(guests)}"
        )
    which = "internal snapshots of the disk alone" if others else "internal snapshots"
    return (
        f"this is a disk image (qcow2) with{'' if others else 'out'} {which}, so no guest's "
        "memory is in it; name the file with the guest's memory instead"
    )


def _names(guests: list[SnapshotEntry]) -> str:
    names = ", ".join(repr(entry.name) for entry in guests[:_MOST_NAMED])
    more = f" and {len(guests) - _MOST_NAMED} more" if len(guests) > _MOST_NAMED else ""
    return f"{names}{more}" if guests else "none with a guest"
