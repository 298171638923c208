"""lzop: savefmt's own reader for the container, and a writer that runs the program.

No library knows the container; `lzallright` decodes its blocks.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from itertools import accumulate

from savefmt.codec.base import Bytes, Codec, Writer, read_in_turn
from savefmt.codec.boundaries import NoBoundaryError, Read
from savefmt.codec.segments import Gatherer, Segments
from savefmt.errors import CorruptError, MissingPackageError, UnsupportedError
from savefmt.format.cursor import ChunkCursor, Cursor

MAGIC = b"\x89LZO\0\r\n\x1a\n"

MAX_BLOCK_LENGTH = 256 << 10
"""Most plain bytes in a block: lzop never writes more, and Linux's own reader takes no
more.  A hostile block may unfold to 255 times its length before its lie is seen, so this
bounds time and memory, too."""

_MAX_EXTRA_LENGTH = 1 << 20
_OLDEST_VERSION = 0x0900
_LEVEL_SINCE = 0x0940  # also the needed version and the upper half of the time
_NEWEST_VERSION = 0x1040
_METHODS = (1, 2, 3)  # LZO1X-1, LZO1X-1(15) and LZO1X-999: one decoder for all
_LONGEST_FILTER = 16
_HEADER_ROOM = 4096
_END_OF_PART = bytes(4)


class Flag(enum.IntFlag):
    """Bits of the header's flags word that change how a file is read."""

    ADLER32_PLAIN = 0x0001
    ADLER32_PACKED = 0x0002
    EXTRA_FIELD = 0x0040
    CRC32_PLAIN = 0x0100
    CRC32_PACKED = 0x0200
    FILTER = 0x0800
    HEADER_CRC32 = 0x1000


_RESERVED_FLAGS = 0x000FC000  # above the flags, below character set and system


def _read_part(source: Cursor) -> Iterator[Bytes]:
    """Decode one lzop file, of which several may follow each other."""
    flags, delta = read_header(source)
    yield from _read_blocks(source, flags, delta)


def read_header(source: Cursor) -> tuple[int, int]:
    """Consume the header, return its flags and its filter's distance (0 = no filter)."""
    start = source.tell()
    what = f"the lzop header at compressed offset {start:#x}"
    head = source.peek(len(MAGIC))
    if not MAGIC.startswith(head):
        raise CorruptError(
            f"there is no lzop header at compressed offset {start:#x}, where the file must end "
            "or a header must begin",
            offset=start,
        )
    source.read(len(MAGIC), what)

    # A checksum over all that is read here follows; the flags tell its kind.
    seen = bytearray()

    def number(length: int) -> int:
        seen.extend(source.read(length, what))
        return int.from_bytes(seen[-length:], "big")

    version = number(2)
    number(2)  # of the LZO library
    modern = version >= _LEVEL_SINCE
    needed = number(2) if modern else version
    method = number(1)
    if modern:
        number(1)  # level
    flags = number(4)
    delta = number(4) if flags & Flag.FILTER else 0
    number(12 if modern else 8)  # mode and time
    if name_length := number(1):
        number(name_length)
    _check_header_sum(source, flags, seen, what)

    # Only now, so that a flipped bit is called damage and not a feature we lack.
    if version < _OLDEST_VERSION or needed > _NEWEST_VERSION:
        raise UnsupportedError(
            f"{what} is of version {version:#x} and needs {needed:#x}; "
            f"{_OLDEST_VERSION:#x} to {_NEWEST_VERSION:#x} can be read",
            offset=start,
        )
    if method not in _METHODS:
        raise UnsupportedError(f"{what} names the unknown method {method}", offset=start)
    if flags & _RESERVED_FLAGS:
        raise UnsupportedError(f"{what} has unknown flags {flags:#x}", offset=start)
    if flags & Flag.FILTER and not 1 <= delta <= _LONGEST_FILTER:
        raise UnsupportedError(f"{what} names the unknown filter {delta}", offset=start)

    if flags & Flag.EXTRA_FIELD:
        seen.clear()  # this field's checksum covers its length, too
        length = number(4)
        if length > _MAX_EXTRA_LENGTH:
            raise CorruptError(f"{what} has an extra field of {length} bytes", offset=start)
        if length:
            number(length)
        _check_header_sum(source, flags, seen, what)
    return flags, delta


def _check_header_sum(source: Cursor, flags: int, seen: bytearray, what: str) -> None:
    from zlib import adler32, crc32

    checksum = crc32(seen) if flags & Flag.HEADER_CRC32 else adler32(seen)
    at = source.tell()
    if source.u32(what) != checksum:
        raise CorruptError(f"{what} has a wrong checksum", offset=at)


def _read_blocks(source: Cursor, flags: int, delta: int) -> Iterator[Bytes]:
    try:
        from lzallright import InputNotConsumed, LZOCompressor, LZOError
    except ImportError as error:
        raise MissingPackageError("lzop", "lzallright") from error
    from savefmt.codec.deflate import checksums

    adler32, crc32 = checksums()
    plain_sums = [adler32] * bool(flags & Flag.ADLER32_PLAIN)
    plain_sums += [crc32] * bool(flags & Flag.CRC32_PLAIN)
    packed_sums = [adler32] * bool(flags & Flag.ADLER32_PACKED)
    packed_sums += [crc32] * bool(flags & Flag.CRC32_PACKED)
    while True:
        start = source.tell()
        what = f"the lzop block at compressed offset {start:#x}"
        plain_length = source.u32(what)
        if plain_length == 0:
            return
        packed_length = source.u32(what)
        if plain_length > MAX_BLOCK_LENGTH:
            raise UnsupportedError(
                f"{what} has {plain_length} bytes, more than {MAX_BLOCK_LENGTH}; "
                "the file is damaged, or not made by lzop",
                offset=start,
            )
        if not 0 < packed_length <= plain_length:
            raise CorruptError(
                f"{what} has {packed_length} bytes for {plain_length} plain ones", offset=start
            )
        stored = packed_length == plain_length
        expected = [source.u32(what) for _ in plain_sums]
        expected_packed = [] if stored else [source.u32(what) for _ in packed_sums]

        # Usually the block lies within one piece, and no copy is needed.
        window = source.window()
        whole = len(window) >= packed_length
        packed: Bytes = window[:packed_length] if whole else source.read(packed_length, what)
        for checksum, value in zip(packed_sums, expected_packed, strict=False):
            if checksum(packed) != value:
                raise CorruptError(
                    f"{what} has a wrong checksum of its compressed bytes", offset=start
                )
        plain = packed
        if not stored:
            try:
                plain = LZOCompressor.decompress(packed, plain_length)
            except (InputNotConsumed, LZOError) as error:
                raise CorruptError(f"{what} does not decode", offset=start) from error
            if len(plain) != plain_length:
                raise CorruptError(
                    f"{what} decodes to {len(plain)} bytes instead of {plain_length}", offset=start
                )
        if delta:
            plain = _undo_filter(plain, delta)
        for checksum, value in zip(plain_sums, expected, strict=True):
            if checksum(plain) != value:
                raise CorruptError(f"{what} has a wrong checksum", offset=start)
        yield plain
        if whole:
            source.advance(packed_length)


def _undo_filter(block: Bytes, delta: int) -> bytes:
    """Turn differences between bytes `delta` apart into the bytes."""
    plain = bytearray(block)
    for lane in range(delta):
        plain[lane::delta] = bytes(total & 0xFF for total in accumulate(plain[lane::delta]))
    return bytes(plain)


class LzopCodec(Codec):
    """lzop: read by our own container reader, written by the program."""

    name = "lzop"
    libvirt_format = 4
    magic = MAGIC
    levels = range(1, 10)
    default_level = 3

    def open_reader(
        self,
        pieces: Iterator[Bytes],
        *,
        offset: int,
        threads: int = 1,
        length: int | None = None,
    ) -> Iterator[Bytes]:
        """Decompress a stream, lazily; see `Codec.open_reader`."""
        source = ChunkCursor(pieces, offset)
        return read_in_turn(source, lambda: _read_part(source))

    def open_writer(
        self, write: Callable[[bytes], None], *, threads: int, level: int | None = None
    ) -> Writer:
        """Start to compress in a child process of one thread; see `Codec.open_writer`."""
        from savefmt.codec.lzopwriter import LzopWriter

        return LzopWriter(write, level=self._level(level))

    def _find_segments(self, read: Read, start: int, end: int) -> Segments:
        cursor = ChunkCursor(iter([read(min(_HEADER_ROOM, end - start), start)]), start)
        flags, _ = read_header(cursor)
        at = cursor.tell()
        segments = Segments(self.name, self._unpack_segment, read(at - start, start))
        gather = Gatherer(segments)
        plain_sums = bool(flags & Flag.ADLER32_PLAIN) + bool(flags & Flag.CRC32_PLAIN)
        packed_sums = bool(flags & Flag.ADLER32_PACKED) + bool(flags & Flag.CRC32_PACKED)
        while plain := int.from_bytes(read(4, at), "big"):
            packed = int.from_bytes(read(4, at + 4), "big")
            length = 8 + 4 * plain_sums + packed + (4 * packed_sums if packed < plain else 0)
            gather.add(at, length, plain)
            at += length
        gather.flush()
        at += len(_END_OF_PART)
        if at < end and read(min(len(MAGIC), end - at), at) == MAGIC:
            raise NoBoundaryError  # another file follows
        return segments

    def _unpack_segment(self, data: bytes, length: int, offset: int) -> bytes:
        return super()._unpack_segment(data + _END_OF_PART, length, offset)
