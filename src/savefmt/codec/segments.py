"""Where compressed data can be entered midway, found without unpacking any of them.

zstd frames and xz blocks tell their lengths, plain and compressed, and so do lzop's blocks
and some gzip members (see `savefmt.codec.boundaries` and `savefmt.codec.lzop`).  A bzip2
file tells nothing of the kind.
"""

from __future__ import annotations

from array import array

from savefmt.codec.boundaries import (
    NoBoundaryError,
    Read,
    measure_gzip,
    measure_zstd,
    read_xz_index,
)
from savefmt.codec.lzop import Flag, read_header
from savefmt.codec.registry import find_codec
from savefmt.errors import CorruptError, SavefmtError
from savefmt.format.cursor import ChunkCursor

MAX_SEGMENT = 64 << 20
"""Most plain bytes in a segment: reading one page unpacks that many."""

_LEAST_SEGMENT = 1 << 20  # smaller ones are taken together
_MAX_SEGMENTS = 1 << 22
_MAX_STEPS = 1 << 24  # frames and blocks to look at; beyond that a file is a trap
_XZ_MEMORY_LIMIT = 128 << 20


class Segments:
    """Parts of a compressed stream that can be unpacked alone.

    Attributes
    ----------
    codec : str
        Name of the codec.
    plain : array of int
        Where each begins among the plain bytes, and where the last ends.
    stored : array of int
        Where each begins in the file, and where the last ends.
    head : bytes
        What must stand in front of a segment to make it a file.
    lengths : array of int
        Bytes that each takes in the file.
    """

    def __init__(self, codec: str, head: bytes = b"") -> None:
        self.codec = codec
        self.head = head
        self.plain = array("Q", [0])
        self.stored = array("Q")
        self.lengths = array("Q")

    def __len__(self) -> int:
        return len(self.stored)

    @property
    def memory(self) -> int:
        """Bytes of memory held."""
        return sum(len(kept) * 8 for kept in (self.plain, self.stored, self.lengths))

    def add(self, stored: int, length: int, plain: int) -> None:
        """Put another segment behind the last.

        Raises
        ------
        _NoSegmentsError
            If there are too many, or this one is too long.
        """
        if plain > MAX_SEGMENT or len(self.stored) == _MAX_SEGMENTS:
            raise _NoSegmentsError
        self.stored.append(stored)
        self.lengths.append(length)
        self.plain.append(self.plain[-1] + plain)

    def unpack(self, read: Read, number: int) -> bytes:
        """Unpack one segment.

        Parameters
        ----------
        read : callable
            As for `find_segments`.
        number : int
            Which one.

        Returns
        -------
        bytes
            All of it.

        Raises
        ------
        CorruptError
            If it is damaged, or its length a lie.
        """
        offset = self.stored[number]
        length = self.plain[number + 1] - self.plain[number]
        data = self.head + read(self.lengths[number], offset)
        if self.codec == "xz":
            plain = _unpack_xz(data, length, offset)
        else:
            plain = _unpack_file(self.codec, data, length, offset)
        if len(plain) != length:
            raise CorruptError(
                f"the {self.codec} data at compressed offset {offset:#x} have another length "
                f"than the {length} bytes they tell",
                offset=offset,
            )
        return plain


class _NoSegmentsError(Exception):
    """The data cannot be entered midway, or not in a way worth it."""


class _Gatherer:
    """Takes neighbours together until they are worth a segment of their own."""

    def __init__(self, segments: Segments) -> None:
        self._segments = segments
        self._stored = self._length = self._plain = 0
        self._steps = 0

    def add(self, stored: int, length: int, plain: int) -> None:
        self._steps += 1
        if self._steps > _MAX_STEPS or plain > MAX_SEGMENT:
            raise _NoSegmentsError
        if self._plain and self._plain + plain > _LEAST_SEGMENT:
            self.flush()
        if not self._length:
            self._stored = stored
        self._length += length
        self._plain += plain

    def flush(self) -> None:
        if self._length:
            self._segments.add(self._stored, self._length, self._plain)
        self._length = self._plain = 0


def find_segments(codec: str, read: Read, start: int, end: int) -> Segments | None:
    """Find the parts of a compressed stream that can be unpacked alone.

    Parameters
    ----------
    codec : str
        Name of the codec.
    read : callable
        Gives bytes of the file.
    start, end : int
        Where the compressed stream lies in the file.

    Returns
    -------
    Segments or None
        None where there are none, they are too long, or the data are not sound: then
        only reading them in order can tell.
    """
    ways = {"zstd": _find_zstd, "gzip": _find_gzip, "xz": _find_xz, "lzop": _find_lzop}
    find = ways.get(codec)
    if find is None:
        return None

    def checked(length: int, offset: int) -> bytes:
        if not start <= offset <= offset + length <= end:
            raise _NoSegmentsError
        return read(length, offset)

    try:
        segments = find(checked, start, end)
    except (_NoSegmentsError, NoBoundaryError, SavefmtError):
        return None
    return segments if len(segments) else None


def _find_zstd(read: Read, start: int, end: int) -> Segments:
    segments = Segments("zstd")
    gather = _Gatherer(segments)
    at = start
    while at < end:
        frame = measure_zstd(read, at, most_blocks=_MAX_STEPS)
        if frame.told is None:
            raise _NoSegmentsError
        gather.add(at, frame.length, frame.told)
        at += frame.length
    gather.flush()
    return segments


def _find_gzip(read: Read, start: int, end: int) -> Segments:
    segments = Segments("gzip")
    gather = _Gatherer(segments)
    at = start
    while at < end:
        length, plain = measure_gzip(read, at)
        gather.add(at, length, plain)
        at += length
    gather.flush()
    return segments


def _find_lzop(read: Read, start: int, end: int) -> Segments:
    cursor = ChunkCursor(iter([read(min(4096, end - start), start)]), start)
    flags, _ = read_header(cursor)
    at = cursor.tell()
    segments = Segments("lzop", read(at - start, start))
    gather = _Gatherer(segments)
    plain_sums = bool(flags & Flag.ADLER32_PLAIN) + bool(flags & Flag.CRC32_PLAIN)
    packed_sums = bool(flags & Flag.ADLER32_PACKED) + bool(flags & Flag.CRC32_PACKED)
    while plain := int.from_bytes(read(4, at), "big"):
        packed = int.from_bytes(read(4, at + 4), "big")
        length = 8 + 4 * plain_sums + packed + (4 * packed_sums if packed < plain else 0)
        gather.add(at, length, plain)
        at += length
    gather.flush()
    if at + 4 != end:
        raise _NoSegmentsError  # another file follows
    return segments


def _unpack_file(codec: str, data: bytes, length: int, offset: int) -> bytes:
    if codec == "lzop":
        data += bytes(4)  # where the end of the file would be
    parts: list[bytes] = []
    total = 0
    for piece in find_codec(codec).open_reader(iter([data]), offset=offset):
        parts.append(bytes(piece))
        total += len(piece)
        if total > length:
            break  # a lie, and maybe a bomb
    return b"".join(parts)


def _find_xz(read: Read, start: int, end: int) -> Segments:
    """Go from stream to stream, last first: each ends with an index of its blocks."""
    streams: list[tuple[int, list[tuple[int, int]]]] = []
    head = read(12, start)
    count = 0
    while end > start:
        first, blocks = read_xz_index(read, end)
        count += max(len(blocks), 1)
        if count > _MAX_SEGMENTS or read(12, first) != head:
            raise _NoSegmentsError
        streams.append((first + 12, blocks))
        end = first
    segments = Segments("xz", head)
    for at, blocks in reversed(streams):
        for length, plain in blocks:
            segments.add(at, length, plain)
            at += length
    return segments


def _unpack_xz(data: bytes, length: int, offset: int) -> bytes:
    """Unpack a stream header with one block behind it: a decoder wants no more."""
    from lzma import FORMAT_XZ, LZMADecompressor, LZMAError

    decompressor = LZMADecompressor(FORMAT_XZ, _XZ_MEMORY_LIMIT)
    parts: list[bytes] = []
    missing = length + 1  # one too many tells a lie, and lets the check be verified
    try:
        piece = decompressor.decompress(data, missing)
        while piece:
            parts.append(piece)
            missing -= len(piece)
            piece = decompressor.decompress(b"", missing) if missing else b""
    except LZMAError as error:
        raise CorruptError(
            f"damaged xz block at compressed offset {offset:#x}: {error}", offset=offset
        ) from error
    return b"".join(parts)
