"""Reading members in parallel: the bytes and the errors of reading them in turn."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from savefmt.codec import reader as memberreader
from savefmt.codec.base import Border, Bytes
from savefmt.codec.gzip import with_gzip_length
from savefmt.codec.registry import CODECS
from savefmt.codec.zstd import _zstd
from savefmt.errors import SavefmtError

BASE = 1 << 20
zstd = _zstd()

relaxed = settings(deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds so low that small data come near them."""
    monkeypatch.setattr(memberreader, "_BATCH", 2_000)
    monkeypatch.setattr(memberreader, "_MOST_PLAIN", 5_000)
    monkeypatch.setattr(memberreader, "_MOST_HELD", 7_000)
    monkeypatch.setattr(memberreader, "_STEP", 50)
    monkeypatch.setattr(memberreader, "_MOST_UNDER_WAY", 16_000)


def zstd_frame(data: bytes, told: bool = True, checked: bool = True) -> bytes:
    compressor = zstd.ZstdCompressor(
        options={zstd.CompressionParameter.checksum_flag: int(checked)}
    )
    if told:
        compressor.set_pledged_input_size(len(data))
    packed: bytes = compressor.compress(data) + compressor.flush()
    return packed


def lying_frame(data: bytes, lie: int) -> bytes:
    """A frame of 256 to 65,791 bytes, whose header tells some more or less of them."""
    frame = bytearray(zstd_frame(data.ljust(300, b"?")))
    assert frame[4] >> 6 == 1
    told = int.from_bytes(frame[6:8] if not frame[4] & 32 else frame[5:7], "little")
    at = 5 if frame[4] & 32 else 6
    frame[at : at + 2] = ((told + lie) & 0xFFFF).to_bytes(2, "little")
    return bytes(frame)


def skippable(data: bytes) -> bytes:
    return b"\x5e\x2a\x4d\x18" + len(data).to_bytes(4, "little") + data


def gzip_told(data: bytes, lie: int = 0) -> bytes:
    member = bytearray(with_gzip_length(gzip.compress(data, mtime=0)))
    length = int.from_bytes(member[16:20], "little")
    member[16:20] = max(length + lie, 0).to_bytes(4, "little")
    return bytes(member)


def gzip_block(data: bytes) -> bytes:
    """As bgzip writes them."""
    member = gzip.compress(data[:3_000], mtime=0)
    field = b"\x06\0BC\x02\0" + (len(member) + 8 - 1).to_bytes(2, "little")
    return member[:3] + b"\x04" + member[4:10] + field + member[10:]


def xz_stream(data: bytes, check: int = lzma.CHECK_CRC64) -> bytes:
    return lzma.compress(data, check=check, preset=0)


def xz_with_mark(data: bytes) -> bytes:
    """Noise that looks like the border of two streams."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0}]
    return lzma.compress(data + bytes(range(256)) + b"YZ\xfd7zXZ\0" + data, filters=filters)


def xz_with_long_window(data: bytes) -> bytes:
    return lzma.compress(data, preset=8)


DATA = st.one_of(
    st.binary(max_size=400),
    st.builds(lambda part, count: part * count, st.binary(max_size=9), st.integers(0, 900)),
    st.sampled_from([b"", bytes(4_999), bytes(5_001), bytes(40_000)]),
)
LIES = st.one_of(st.integers(-300, 300), st.sampled_from([1 << 31, -(1 << 31)]))
MEMBERS: dict[str, st.SearchStrategy[bytes]] = {
    "zstd": st.one_of(
        st.builds(zstd_frame, DATA),
        st.builds(zstd_frame, DATA, st.booleans(), st.booleans()),
        st.builds(lying_frame, st.binary(max_size=400), st.integers(-300, 300)),
        st.builds(skippable, st.binary(max_size=100)),
    ),
    "gzip": st.one_of(
        st.builds(gzip_told, DATA),
        st.builds(gzip_told, DATA, LIES.filter(lambda lie: lie < 1 << 31)),
        st.builds(gzip_block, DATA),
        st.builds(lambda data: gzip.compress(data, mtime=0), DATA),
    ),
    "bzip2": st.builds(bz2.compress, DATA, st.integers(1, 9)),
    "xz": st.one_of(
        st.builds(xz_stream, DATA),
        st.builds(xz_stream, DATA, st.sampled_from([lzma.CHECK_NONE, lzma.CHECK_CRC32])),
        st.builds(xz_with_mark, st.binary(max_size=50)),
        st.builds(xz_with_long_window, DATA),
    ),
}
BETWEEN = st.sampled_from([b""] * 9 + [bytes(1), bytes(4), bytes(60), b"junk"])
LENGTHS = st.lists(st.integers(1, 9_000), min_size=1, max_size=5)
FLIPS = st.lists(st.tuples(st.integers(0), st.integers(0, 7)), max_size=2)
PLACES = st.one_of(st.none(), st.floats(0, 1))


def cut(data: bytes, lengths: list[int], fails: bool) -> Iterator[Bytes]:
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
    if fails:
        raise SavefmtError("the disk is broken", offset=len(data))


def outcome(
    name: str, pieces: Iterator[Bytes], threads: int
) -> tuple[bytes, tuple[object, ...] | None]:
    gathered = bytearray()
    last = None
    try:
        for piece in CODECS[name].open_reader(pieces, offset=BASE, threads=threads):
            gathered += piece
            last = piece if isinstance(piece, Border) else None
    except SavefmtError as error:
        return bytes(gathered), (None, *told(error))
    assert last is not None
    if last.failure is None:
        return bytes(gathered), None
    return bytes(gathered), (last.offset, *told(last.failure))


def told(error: SavefmtError) -> tuple[object, ...]:
    # What is wrong with it zstd tells in other words when it sees it in other pieces.
    return type(error), error.message.partition(": ")[0], error.offset


@pytest.mark.parametrize("name", MEMBERS)
@given(data=st.data())
@relaxed
def test_as_in_turn(name: str, data: st.DataObject) -> None:
    """Whatever the members, their damage, the pieces and the threads."""
    members = data.draw(st.lists(MEMBERS[name], max_size=8))
    packed = bytearray(b"".join(member + data.draw(BETWEEN) for member in members))
    for place, bit in data.draw(FLIPS) if packed else []:
        packed[place % len(packed)] ^= 1 << bit
    end = data.draw(PLACES)
    stream = bytes(packed[: int(len(packed) * end)] if end is not None else packed)
    lengths, fails = data.draw(LENGTHS), data.draw(st.booleans())
    threads = data.draw(st.integers(2, 4))

    parallel, error = outcome(name, cut(stream, lengths, fails), threads)
    plain, raised = outcome(name, cut(stream, lengths, fails), 1)
    if error != raised:
        # zstd sees that an empty frame promises bytes only if it gets all of it at once.
        plain, raised = outcome(name, cut(stream, [len(stream) or 1], fails), 1)

    # Damage in the first bytes of a member ends the stream in front of it, or is an error once
    # a byte was decoded: that depends on the pieces.  What is wrong, and where, does not.
    assert (error and error[1:]) == (raised and raised[1:])
    if error is not None and "damaged" in str(error):
        # What a library had decoded in the very call that failed, it keeps.
        assert parallel.startswith(plain) or plain.startswith(parallel)
    else:
        assert parallel == plain


SOUND: dict[str, Callable[[bytes], bytes]] = {
    "zstd": zstd_frame,
    "gzip": gzip_told,
    "bzip2": bz2.compress,
    "xz": xz_stream,
}


@pytest.mark.parametrize("name", SOUND)
@given(
    parts=st.lists(st.binary(max_size=1_500), min_size=1, max_size=12),
    lengths=LENGTHS,
    threads=st.integers(2, 4),
)
@relaxed
def test_sound_members(name: str, parts: list[bytes], lengths: list[int], threads: int) -> None:
    """However the data are cut into members, they come back."""
    packed = b"".join(map(SOUND[name], parts))

    assert outcome(name, cut(packed, lengths, False), threads) == (b"".join(parts), None)
