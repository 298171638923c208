"""zlib's format: by ISA-L, or by the standard library on processors for which ISA-L has no wheels.

Both decode to the same bytes and refuse the same ones; ISA-L is several times as fast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from savefmt.codec.base import Bytes, Compressor, Decompressor

try:
    from isal import igzip_lib, isal_zlib

    by_isal = True
except ImportError:
    by_isal = False

Checksum = Callable[[Bytes], int]

_PLAIN_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
_GZIP = 31  # what zlib calls the window bits of a gzip member


def inflater() -> Decompressor:
    """Return what decodes a gzip member from behind its header, its trailer included."""
    if not by_isal:
        return _Inflater()
    return cast(Decompressor, igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_GZIP_NO_HDR_VER))


def inflate_errors() -> tuple[type[Exception], ...]:
    """Return what an inflater raises where a member is damaged."""
    if not by_isal:
        from zlib import error

        return (error,)
    return (cast(type[Exception], igzip_lib.IsalError),)  # its stub has an instance


def deflater(level: int) -> Compressor:
    """Return what encodes a gzip member; `level` is one of ISA-L's, 0 to 3."""
    if not by_isal:
        import zlib

        return zlib.compressobj(max(level, 1), zlib.DEFLATED, _GZIP)
    return isal_zlib.compressobj(level, isal_zlib.DEFLATED, _GZIP)


def checksums() -> tuple[Checksum, Checksum]:
    """Return Adler-32 and CRC-32."""
    if not by_isal:
        import zlib

        return zlib.adler32, zlib.crc32
    return isal_zlib.adler32, isal_zlib.crc32


class _Inflater:
    """The standard library's, which wants a header."""

    def __init__(self) -> None:
        import zlib

        self._inflate: Any = zlib.decompressobj(_GZIP)
        self._inflate.decompress(_PLAIN_HEADER)
        self._full = False

    @property
    def eof(self) -> bool:
        return bool(self._inflate.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._inflate.unused_data)

    @property
    def needs_input(self) -> bool:
        return not (self._full or self.eof or self._inflate.unconsumed_tail)

    def decompress(self, data: Bytes, /, max_length: int) -> bytes:
        left = self._inflate.unconsumed_tail
        plain: bytes = self._inflate.decompress(left + data if left else data, max(max_length, 0))
        self._full = len(plain) == max_length
        return plain
