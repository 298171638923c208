"""The standard library's zlib takes ISA-L's place where that has no wheels, byte for byte."""

from __future__ import annotations

import gzip
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from savefmt.codec import deflate
from savefmt.codec.base import Decompressor, refuse_foreign
from savefmt.codec.registry import CODECS
from savefmt.errors import CorruptError, TruncatedError

pytestmark = pytest.mark.skipif(not deflate.by_isal, reason="no ISA-L to compare with")
HEADER_LENGTH = 10


@pytest.fixture
def by_zlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deflate, "by_isal", False)


def fed(inflater: Decompressor, packed: bytes, slice_length: int, most: int) -> list[object]:
    """Return what comes of each slice, until the member's end."""
    told: list[object] = []
    for start in range(0, len(packed), slice_length):
        data = packed[start : start + slice_length]
        plain = b""
        while not inflater.eof:
            piece = inflater.decompress(data, most)
            assert len(piece) <= most
            plain += piece
            data = b""
            if inflater.needs_input:
                break
        told.append(plain)
        if inflater.eof:
            return [b"".join(told), start, bytes(inflater.unused_data)]  # type: ignore[arg-type]
    return [b"".join(told), None]  # type: ignore[arg-type]


@given(
    st.lists(st.tuples(st.binary(max_size=300), st.integers(1, 200)), max_size=6),
    st.integers(1, 5000),
    st.integers(1, 5000),
    st.binary(max_size=20),
)
def test_both_give_the_same(
    parts: list[tuple[bytes, int]], slice_length: int, most: int, behind: bytes
) -> None:
    plain = b"".join(data * times for data, times in parts)
    packed = gzip.compress(plain, mtime=0)[HEADER_LENGTH:] + behind

    ours = fed(deflate._Inflater(), packed, slice_length, most)

    assert ours == fed(deflate.inflater(), packed, slice_length, most)
    assert ours[0] == plain


@pytest.mark.usefixtures("by_zlib")
@pytest.mark.parametrize("level", CODECS["gzip"].levels)
def test_there_and_back(level: int) -> None:
    plain = random.Random(level).randbytes(50_000) + bytes(3_000_000)
    packed = bytearray()
    writer = CODECS["gzip"].open_writer(packed.extend, threads=2, level=level)
    writer.write(memoryview(plain))
    writer.close()

    assert gzip.decompress(packed) == plain
    reader = CODECS["gzip"].open_reader(iter([bytes(packed)]), offset=0)
    assert b"".join(bytes(piece) for piece in refuse_foreign(reader)) == plain


@pytest.mark.usefixtures("by_zlib")
def test_damage_is_seen() -> None:
    packed = bytearray(gzip.compress(b"some text " * 1000, mtime=0))
    whole = bytes(packed)
    packed[-5] ^= 1

    for data, error in ((bytes(packed), CorruptError), (whole[:-3], TruncatedError)):
        with pytest.raises(error):
            list(refuse_foreign(CODECS["gzip"].open_reader(iter([data]), offset=0)))


@pytest.mark.usefixtures("by_zlib")
def test_checksums() -> None:
    adler32, crc32 = deflate.checksums()

    assert (adler32(b"abc"), crc32(b"abc")) == (zlib.adler32(b"abc"), zlib.crc32(b"abc"))
