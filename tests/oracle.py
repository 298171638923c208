"""What an image of any form holds, learned without the package: the reference and the codecs.

`hold` reads a file; `assert_same_guest` tells whether two hold one guest.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import struct
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

from lzallright import LZOCompressor
from reference import Image, read_image

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

HEADER_LENGTH = 92
CODECS = ("raw", "gzip", "bzip2", "xz", "lzop", "zstd")
"""In the order of libvirt's numbers."""

_MAGICS = {
    "gzip": b"\x1f\x8b",
    "bzip2": b"BZh",
    "xz": b"\xfd7zXZ\0",
    "lzop": b"\x89LZO\0\r\n\x1a\n",
    "zstd": b"\x28\xb5\x2f\xfd",
}
_LZOP_BLOCK = 256 << 10
_ONLY_FOR_LIVE = {1, 2}  # OPEN_RETURN_PATH, PING


@dataclass(frozen=True)
class Held:
    """A file taken apart."""

    envelope: bytes
    codec: str
    stream: bytes
    """Decompressed."""
    image: Image


def hold(path: Path, *, bitmap_order: str | None = None) -> Held:
    """Read a file of any form; the host that wrote an envelope wrote its bitmaps, too."""
    data = path.read_bytes()
    if bitmap_order is None:
        bitmap_order = "big" if data.startswith(b"LibvirtQemud") and not data[16] else "little"
    length = envelope_length(data)
    codec = codec_of(data[length:])
    stream = decompress(codec, data[length:])
    image = read_image(data[:length] + stream, bitmap_order=bitmap_order)
    return Held(data[:length], codec, stream, image)


def envelope_length(data: bytes) -> int:
    """Return where the stream begins."""
    if not data.startswith(b"LibvirtQemud"):
        return 0
    order = "<" if data[16] else ">"
    (length,) = struct.unpack_from(f"{order}I", data, 20)
    return HEADER_LENGTH + int(length)


def codec_of(stream: bytes) -> str:
    """Return the name of a stream's compression."""
    for name, magic in _MAGICS.items():
        if stream.startswith(magic):
            return name
    return "raw"


def checked_zstd(data: bytes) -> bytes:
    """Compress as the program zstd does: one frame, with a checksum at its end."""
    options: dict[int, int] = {zstd.CompressionParameter.checksum_flag: 1}
    return bytes(zstd.compress(data, options=options))


def compress(codec: str, data: bytes) -> bytes:
    """Compress with other code than the package's."""
    match codec:
        case "gzip":
            return gzip.compress(data, 1, mtime=0)
        case "bzip2":
            return bz2.compress(data, 1)
        case "xz":
            return lzma.compress(data, preset=0)
        case "lzop":
            return _lzop(data)
        case "zstd":
            return bytes(zstd.compress(data))
    return data


def decompress(codec: str, data: bytes) -> bytes:
    """Decompress with other code than the package's."""
    match codec:
        case "gzip":
            return gzip.decompress(data)
        case "bzip2":
            return bz2.decompress(data)
        case "xz":
            return lzma.decompress(data)
        case "lzop":
            return _unlzop(data)
        case "zstd":
            return bytes(zstd.decompress(data))
    return data


def _lzop(data: bytes) -> bytes:
    fields = struct.pack(">HHHBBIIIIB", 0x1030, 0x2080, 0x0940, 1, 5, 0, 0o100644, 0, 0, 0)
    packed = _MAGICS["lzop"] + fields + struct.pack(">I", zlib.adler32(fields))
    for start in range(0, len(data), _LZOP_BLOCK):
        block = data[start : start + _LZOP_BLOCK]
        small = bytes(LZOCompressor().compress(block))
        stored = small if len(small) < len(block) else block
        packed += struct.pack(">II", len(block), len(stored)) + stored
    return packed + bytes(4)


def _unlzop(data: bytes) -> bytes:
    plain = bytearray()
    at = 0
    while at < len(data):
        assert data[at : at + 9] == _MAGICS["lzop"]
        (flags,) = struct.unpack_from(">I", data, at + 17)
        at += 33
        at += 1 + data[at] + 4
        while length := int.from_bytes(data[at : at + 4], "big"):
            (stored,) = struct.unpack_from(">I", data, at + 4)
            sums = sum(bool(flags & flag) for flag in (0x001, 0x100))
            if stored < length:
                sums += sum(bool(flags & flag) for flag in (0x002, 0x200))
            at += 8 + 4 * sums
            block = data[at : at + stored]
            at += stored
            plain += LZOCompressor.decompress(block, length) if stored < length else block
        at += 4
    return bytes(plain)


def digests(image: Image) -> dict[str, str]:
    """Return the SHA-256 of each block's content."""
    return {name: hashlib.sha256(block.content).hexdigest() for name, block in image.blocks.items()}


def assert_bytes(path: Path, expected: bytes) -> None:
    """Compare a file with what it should be, and tell the first place that differs.

    A plain assertion would have pytest explain the difference of megabytes for minutes.
    """
    found = path.read_bytes()
    if found != expected:
        pairs = enumerate(zip(found, expected, strict=False))
        place = next((at for at, (one, other) in pairs if one != other), None)
        lengths = f"{len(found)} and {len(expected)} bytes"
        raise AssertionError(f"{path.name} differs at {place} ({lengths})")


def assert_same_guest(left: Image, right: Image) -> None:
    """Compare all but how the pages are kept."""
    assert left.machine == right.machine
    assert left.uuid == right.uuid
    assert left.page_size == right.page_size
    assert list(left.blocks) == list(right.blocks)
    assert digests(left) == digests(right)
    assert _devices(left) == _devices(right)
    assert _commands(left) == _commands(right)
    assert (left.description or {}).get("devices") == (right.description or {}).get("devices")


def _devices(image: Image) -> list[tuple[int, str, int, int, int, str]]:
    return [
        (
            device.kind,
            device.idstr,
            device.instance_id,
            device.version,
            device.section_id,
            hashlib.sha256(device.payload).hexdigest(),
        )
        for device in image.devices
    ]


def _commands(image: Image) -> list[tuple[int, bytes]]:
    return [
        (number, data)
        for number, data in image.commands
        if number not in _ONLY_FOR_LIVE and not (number == 3 and data)
    ]
