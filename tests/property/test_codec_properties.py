"""Codecs: whatever the data and however they are cut, the truth or an error comes out."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import sys
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from savefmt.codec.base import Bytes, Codec, refuse_foreign
from savefmt.codec.registry import CODECS
from savefmt.errors import CorruptError, SavefmtError, TruncatedError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BASE = 1 << 20
MEMBER_LENGTH = 3_000
MEMBER_NAMES = ["gzip", "bzip2", "xz", "zstd"]
TOOL_READERS = {
    "gzip": gzip.decompress,
    "bzip2": bz2.decompress,
    "xz": lzma.decompress,
    "zstd": zstd.decompress,
}
NAMES = [
    *MEMBER_NAMES,
    pytest.param(
        "lzop",
        marks=pytest.mark.skipif(not shutil.which("lzop"), reason="the program lzop is absent"),
    ),
]

# A pattern repeated packs well, bytes of their own do not, and zeros are what guests hold.
CHUNKS = st.one_of(
    st.binary(max_size=300),
    st.builds(lambda pattern, count: pattern * count, st.binary(max_size=9), st.integers(0, 900)),
    st.integers(0, 9_000).map(bytes),
)
DATA = st.lists(CHUNKS, max_size=6).map(b"".join)
LENGTHS = st.lists(st.integers(1, 5_000), min_size=1, max_size=8)

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def small(name: str) -> Codec:
    """The codec, with members so short that small data make many."""
    codec = CODECS[name]
    if name == "lzop":
        return codec
    made: Codec = type("Small", (type(codec),), {"member_length": MEMBER_LENGTH})()
    return made


def cut(data: bytes, lengths: list[int]) -> Iterator[memoryview]:
    """Give pieces of these lengths, over and over, in one buffer that each use spoils."""
    buffer = bytearray(max(lengths))
    start = 0
    while start < len(data):
        for length in lengths:
            piece = data[start : start + length]
            buffer[: len(piece)] = piece
            yield memoryview(buffer)[: len(piece)]
            buffer[:] = b"\xee" * len(buffer)
            start += length


def pack(name: str, pieces: Iterable[Bytes], threads: int = 1) -> bytes:
    packed = bytearray()
    writer = small(name).open_writer(packed.extend, threads=threads)
    for piece in pieces:
        writer.write(piece)
    writer.close()
    return bytes(packed)


def unpack(name: str, pieces: Iterator[Bytes]) -> tuple[bytes, SavefmtError | None]:
    gathered = bytearray()
    try:
        for piece in refuse_foreign(CODECS[name].open_reader(pieces, offset=BASE)):
            gathered += piece
    except SavefmtError as error:
        return bytes(gathered), error
    return bytes(gathered), None


@pytest.mark.parametrize("name", NAMES)
@given(data=DATA, fed=LENGTHS, read=LENGTHS, threads=st.integers(1, 4))
@example(data=b"", fed=[1], read=[1], threads=1)
@example(data=bytes(MEMBER_LENGTH), fed=[1], read=[1], threads=2)
@example(data=b"ab" * MEMBER_LENGTH, fed=[MEMBER_LENGTH], read=[1], threads=4)
@example(data=bytes(MEMBER_LENGTH + 1), fed=[7], read=[3, 1], threads=1)
@relaxed
def test_round_trip(name: str, data: bytes, fed: list[int], read: list[int], threads: int) -> None:
    """The same bytes come back, and no cut and no thread changes the compressed ones."""
    packed = pack(name, cut(data, fed), threads)

    assert unpack(name, cut(packed, read)) == (data, None)
    if name != "lzop":  # which notes the time
        assert packed == pack(name, [data])
    if name in TOOL_READERS:
        assert TOOL_READERS[name](packed) == data


@pytest.mark.parametrize("name", NAMES)
@given(data=DATA, place=st.floats(0, 1, exclude_max=True), read=LENGTHS)
@relaxed
def test_truncation(name: str, data: bytes, place: float, read: list[int]) -> None:
    """A cut raises at its own offset, unless it leaves whole members."""
    packed = pack(name, [data])
    length = int(place * len(packed))

    before, error = unpack(name, cut(packed[:length], read))

    assert data.startswith(before)
    if error is None:
        assert name in MEMBER_NAMES
        assert before
        assert len(before) % MEMBER_LENGTH == 0
    else:
        assert isinstance(error, TruncatedError)
        assert error.offset == BASE + length


@pytest.mark.parametrize("name", NAMES)
@given(
    data=DATA,
    flips=st.lists(st.tuples(st.integers(0), st.integers(0, 7)), min_size=1, max_size=3),
    read=LENGTHS,
)
@relaxed
def test_damage(name: str, data: bytes, flips: list[tuple[int, int]], read: list[int]) -> None:
    """Flipped bits give an error that lies within the file, or the right data."""
    packed = pack(name, [data])
    damaged = bytearray(packed)
    for place, bit in flips:
        damaged[place % len(packed)] ^= 1 << bit

    result, error = unpack(name, cut(bytes(damaged), read))

    if error is None:
        assert result == data
    else:
        assert error.offset is not None
        assert BASE <= error.offset <= BASE + len(packed)


@pytest.mark.parametrize("name", [*MEMBER_NAMES, "lzop"])
@given(noise=st.binary(max_size=200), read=LENGTHS)
@relaxed
def test_noise(name: str, noise: bytes, read: list[int]) -> None:
    """Bytes that merely begin right are refused, and never by another exception."""
    _, error = unpack(name, cut(CODECS[name].magic + noise, read))

    assert isinstance(error, SavefmtError)


@pytest.mark.parametrize("name", NAMES)
@given(data=DATA, tail=st.binary(min_size=1, max_size=20), read=LENGTHS)
@relaxed
def test_garbage_behind(name: str, data: bytes, tail: bytes, read: list[int]) -> None:
    """All data come out before what follows them is refused."""
    packed = pack(name, [data])

    result, error = unpack(name, cut(packed + tail, read))

    assert result == data
    if not isinstance(error, TruncatedError):  # a tail may look like a member cut short
        assert isinstance(error, CorruptError)
        assert error.offset is not None
        assert error.offset >= BASE + len(packed)
