"""How long members are, as they lie in the file and plain, told without decoding them.

Nothing here is proof: who relies on it decodes all the same, within what was told.
Sources: RFC 8878, section 3.1 (zstd); RFC 1952, section 2.3 (gzip); The .xz File Format
1.2.1, sections 2 to 4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

Read = Callable[[int, int], bytes]
"""``read(length, offset)`` gives exactly so many bytes of the file."""

_ZSTD_MAGIC = 0xFD2FB528
_ZSTD_SKIPPABLE = 0x184D2A5  # and any four bits behind
_ZSTD_BLOCK_LENGTH = 128 << 10
_ZSTD_RAW, _ZSTD_REPEATED, _ZSTD_RESERVED = 0, 1, 3

_GZIP_EXTRA = 4
_GZIP_TRAILER_LENGTH = 8

_XZ_MAGIC = b"\xfd7zXZ\0"
_XZ_FOOTER_MAGIC = b"YZ"
_XZ_HEADER_LENGTH = 12
_MAX_XZ_INDEX = 64 << 20

_BZIP2_HEAD_LENGTH = 4
_BZIP2_BLOCK = b"1AY&SY"


class NoBoundaryError(Exception):
    """Only decoding can tell where the member ends."""


class Lookahead(Protocol):
    """Bytes of a stream that can be looked at before they are consumed."""

    def read(self, length: int, offset: int) -> bytes:
        """Give exactly so many bytes; `NoBoundaryError` where there are not as many."""

    def find(self, mark: bytes, offset: int, into: int = 0) -> int:
        """Tell the place `into` the next `mark`; where the stream ends if none comes."""


class Frame(NamedTuple):
    """What a zstd frame tells of itself.

    Attributes
    ----------
    length : int
        Bytes that it takes in the file.
    told : int or None
        Its plain length, where the header tells.
    most : int
        Plain bytes that its blocks can hold at most.
    """

    length: int
    told: int | None
    most: int


def measure_zstd(read: Read, start: int, *, most_blocks: int) -> Frame:
    """Walk from block to block of a zstd frame, or measure a skippable one.

    Parameters
    ----------
    read : callable
        Gives bytes of the file.
    start : int
        Where the frame begins.
    most_blocks : int
        How many to look at.

    Returns
    -------
    Frame
        Its lengths.

    Raises
    ------
    NoBoundaryError
        If it has more blocks, wants a dictionary, or is none.
    """
    head = read(8, start)
    magic = int.from_bytes(head[:4], "little")
    if magic >> 4 == _ZSTD_SKIPPABLE:
        return Frame(8 + int.from_bytes(head[4:], "little"), 0, 0)
    flags = head[4]
    if magic != _ZSTD_MAGIC or flags & 3:  # the latter tell of a dictionary
        raise NoBoundaryError
    single = flags >> 5 & 1
    size_length = (single, 2, 4, 8)[flags >> 6]
    at = start + 6 - single
    told = None
    if size_length:
        told = int.from_bytes(read(size_length, at), "little")
        told += 256 if size_length == 2 else 0
    at += size_length
    most = 0
    for _ in range(most_blocks):
        block = int.from_bytes(read(3, at), "little")
        kind, length = block >> 1 & 3, block >> 3
        if kind == _ZSTD_RESERVED:
            raise NoBoundaryError
        most += length if kind in (_ZSTD_RAW, _ZSTD_REPEATED) else _ZSTD_BLOCK_LENGTH
        at += 3 + (1 if kind == _ZSTD_REPEATED else length)
        if block & 1:
            return Frame(at - start + (flags & 4), told, most)
    raise NoBoundaryError


def measure_gzip(read: Read, start: int) -> tuple[int, int]:
    """Measure a gzip member whose extra field tells how long it is.

    Two conventions are known: subfield ``IG`` of mgzip and pgzip, whose four bytes are the
    length of the member, and ``BC`` of bgzip, whose two bytes are that less one (The SAM
    Format Specification, section 4.1).

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
    if head[:3] != b"\x1f\x8b\x08" or not head[3] & _GZIP_EXTRA:
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
    if length < 12 + len(extra) + _GZIP_TRAILER_LENGTH:
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
    return member[:3] + bytes([_GZIP_EXTRA]) + member[4:10] + field + member[10:]


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
    if ahead.read(len(_XZ_MAGIC), start) != _XZ_MAGIC:
        raise NoBoundaryError
    mark = _XZ_FOOTER_MAGIC + _XZ_MAGIC
    end = ahead.find(mark, start + _XZ_HEADER_LENGTH, len(_XZ_FOOTER_MAGIC))
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

    footer = read(_XZ_HEADER_LENGTH, end - _XZ_HEADER_LENGTH)
    length = (int.from_bytes(footer[4:8], "little") + 1) * 4
    if footer[10:] != _XZ_FOOTER_MAGIC or length > _MAX_XZ_INDEX:
        raise NoBoundaryError
    index = read(length, end - _XZ_HEADER_LENGTH - length)
    if index[0] or crc32(index[:-4]) != int.from_bytes(index[-4:], "little"):
        raise NoBoundaryError
    count, at = _xz_number(index, 1)
    if count > len(index):
        raise NoBoundaryError
    blocks = []
    total = 0
    for _ in range(count):
        unpadded, at = _xz_number(index, at)
        plain, at = _xz_number(index, at)
        stored = -(-unpadded // 4) * 4
        total += stored
        blocks.append((stored, plain))
    return end - 2 * _XZ_HEADER_LENGTH - length - total, blocks


def _xz_number(data: bytes, at: int) -> tuple[int, int]:
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


def measure_bzip2(ahead: Lookahead, start: int) -> int:
    """Find where the next bzip2 stream of the same level begins, or the file ends.

    Parameters
    ----------
    ahead : Lookahead
        The stream.
    start : int
        Where the member begins.

    Returns
    -------
    int
        Its length in the file; what it holds only decoding can tell.

    Raises
    ------
    NoBoundaryError
        If it holds nothing.
    """
    mark = ahead.read(_BZIP2_HEAD_LENGTH + len(_BZIP2_BLOCK), start)
    if not mark.endswith(_BZIP2_BLOCK):
        raise NoBoundaryError
    return ahead.find(mark, start + len(mark)) - start
