"""The outer compression of an image: one codec per program that libvirt may pipe through.

A reader takes what the program's own decoder takes, within bounds on memory and less
its leniency towards garbage, and a writer's output is read by that program (format.md
2.5).  Codec libraries are imported on first use only: most commands need none.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, cast

from savefmt.codec.base import (
    Bytes,
    Codec,
    Compressor,
    Decompressor,
    MemberCodec,
    Writer,
)
from savefmt.errors import CorruptError, SavefmtError, UnsupportedError
from savefmt.format.cursor import ChunkCursor, Cursor

if TYPE_CHECKING:
    from savefmt.codec.boundaries import Lookahead

ENTRY_POINTS = "savefmt.codecs"
"""Entry point group in which other distributions offer a `Codec` subclass or object."""

_XZ_MEMORY_LIMIT = 128 << 20  # xz -9 needs 65 MiB to decode
_XZ_LEAST_DICTIONARY = 4096
_XZ_FRUGAL_LIMIT = 10 << 20  # xz -6 needs 9 MiB
_ZSTD_WINDOW_LOG = 27  # 128 MiB: what `zstd -dc` itself accepts unasked
_ZSTD_FRUGAL_WINDOW_LOG = 23
_ZSTD_MOST_BLOCKS = 1024  # of 8 KiB they make 8 MiB; ordinary ones have 128


class GzipCodec(MemberCodec):
    """gzip, RFC 1952, through ISA-L."""

    name = "gzip"
    libvirt_format = 1
    magic = b"\x1f\x8b\x08"  # the third byte is the only method there is, deflate
    levels = range(4)
    default_level = 2
    noun = "gzip member"
    member_length = 1 << 20  # deflate looks back no farther than 32 KiB
    most_threads = 4  # faster than disks, and 12 MiB each

    _HEADER_CRC, _EXTRA, _NAME, _COMMENT, _RESERVED = 2, 4, 8, 16, 0xE0
    _LONGEST_TEXT = 64 << 10

    def _allows_padding(self, zeros: int, *, last: bool) -> bool:
        return zeros == 0 or last

    def _skip_header(self, source: Cursor) -> None:
        # By hand, because isal 1.9.1 misreads optional fields that arrive in pieces.
        start = source.tell()
        what = f"the gzip header at compressed offset {start:#x}"
        header = source.read(10, what)
        flags = header[3]
        if flags & self._RESERVED:
            raise CorruptError(f"{what} has reserved flags {flags:#x}", offset=start)
        if flags & self._EXTRA:
            counted = source.read(2, what)
            header += counted + source.read(int.from_bytes(counted, "little"), what)
        for flag in (self._NAME, self._COMMENT):
            if flags & flag:
                text = bytearray(source.read(1, what))
                while text[-1]:
                    if len(text) > self._LONGEST_TEXT:
                        raise CorruptError(f"{what} has an endless name", offset=start)
                    text += source.read(1, what)
                header += text
        if flags & self._HEADER_CRC:
            from zlib import crc32

            if int.from_bytes(source.read(2, what), "little") != crc32(header) & 0xFFFF:
                raise CorruptError(f"{what} has a wrong checksum", offset=start)

    def measure(self, ahead: Lookahead, start: int) -> tuple[int, int]:
        """Tell how long a member is, if its extra field does; see `MemberCodec.measure`."""
        from savefmt.codec.boundaries import measure_gzip

        return measure_gzip(ahead.read, start)

    def _decompressor(self, *, frugal: bool = False) -> Decompressor:
        from isal import igzip_lib

        decompressor: Decompressor = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_GZIP_NO_HDR_VER)
        return decompressor

    def _errors(self) -> tuple[type[Exception], ...]:
        from isal import igzip_lib

        return (cast(type[Exception], igzip_lib.IsalError),)  # its stub has an instance

    def _compressor(self, level: int, length: int) -> Compressor:
        from isal import isal_zlib

        return _GzipCompressor(isal_zlib.compressobj(level, isal_zlib.DEFLATED, 31))


class _GzipCompressor:
    """Gives a member at once, for its header tells how long it is."""

    def __init__(self, compressor: Compressor) -> None:
        self._compressor = compressor
        self._parts: list[bytes] = []

    def compress(self, data: memoryview) -> bytes:
        self._parts.append(self._compressor.compress(data))
        return b""

    def flush(self) -> bytes:
        from savefmt.codec.boundaries import with_gzip_length

        self._parts.append(self._compressor.flush())
        return with_gzip_length(b"".join(self._parts))


class Bzip2Codec(MemberCodec):
    """bzip2, through the standard library."""

    name = "bzip2"
    libvirt_format = 2
    magic = b"BZh"
    levels = range(1, 10)
    default_level = 9
    noun = "bzip2 stream"
    # Two blocks of level 9.  One holds 899,981 bytes after runs are coded, which may
    # add some: the slack keeps a third, tiny block away.
    member_length = 2 * 899_000
    most_threads = 4  # 13 MiB each

    def measure(self, ahead: Lookahead, start: int) -> tuple[int, int]:
        """Tell how long a stream is; see `MemberCodec.measure`."""
        from savefmt.codec.boundaries import measure_bzip2

        return measure_bzip2(ahead, start), self.member_length

    def _decompressor(self, *, frugal: bool = False) -> Decompressor:
        from bz2 import BZ2Decompressor

        return BZ2Decompressor()

    def _errors(self) -> tuple[type[Exception], ...]:
        return (OSError, ValueError, RuntimeError)

    def _compressor(self, level: int, length: int) -> Compressor:
        from bz2 import BZ2Compressor

        return BZ2Compressor(level)


class XzCodec(MemberCodec):
    """xz, through the standard library."""

    name = "xz"
    libvirt_format = 3
    magic = b"\xfd7zXZ\0"
    levels = range(10)
    default_level = 3
    noun = "xz stream"
    member_length = 2 << 20
    most_threads = 2  # 23 MiB each, from level 3 on
    most_readers = 3  # 5 MiB for each

    def _allows_padding(self, zeros: int, *, last: bool) -> bool:
        return zeros % 4 == 0  # .xz file format 1.2.1, section 2.2

    def measure(self, ahead: Lookahead, start: int) -> tuple[int, int]:
        """Tell how long a stream is; see `MemberCodec.measure`."""
        from savefmt.codec.boundaries import measure_xz

        return measure_xz(ahead, start)

    def _decompressor(self, *, frugal: bool = False) -> Decompressor:
        from lzma import FORMAT_XZ, LZMADecompressor

        return LZMADecompressor(FORMAT_XZ, _XZ_FRUGAL_LIMIT if frugal else _XZ_MEMORY_LIMIT)

    def _errors(self) -> tuple[type[Exception], ...]:
        from lzma import LZMAError

        return (LZMAError,)

    def _failure(self, reason: str, offset: int) -> SavefmtError:
        if "Memory usage limit" in reason:
            return UnsupportedError(
                f"the xz stream near compressed offset {offset:#x} needs more than "
                f"{_XZ_MEMORY_LIMIT >> 20} MiB of memory to decode; "
                "compress it anew with `xz -3`",
                offset=offset,
            )
        return super()._failure(reason, offset)

    def _compressor(self, level: int, length: int) -> Compressor:
        from lzma import CHECK_CRC64, FILTER_LZMA2, FORMAT_XZ, LZMACompressor

        options = {"id": FILTER_LZMA2, "preset": level}
        if level >= 2:  # which would look back farther than a member goes
            options["dict_size"] = max(self.member_length, _XZ_LEAST_DICTIONARY)
        return LZMACompressor(FORMAT_XZ, CHECK_CRC64, filters=[options])


class ZstdCodec(MemberCodec):
    """zstd, RFC 8878, through the standard library or its backport."""

    name = "zstd"
    libvirt_format = 5
    magic = b"\x28\xb5\x2f\xfd"
    levels = range(1, 23)
    default_level = 3
    noun = "zstd frame"
    member_length = 1 << 20  # 2.5 % more output than with 4 MiB, a quarter of the memory

    def begins(self, head: bytes) -> bool:
        """Tell whether compressed data may begin like this, be it with a skippable frame."""
        skippable = head[:1] != b"" and head[0] >> 4 == 5 and b"\x2a\x4d\x18".startswith(head[1:4])
        return skippable or super().begins(head)

    def measure(self, ahead: Lookahead, start: int) -> tuple[int, int]:
        """Tell how long a frame is; see `MemberCodec.measure`."""
        from savefmt.codec.boundaries import measure_zstd

        frame = measure_zstd(ahead.read, start, most_blocks=_ZSTD_MOST_BLOCKS)
        return frame.length, frame.most if frame.told is None else frame.told

    def _decompressor(self, *, frugal: bool = False) -> Decompressor:
        zstd = _zstd()
        window = _ZSTD_FRUGAL_WINDOW_LOG if frugal else _ZSTD_WINDOW_LOG
        decompressor: Decompressor = zstd.ZstdDecompressor(
            options={zstd.DecompressionParameter.window_log_max: window}
        )
        return decompressor

    def _errors(self) -> tuple[type[Exception], ...]:
        return (_zstd().ZstdError,)

    def _failure(self, reason: str, offset: int) -> SavefmtError:
        where = f"the zstd frame near compressed offset {offset:#x}"
        if "too much memory" in reason:
            return UnsupportedError(
                f"{where} needs a window of more than {1 << _ZSTD_WINDOW_LOG >> 20} MiB "
                "to decode; compress it anew without --ultra and --long",
                offset=offset,
            )
        if "Dictionary mismatch" in reason:
            return UnsupportedError(
                f"{where} needs a dictionary, which neither libvirt nor savefmt can supply; "
                "compress it anew without one",
                offset=offset,
            )
        return super()._failure(reason, offset)

    def _compressor(self, level: int, length: int) -> Compressor:
        zstd = _zstd()
        parameter = zstd.CompressionParameter
        compressor = zstd.ZstdCompressor(
            options={parameter.compression_level: level, parameter.checksum_flag: 1}
        )
        compressor.set_pledged_input_size(length)
        opened: Compressor = compressor
        return opened


class LzopCodec(Codec):
    """lzop: read by our own container reader, written by the program."""

    name = "lzop"
    libvirt_format = 4
    magic = b"\x89LZO\0\r\n\x1a\n"
    levels = range(1, 10)
    default_level = 3

    def open_reader(
        self, pieces: Iterator[Bytes], *, offset: int, threads: int = 1
    ) -> Iterator[Bytes]:
        """Decompress a stream, lazily; see `Codec.open_reader`."""
        from savefmt.codec.lzop import read_parts

        return read_parts(ChunkCursor(pieces, offset))

    def open_writer(
        self, write: Callable[[bytes], None], *, threads: int, level: int | None = None
    ) -> Writer:
        """Start to compress in a child process of one thread; see `Codec.open_writer`."""
        from savefmt.codec.lzop import LzopWriter

        return LzopWriter(write, level=self._level(level))


CODECS: dict[str, Codec] = {
    codec.name: codec for codec in (GzipCodec(), Bzip2Codec(), XzCodec(), LzopCodec(), ZstdCodec())
}
"""Every codec known so far, by name; entry points join it on the first miss."""

_plugins_loaded = False


def find_codec(name: str) -> Codec:
    """Look a codec up by name.

    Parameters
    ----------
    name : str
        As in `CODECS`.

    Returns
    -------
    Codec
        The one.

    Raises
    ------
    UnsupportedError
        If there is none, or if two codecs claim one name.
    """
    if name not in CODECS:
        _load_plugins()
    try:
        return CODECS[name]
    except KeyError:
        known = ", ".join(sorted(CODECS))
        raise UnsupportedError(f"no codec is called {name!r}; there are {known}") from None


def codec_for_format(number: int) -> Codec:
    """Look a codec up by the format number in libvirt's header.

    Parameters
    ----------
    number : int
        1 to 5, or what a plug-in adds.

    Returns
    -------
    Codec
        The one; otherwise it raises as `find_codec` does.
    """
    for attempt in range(2):
        for codec in CODECS.values():
            if codec.libvirt_format == number:
                return codec
        if attempt == 0:
            _load_plugins()
    raise UnsupportedError(f"compression format {number} is unknown to this release")


def detect(head: bytes) -> str | None:
    """Tell by its first bytes how a file is compressed.

    Parameters
    ----------
    head : bytes
        At least 16 of them, or all that the file has; best not those of an image that
        is known to be plain, since a miss makes plug-ins load.

    Returns
    -------
    str or None
        Name of the codec; None means that none of them made this.
    """
    for attempt in range(2):
        for codec in CODECS.values():
            if len(head) >= len(codec.magic) and codec.begins(head):
                return codec.name
        if attempt == 0:
            _load_plugins()
    return None


def _load_plugins() -> None:
    global _plugins_loaded
    if _plugins_loaded:
        return
    from importlib.metadata import entry_points

    table = dict(CODECS)
    for entry in entry_points(group=ENTRY_POINTS):
        offered = entry.load()
        _claim(table, offered() if isinstance(offered, type) else offered)
    CODECS.update(table)  # all or none, so that a quarrel is reported each time alike
    _plugins_loaded = True


def _claim(table: dict[str, Codec], codec: Codec) -> None:
    for other in table.values():
        if codec.name == other.name or codec.libvirt_format == other.libvirt_format:
            raise UnsupportedError(
                f"codec {codec.name!r} of {type(codec).__module__} claims the name or the "
                f"number of {other.name!r} of {type(other).__module__}; uninstall one of them"
            )
    table[codec.name] = codec


def _zstd() -> ModuleType:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd
