"""gzip, RFC 1952: headers, members and where they end."""

from __future__ import annotations

from savefmt.codec.base import Compressor, Decompressor
from savefmt.codec.boundaries import Lookahead, NoBoundaryError, Read
from savefmt.codec.members import MemberCodec
from savefmt.codec.segments import Gatherer, Segments
from savefmt.errors import CorruptError
from savefmt.format.cursor import Cursor

_MAGIC = b"\x1f\x8b\x08"  # the third byte is the only method there is, deflate
_EXTRA_FLAG = 4
_TRAILER_LENGTH = 8


class GzipCodec(MemberCodec):
    """gzip, RFC 1952."""

    name = "gzip"
    libvirt_format = 1
    magic = _MAGIC
    levels = range(4)
    default_level = 2
    noun = "gzip member"
    member_length = 1 << 20  # deflate looks back no farther than 32 KiB
    most_threads = 4  # faster than disks, and 12 MiB each

    _HEADER_CRC, _NAME, _COMMENT, _RESERVED = 2, 8, 16, 0xE0
    _LONGEST_TEXT = 64 << 10

    def _skip_header(self, source: Cursor) -> None:
        # By hand, because isal 1.9.1 misreads optional fields that arrive in pieces.
        start = source.tell()
        what = f"the gzip header at compressed offset {start:#x}"
        header = source.read(10, what)
        flags = header[3]
        if flags & self._RESERVED:
            raise CorruptError(f"{what} has reserved flags {flags:#x}", offset=start)
        if flags & _EXTRA_FLAG:
            counted = source.read(2, what)
            header += counted + source.read(int.from_bytes(counted, "little"), what)
        for flag in (self._NAME, self._COMMENT):
            if flags & flag:
                text = bytearray(source.read(1, what))
                while text[-1]:
                    if len(text) > self._LONGEST_TEXT:
                        raise CorruptError(f"{what} has a name that does not end", offset=start)
                    text += source.read(1, what)
                header += text
        if flags & self._HEADER_CRC:
            from zlib import crc32

            if int.from_bytes(source.read(2, what), "little") != crc32(header) & 0xFFFF:
                raise CorruptError(f"{what} has a wrong checksum", offset=start)

    def measure(self, ahead: Lookahead, start: int) -> tuple[int, int]:
        """Tell how long a member is, if its extra field does; see `MemberCodec.measure`."""
        return measure_gzip(ahead.read, start)

    def _find_segments(self, read: Read, start: int, end: int) -> Segments:
        segments = Segments(self.name, self._unpack_segment)
        gather = Gatherer(segments)
        while start < end and read(min(3, end - start), start) == _MAGIC:
            length, plain = measure_gzip(read, start)
            gather.add(start, length, plain)
            start += length
        gather.flush()
        return segments

    def _decompressor(self, memory: int) -> Decompressor:
        from savefmt.codec.deflate import inflater

        return inflater()

    def _errors(self) -> tuple[type[Exception], ...]:
        from savefmt.codec.deflate import inflate_errors

        return inflate_errors()

    def _compressor(self, level: int, length: int) -> Compressor:
        from savefmt.codec.deflate import deflater

        return _GzipCompressor(deflater(level))


class _GzipCompressor:
    """Gives a member at once, for its header tells how long it is."""

    def __init__(self, compressor: Compressor) -> None:
        self._compressor = compressor
        self._parts: list[bytes] = []

    def compress(self, data: memoryview) -> bytes:
        self._parts.append(self._compressor.compress(data))
        return b""

    def flush(self) -> bytes:
        self._parts.append(self._compressor.flush())
        return with_gzip_length(b"".join(self._parts))


def measure_gzip(read: Read, start: int) -> tuple[int, int]:
    """Measure a gzip member whose extra field tells how long it is.

    There are two conventions: the subfield ``IG`` of mgzip and pgzip has four bytes with the
    length of the member. The subfield ``BC`` of bgzip has two bytes with that length minus one
    (The SAM Format Specification, section 4.1).

    Parameters
    ----------
    read : callable
        Gives bytes of the file.
    start : int
        Where the member begins.

    Returns
    -------
    tuple of (int, int)
        Its length in the file, and its plain length as its trailer tells it.

    Raises
    ------
    NoBoundaryError
        If no length is told, or an impossible one.
    """
    head = read(12, start)
    if head[:3] != _MAGIC or not head[3] & _EXTRA_FLAG:
        raise NoBoundaryError
    extra = read(int.from_bytes(head[10:], "little"), start + 12)
    length = 0
    at = 0
    while at + 4 <= len(extra):
        name, size = extra[at : at + 2], int.from_bytes(extra[at + 2 : at + 4], "little")
        value = int.from_bytes(extra[at + 4 : at + 4 + size], "little")
        if (name, size) == (b"IG", 4):
            length = value
        elif (name, size) == (b"BC", 2):
            length = value + 1
        at += 4 + size
    if length < 12 + len(extra) + _TRAILER_LENGTH:
        raise NoBoundaryError
    return length, int.from_bytes(read(4, start + length - 4), "little")


def with_gzip_length(member: bytes) -> bytes:
    """Put a member's length into its header, as pgzip does.

    Parameters
    ----------
    member : bytes
        A gzip member without optional fields.

    Returns
    -------
    bytes
        The same with an extra field of one subfield, ``IG``.
    """
    length = len(member) + 10
    field = b"\x08\0" + b"IG" + b"\x04\0" + length.to_bytes(4, "little")
    return member[:3] + bytes([_EXTRA_FLAG]) + member[4:10] + field + member[10:]
