"""Reading members in parallel: what is done at once, how much is held, and how it ends."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from savefmt.codec import reader as memberreader
from savefmt.codec.base import Bytes
from savefmt.codec.boundaries import NoBoundaryError
from savefmt.codec.gzip import measure_gzip, with_gzip_length
from savefmt.codec.members import MemberCodec
from savefmt.codec.reader import MemberReader
from savefmt.codec.registry import CODECS
from savefmt.codec.zstd import ZstdCodec, _zstd, measure_zstd
from savefmt.errors import CorruptError, ImageIOError, TruncatedError
from savefmt.format.cursor import ChunkCursor, Cursor

MIB = 1 << 20
NOISE = random.Random(1).randbytes(MIB)
PARTS = [NOISE[number:] + bytes(number) for number in range(12)]
CHECKED = {_zstd().CompressionParameter.checksum_flag: 1}
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "zstd": lambda data: _zstd().compress(data, options=CHECKED),
    "gzip": lambda data: with_gzip_length(gzip.compress(data, 1)),
    "bzip2": lambda data: bz2.compress(data, 1),
    "xz": lambda data: lzma.compress(data, preset=0),
}
FEW = PARTS[:4]


def codec(name: str) -> MemberCodec:
    found = CODECS[name]
    assert isinstance(found, MemberCodec)
    return found


def pieces(data: bytes, length: int = 300_000) -> Iterator[Bytes]:
    for start in range(0, len(data), length):
        yield data[start : start + length]


def workers() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name.startswith("savefmt-unpack")]


def zstd_of(parts: list[bytes]) -> bytes:
    return b"".join(map(PACKERS["zstd"], parts))


class Meeting(ZstdCodec):
    """Decodes a member only once two threads want to."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(2, timeout=60)

    def read_member(self, source: Cursor, memory: int) -> Iterator[bytes]:
        assert memory == self.frugal, "read in turn"
        self.barrier.wait()
        return super().read_member(source, memory)


def test_two_members_are_decoded_at_once() -> None:
    plain = b"".join(Meeting().open_reader(pieces(zstd_of(FEW)), offset=0, threads=2))

    assert plain == b"".join(FEW)


@pytest.mark.parametrize("name", PACKERS)
def test_every_codec_hands_members_to_the_pool(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = b"".join(map(PACKERS[name], FEW))

    def in_turn(*_: object) -> Iterator[bytes]:
        raise AssertionError("read in turn")

    monkeypatch.setattr(MemberCodec, "read_members", in_turn)
    reader = codec(name).open_reader(pieces(packed), offset=0, threads=2)
    started = bytes(next(reader))
    assert workers()
    assert started + b"".join(reader) == b"".join(FEW)
    assert not workers()


@pytest.mark.parametrize("threads", [2, 3])
def test_closing_early_ends_the_threads(threads: int) -> None:
    reader = codec("zstd").open_reader(pieces(zstd_of(PARTS)), offset=0, threads=threads)
    next(reader)
    assert workers()
    reader.close()  # type: ignore[attr-defined]
    assert not workers()


def test_one_thread_has_no_pool() -> None:
    reader = codec("zstd").open_reader(pieces(zstd_of(FEW)), offset=0, threads=1)
    next(reader)
    assert not workers()


def test_what_is_under_way_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memberreader, "_MOST_UNDER_WAY", 5 * MIB)
    reader = MemberReader(
        codec("zstd"), pieces(zstd_of(PARTS)), offset=0, threads=8, memory=128 * MIB
    )
    held = 0
    for _ in reader.read():
        held = max(held, sum(batch.cost for batch in reader._batches))

    assert 3 * MIB < held <= 5 * MIB


def test_a_source_that_fails_gives_what_came_before() -> None:
    packed = zstd_of(FEW)
    asked = 0

    def failing() -> Iterator[Bytes]:
        nonlocal asked
        yield packed[: 2 * MIB + 500_000]
        asked += 1
        raise ImageIOError("no medium", errno=5)

    def read(threads: int) -> bytes:
        gathered = bytearray()
        with pytest.raises(ImageIOError, match="no medium"):
            for piece in codec("zstd").open_reader(failing(), offset=0, threads=threads):
                gathered += piece
        return bytes(gathered)

    assert read(2) == read(1)
    assert asked == 2


def test_a_member_cut_short_behind_many() -> None:
    packed = zstd_of(FEW)[:-100_000]

    with pytest.raises(TruncatedError) as caught:
        list(codec("zstd").open_reader(pieces(packed), offset=92, threads=2))

    assert caught.value.offset == 92 + len(packed)
    assert not workers()


def test_damage_is_told_where_it_is() -> None:
    packed = bytearray(zstd_of(FEW))
    start = len(zstd_of(FEW[:2]))
    packed[start + 500_000] ^= 1  # noise is stored as it is: the checksum sees it

    with pytest.raises(CorruptError, match="damaged zstd frame") as caught:
        list(codec("zstd").open_reader(pieces(bytes(packed)), offset=0, threads=2))

    assert caught.value.offset is not None
    assert start <= caught.value.offset < len(zstd_of(FEW[:3]))


# --- where members end -------------------------------------------------------------


def reads(data: bytes) -> memberreader.Gathered:
    return memberreader.Gathered(ChunkCursor(iter([data]), 0), bytearray())


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("length", [0, 1, 255, 256, 65_791, 65_792, 300_000])
def test_measured_as_the_library_does(told: bool, length: int) -> None:
    compressor = _zstd().ZstdCompressor()
    if told:
        compressor.set_pledged_input_size(length)
    packed = compressor.compress(NOISE[:length]) + compressor.flush()

    frame = measure_zstd(reads(packed + b"more").read, 0, most_blocks=9)

    assert frame.length == _zstd().get_frame_size(packed) == len(packed)
    assert frame.told == (length if told else None)
    assert length <= frame.most <= length + 128 * 1024


def test_a_frame_of_too_many_blocks() -> None:
    frame = CODECS["zstd"].magic + bytes([0, 0x58]) + bytes(3) * 50 + b"\1\0\0"

    assert measure_zstd(reads(frame).read, 0, most_blocks=51).length == len(frame)
    with pytest.raises(NoBoundaryError):
        measure_zstd(reads(frame).read, 0, most_blocks=50)


def test_gzip_members_tell_their_length_as_those_of_pgzip() -> None:
    packed = bytearray()
    writer = codec("gzip").open_writer(packed.extend, threads=2)
    writer.write(b"".join(FEW))
    writer.close()

    at = 0
    for part in FEW:
        assert packed[at + 3] == 4
        assert packed[at + 10 : at + 16] == b"\x08\0IG\x04\0"
        length, plain = measure_gzip(reads(bytes(packed[at:])).read, 0)
        assert plain == MIB
        assert gzip.decompress(bytes(packed[at : at + length])) == part
        at += length
    assert at == len(packed)
    assert gzip.decompress(bytes(packed)) == b"".join(FEW)


@pytest.mark.parametrize("lie", [0, 1, 27, 1 << 31, (1 << 32) - 1])
def test_gzip_lengths_that_lie(lie: int) -> None:
    member = bytearray(PACKERS["gzip"](NOISE))
    member[16:20] = lie.to_bytes(4, "little")
    packed = bytes(member) + PACKERS["gzip"](NOISE)

    assert b"".join(codec("gzip").open_reader(pieces(packed), offset=0, threads=2)) == 2 * NOISE


@pytest.mark.interop
@pytest.mark.skipif(not shutil.which("pzstd"), reason="the program pzstd is absent")
def test_pzstd_s_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    plain.write_bytes(NOISE * 20)
    subprocess.run(["pzstd", "-q", "-1", plain, "-o", packed], check=True)
    monkeypatch.delattr(MemberCodec, "read_members")

    reader = codec("zstd").open_reader(pieces(packed.read_bytes()), offset=0, threads=2)
    assert b"".join(reader) == NOISE * 20


# --- hostile input -----------------------------------------------------------------

TRAPS = {
    "empty frames": "b'\\x28\\xb5\\x2f\\xfd\\x20\\x00\\x01\\x00\\x00' * 20_000",
    "skippable frames": "(b'\\x50\\x2a\\x4d\\x18\\0\\0\\x10\\0' + bytes(1 << 20)) * 60",
    "frames that claim 4 GiB": (
        "(b'\\x28\\xb5\\x2f\\xfd\\xa0\\xff\\xff\\xff\\xff' + b'\\x02\\x00\\x10\\x00' * 300) * 2000"
    ),
    "bombs": "zstd.compress(bytes(200 << 20)) * 3",
    "bombs of 8 MiB": "zstd.compress(bytes(8 << 20)) * 30",
    "empty blocks": ("(b'\\x28\\xb5\\x2f\\xfd\\x00\\x58' + bytes(3) * 5000 + b'\\1\\0\\0') * 50"),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_traps_take_no_memory(trap: str) -> None:
    code = f"""
import resource
from savefmt.codec.registry import CODECS
from savefmt.codec.zstd import _zstd
from savefmt.codec.base import refuse_foreign
from savefmt.errors import SavefmtError
zstd = _zstd()
packed = {TRAPS[trap]}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for threads in (1, 4):
    count = 0
    try:
        reader = CODECS["zstd"].open_reader(iter([packed]), offset=0, threads=threads)
        for piece in refuse_foreign(reader):
            count += len(piece)
    except SavefmtError as error:
        count = type(error), error.offset, count
    print(count)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    in_turn, parallel, grown = done.stdout.splitlines()

    assert parallel == in_turn
    assert int(grown) < 48 << 10
