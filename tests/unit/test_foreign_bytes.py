"""Bytes behind a compressed stream: reading ends there, and damage inside stays damage."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
from collections.abc import Callable, Iterator
from functools import cache

import pytest
from oracle import compress

from savefmt.codec.base import Border, Bytes
from savefmt.codec.gzip import with_gzip_length
from savefmt.codec.registry import CODECS, find_codec
from savefmt.codec.zstd import _zstd
from savefmt.errors import CorruptError, FormatError, ImageIOError, SavefmtError, TruncatedError

NAMES = sorted(CODECS)
BASE = 92
NOISE = random.Random(3).randbytes(150_000)
DATA = NOISE + bytes(100_000) + NOISE[:90_000]
OLDER = b"an older guest" * 9_000 + NOISE


@cache
def pack(name: str, data: bytes) -> bytes:
    if name == "zstd":
        checked = {_zstd().CompressionParameter.checksum_flag: 1}
        return bytes(_zstd().compress(data, options=checked))
    packed = compress(name, data)
    return with_gzip_length(packed) if name == "gzip" else packed


TAILS: dict[str, Callable[[str], bytes]] = {
    "one byte": lambda name: b"x",
    "zeros": lambda name: bytes(4),
    "many zeros": lambda name: bytes(3_000_001),
    "noise": lambda name: NOISE,
    "a bare stream": lambda name: b"QEVM\0\0\0\3" + bytes(512),
    "the magic and noise": lambda name: CODECS[name].magic + NOISE,
    "the magic alone": lambda name: CODECS[name].magic,
    "half a magic": lambda name: CODECS[name].magic[:2],
    "the middle of an older member": lambda name: pack(name, OLDER)[1000:],
    "another codec": lambda name: compress("xz" if name != "xz" else "gzip", b"x" * 5000),
}


def pieces(data: bytes, length: int) -> Iterator[Bytes]:
    for start in range(0, len(data), length):
        yield data[start : start + length]


def read(name: str, packed: bytes, threads: int = 1, length: int = 60_000) -> list[Bytes]:
    reader = find_codec(name).open_reader(pieces(packed, length), offset=BASE, threads=threads)
    return [piece if isinstance(piece, Border) else bytes(piece) for piece in reader]


def members(name: str) -> bytes:
    """Several members, which threads decode at once."""
    third = len(DATA) // 3 + 1
    parts = [DATA[at : at + third] for at in range(0, len(DATA), third)]
    return b"".join([pack(name, part) for part in parts])


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("name", NAMES)
def test_reading_ends_where_the_codec_does(name: str, tail: str, threads: int) -> None:
    packed = members(name)

    got = read(name, packed + TAILS[tail](name), threads)

    assert b"".join(got) == DATA
    last = got[-1]
    assert isinstance(last, Border)
    assert isinstance(last.failure, FormatError)
    assert last.offset == BASE + len(packed)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_follows(name: str, threads: int) -> None:
    packed = members(name)

    got = read(name, packed, threads)

    assert b"".join(got) == DATA
    last = got[-1]
    assert isinstance(last, Border)
    assert (last.offset, last.failure) == (BASE + len(packed), None)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_borders_tell_where_each_member_ends(name: str, threads: int) -> None:
    parts = [NOISE[:100_000], b"", b"short", bytes(50_000)]
    packed = [pack(name, part) for part in parts]

    got = read(name, b"".join(packed), threads)

    plain, seen = 0, []
    for piece in got:
        plain += len(piece)
        if isinstance(piece, Border):
            seen.append((plain, piece.offset))
    ends = [
        (sum(map(len, parts[: n + 1])), BASE + sum(map(len, packed[: n + 1])))
        for n in range(len(parts))
    ]
    assert seen == ends


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_older_member_is_read_until_its_damage(name: str) -> None:
    """Nothing but the stream inside tells that it is another one's."""
    first, older = pack(name, DATA), bytearray(pack(name, OLDER))
    assert b"".join(read(name, first + bytes(older))) == DATA + OLDER

    if name == "lzop":
        return  # this one has no checksums
    older[len(older) * 3 // 4] ^= 0x10
    gathered = bytearray()
    with pytest.raises(CorruptError):
        for piece in find_codec(name).open_reader(iter([first + bytes(older)]), offset=0):
            gathered += piece
    assert gathered.startswith(DATA)


@pytest.mark.parametrize("name", NAMES)
def test_what_fails_at_once_behind_a_member_is_kept_for_whoever_needs_it(name: str) -> None:
    packed = members(name)

    (*_, last) = read(name, packed + pack(name, b"cut short" * 9)[:9])

    assert isinstance(last, Border)
    assert isinstance(last.failure, TruncatedError)
    assert last.offset == BASE + len(packed)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_damage_and_cuts_inside_stay_errors(name: str, threads: int) -> None:
    packed = bytearray(pack(name, DATA))
    with pytest.raises(TruncatedError):
        read(name, bytes(packed[:-1]), threads)
    packed[len(packed) // 2 if name != "lzop" else 20] ^= 0x10  # its blocks have no checksums
    with pytest.raises(SavefmtError):
        read(name, bytes(packed), threads)


@pytest.mark.parametrize("name", NAMES)
def test_errors_of_the_source_pass_through(name: str) -> None:
    packed = members(name)

    def failing() -> Iterator[Bytes]:
        yield packed
        raise ImageIOError("no medium", errno=5)

    gathered = bytearray()
    with pytest.raises(ImageIOError, match="no medium"):
        for piece in find_codec(name).open_reader(failing(), offset=0):
            gathered += piece
    assert gathered == DATA


def test_padding_of_xz_is_bounded() -> None:
    stream = lzma.compress(b"one")

    assert b"".join(read("xz", stream + bytes(1 << 20) + stream)) == b"oneone"
    (*_, last) = read("xz", stream + bytes((1 << 20) + 4) + stream)
    assert isinstance(last, Border)
    assert isinstance(last.failure, CorruptError)


@pytest.mark.parametrize(
    ("name", "packed"),
    [
        ("gzip", gzip.compress(b"a", mtime=0) + bytes(512)),
        ("bzip2", bz2.compress(b"a") + bytes(512)),
    ],
)
def test_a_stream_in_whole_blocks_of_a_tape(name: str, packed: bytes) -> None:
    assert b"".join(read(name, packed)) == b"a"
