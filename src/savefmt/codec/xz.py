"""xz, The .xz File Format 1.2.1: read and written through the standard library."""

from __future__ import annotations

from collections.abc import Iterator

from savefmt.codec.base import Compressor, Decompressor, memory_limit
from savefmt.codec.boundaries import Lookahead, NoBoundaryError, Read
from savefmt.codec.members import MemberCodec
from savefmt.codec.segments import Segments
from savefmt.errors import CorruptError, SavefmtError, UnsupportedError
from savefmt.format.cursor import Cursor

_MAGIC = b"\xfd7zXZ\0"
_FOOTER_MAGIC = b"YZ"
_HEADER_LENGTH = 12  # and the footer's
_MOST_INDEX = 64 << 20
_MOST_STREAMS = 1 << 20
_MOST_PADDING = 1 << 20
_LEAST_DICTIONARY = 4096


class XzCodec(MemberCodec):
    """xz, through the standard library."""

    name = "xz"
    libvirt_format = 3
    magic = _MAGIC
    levels = range(10)
    default_level = 3
    noun = "xz stream"
    member_length = 1 << 20  # what a random read decodes; 2 % more output than with 2 MiB
    most_threads = 2  # 23 MiB each, from level 3 on
    most_readers = 3  # 5 MiB for each
    frugal = 10 << 20  # xz -6 needs 9 MiB

    def read_member(self, source: Cursor, memory: int) -> Iterator[bytes]:
        """Decompress one stream, padding in front of it included (section 2.2)."""
        zeros = 0
        while zeros < _MOST_PADDING and source.peek(4) == bytes(4):
            source.read(4)
            zeros += 4
        yield from super().read_member(source, memory)

    def measure(self, ahead: Lookahead, start: int) -> tuple[int, int]:
        """Tell how long a stream is; see `MemberCodec.measure`."""
        return measure_xz(ahead, start)

    def _find_segments(self, read: Read, start: int, end: int) -> Segments:
        """Go from stream to stream, last first: each ends with an index of its blocks."""
        streams: list[tuple[int, list[tuple[int, int]]]] = []
        head = read(_HEADER_LENGTH, start)
        while end > start:
            first, blocks = read_xz_index(read, end)
            if len(streams) == _MOST_STREAMS or read(_HEADER_LENGTH, first) != head:
                raise NoBoundaryError
            streams.append((first + _HEADER_LENGTH, blocks))
            end = first
        segments = Segments(self.name, self._unpack_segment, head)
        for at, blocks in reversed(streams):
            for length, plain in blocks:
                segments.add(at, length, plain)
                at += length
        return segments

    def _unpack_segment(self, data: bytes, length: int, offset: int) -> bytes:
        """Unpack a stream header with one block behind it: a decoder wants no more."""
        from lzma import LZMAError

        decompressor = self._decompressor(memory_limit(None))
        parts: list[bytes] = []
        # One byte more than stated: it shows a wrong length, and lets the checksum be verified.
        missing = length + 1
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

    def _decompressor(self, memory: int) -> Decompressor:
        from lzma import FORMAT_XZ, LZMADecompressor

        return LZMADecompressor(FORMAT_XZ, memory)

    def _errors(self) -> tuple[type[Exception], ...]:
        from lzma import LZMAError

        return (LZMAError,)

    def _failure(self, reason: str, offset: int, memory: int) -> SavefmtError:
        if "Memory usage limit" in reason:
            return UnsupportedError(
                f"the xz stream near compressed offset {offset:#x} needs more than "
                f"{memory >> 20} MiB of memory to decode, too much for a file of this length; "
                "compress it again with `xz -3`",
                offset=offset,
            )
        return super()._failure(reason, offset, memory)

    def _compressor(self, level: int, length: int) -> Compressor:
        from lzma import CHECK_CRC64, FILTER_LZMA2, FORMAT_XZ, LZMACompressor

        options = {"id": FILTER_LZMA2, "preset": level}
        if level >= 2:  # which would look back farther than a member goes
            options["dict_size"] = max(self.member_length, _LEAST_DICTIONARY)
        return LZMACompressor(FORMAT_XZ, CHECK_CRC64, filters=[options])


def measure_xz(ahead: Lookahead, start: int) -> tuple[int, int]:
    """Measure an xz stream that ends where another begins, or at the end of the file.

    Parameters
    ----------
    ahead : Lookahead
        The stream.
    start : int
        Where the member begins.

    Returns
    -------
    tuple of (int, int)
        Its length in the file, and its plain length as its index tells it.

    Raises
    ------
    NoBoundaryError
        If it ends otherwise.
    """
    if ahead.read(len(_MAGIC), start) != _MAGIC:
        raise NoBoundaryError
    mark = _FOOTER_MAGIC + _MAGIC
    end = ahead.find(mark, start + _HEADER_LENGTH, len(_FOOTER_MAGIC))
    first, blocks = read_xz_index(ahead.read, end)
    if first != start:
        raise NoBoundaryError
    return end - start, sum(plain for _, plain in blocks)


def read_xz_index(read: Read, end: int) -> tuple[int, list[tuple[int, int]]]:
    """Read the index at the end of an xz stream.

    Parameters
    ----------
    read : callable
        Gives bytes of the file.
    end : int
        Where the stream ends.

    Returns
    -------
    tuple of (int, list of (int, int))
        Where the stream begins, and how long each block is in the file and plain.

    Raises
    ------
    NoBoundaryError
        If no stream ends there, or its index is damaged or too long.
    """
    from zlib import crc32

    footer = read(_HEADER_LENGTH, end - _HEADER_LENGTH)
    length = (int.from_bytes(footer[4:8], "little") + 1) * 4
    if footer[10:] != _FOOTER_MAGIC or length > _MOST_INDEX:
        raise NoBoundaryError
    index = read(length, end - _HEADER_LENGTH - length)
    if index[0] or crc32(index[:-4]) != int.from_bytes(index[-4:], "little"):
        raise NoBoundaryError
    count, at = _read_number(index, 1)
    if count > len(index):
        raise NoBoundaryError
    blocks = []
    total = 0
    for _ in range(count):
        unpadded, at = _read_number(index, at)
        plain, at = _read_number(index, at)
        stored = -(-unpadded // 4) * 4
        total += stored
        if total > end:
            raise NoBoundaryError
        blocks.append((stored, plain))
    return end - 2 * _HEADER_LENGTH - length - total, blocks


def _read_number(data: bytes, at: int) -> tuple[int, int]:
    """Read 7 bits a byte, the lowest first; return the number and what follows it."""
    value = 0
    for shift in range(0, 63, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, at
    raise NoBoundaryError
