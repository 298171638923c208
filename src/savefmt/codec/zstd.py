"""zstd, RFC 8878: read and written through the standard library or its backport."""

from __future__ import annotations

import sys
from types import ModuleType

from savefmt.codec.base import Compressor, Decompressor
from savefmt.codec.boundaries import Lookahead, NoBoundaryError, Read
from savefmt.codec.members import MemberCodec
from savefmt.codec.segments import MAX_STEPS, Gatherer, Segments
from savefmt.errors import SavefmtError, UnsupportedError
from savefmt.frozen import dataclass

_MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = b"\x2a\x4d\x18"  # behind a byte whose upper half is 5
_MOST_BLOCKS = 1024  # of 8 KiB they make 8 MiB; ordinary ones have 128
_BLOCK_LENGTH = 128 << 10
_RAW, _REPEATED, _RESERVED = 0, 1, 3


class ZstdCodec(MemberCodec):
    """zstd, RFC 8878, through the standard library or its backport."""

    name = "zstd"
    libvirt_format = 5
    magic = _MAGIC
    levels = range(1, 23)
    default_level = 3
    noun = "zstd frame"
    member_length = 1 << 20  # 2.5 % more output than with 4 MiB, a quarter of the memory
    frugal = 8 << 20

    def begins(self, head: bytes) -> bool:
        """Tell whether compressed data may begin like this; a skippable frame may come first."""
        skippable = head[:1] != b"" and head[0] >> 4 == 5 and _SKIPPABLE.startswith(head[1:4])
        return skippable or super().begins(head)

    def measure(self, ahead: Lookahead, start: int) -> tuple[int, int]:
        """Tell how long a frame is; see `MemberCodec.measure`."""
        frame = measure_zstd(ahead.read, start, most_blocks=_MOST_BLOCKS)
        return frame.length, frame.most if frame.told is None else frame.told

    def _find_segments(self, read: Read, start: int, end: int) -> Segments:
        segments = Segments(self.name, self._unpack_segment)
        gather = Gatherer(segments)
        while start < end and self.begins(read(min(4, end - start), start)):
            frame = measure_zstd(read, start, most_blocks=MAX_STEPS)
            if frame.told is None:
                raise NoBoundaryError
            gather.add(start, frame.length, frame.told)
            start += frame.length
        gather.flush()
        return segments

    def _decompressor(self, memory: int) -> Decompressor:
        zstd = _zstd()
        parameter = zstd.DecompressionParameter.window_log_max
        try:
            decompressor: Decompressor = zstd.ZstdDecompressor(
                options={parameter: memory.bit_length() - 1}
            )
        except zstd.ZstdError as error:  # the options are right, so memory is short
            raise MemoryError(str(error)) from error
        return decompressor

    def _errors(self) -> tuple[type[Exception], ...]:
        return (_zstd().ZstdError,)

    def _failure(self, reason: str, offset: int, memory: int) -> SavefmtError:
        if "not enough memory" in reason:
            raise MemoryError(reason)
        where = f"the zstd frame near compressed offset {offset:#x}"
        if "too much memory" in reason:
            return UnsupportedError(
                f"{where} needs a window of more than {memory >> 20} MiB to decode, too much "
                "for a file of this length; compress it again without --ultra and --long",
                offset=offset,
            )
        if "Dictionary mismatch" in reason:
            return UnsupportedError(
                f"{where} needs a dictionary, which neither libvirt nor savefmt can supply; "
                "compress it again without one",
                offset=offset,
            )
        return super()._failure(reason, offset, memory)

    def _compressor(self, level: int, length: int) -> Compressor:
        zstd = _zstd()
        parameter = zstd.CompressionParameter
        compressor = zstd.ZstdCompressor(
            options={parameter.compression_level: level, parameter.checksum_flag: 1}
        )
        compressor.set_pledged_input_size(length)
        opened: Compressor = compressor
        return opened


@dataclass(frozen=True, slots=True)
class Frame:
    """What the header of a zstd frame says about the frame.

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
        If it has more blocks, needs a dictionary, or is not a frame.
    """
    head = read(8, start)
    if head[0] >> 4 == 5 and head[1:4] == _SKIPPABLE:
        return Frame(8 + int.from_bytes(head[4:], "little"), 0, 0)
    flags = head[4]
    if head[:4] != _MAGIC or flags & 3:  # the latter name a dictionary
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
        if kind == _RESERVED:
            raise NoBoundaryError
        most += length if kind in (_RAW, _REPEATED) else _BLOCK_LENGTH
        at += 3 + (1 if kind == _REPEATED else length)
        if block & 1:
            return Frame(at - start + (flags & 4), told, most)
    raise NoBoundaryError


def _zstd() -> ModuleType:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd
