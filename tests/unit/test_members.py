"""Writers of every codec: the same output always, and nothing left behind."""

from __future__ import annotations

import random
import shutil
import sys
import threading
from collections.abc import Iterator

import pytest

from savefmt.codec.base import Bytes, Codec, Compressor, Writer
from savefmt.codec.gzip import GzipCodec
from savefmt.codec.registry import CODECS
from savefmt.codec.writer import MemberWriter
from savefmt.errors import SavefmtError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MEMBER_NAMES = ["gzip", "bzip2", "xz", "zstd"]
NEEDS_LZOP = pytest.mark.skipif(not shutil.which("lzop"), reason="the program lzop is absent")
WRITABLE = [*MEMBER_NAMES, pytest.param("lzop", marks=NEEDS_LZOP)]
NOISE = random.Random(1).randbytes(12_000_000)
DATA = (bytes(20_000) + b"no page of text. " * 1_500 + NOISE[:30_000]) * 5


def pieces(data: bytes, length: int) -> Iterator[Bytes]:
    # One buffer for all pieces, spoilt after use, as a reader of files may do.
    buffer = bytearray(length)
    for start in range(0, len(data), length):
        piece = data[start : start + length]
        buffer[: len(piece)] = piece
        yield memoryview(buffer)[: len(piece)]
        buffer[:] = b"\xee" * length


def pack(
    codec: Codec, data: bytes, *, threads: int = 2, level: int | None = None, length: int = 77_777
) -> bytes:
    packed = bytearray()
    writer = codec.open_writer(packed.extend, threads=threads, level=level)
    for piece in pieces(data, length):
        writer.write(piece)
    writer.close()
    return bytes(packed)


def unpack(name: str, packed: bytes) -> bytes:
    reader = CODECS[name].open_reader(iter([packed]), offset=0)
    return b"".join(bytes(piece) for piece in reader)


@pytest.mark.parametrize("name", MEMBER_NAMES)
def test_output_depends_on_nothing_but_the_data(name: str) -> None:
    class Small(type(CODECS[name])):  # type: ignore[misc]
        member_length = 60_000

    once = pack(Small(), DATA, threads=1)

    assert pack(Small(), DATA, threads=4, length=1_000) == once
    assert pack(Small(), DATA, threads=2, length=len(DATA)) == once
    assert unpack(name, once) == DATA


def test_zstd_frames_carry_length_and_checksum() -> None:
    packed = pack(CODECS["zstd"], bytes(3 << 19))
    first = zstd.get_frame_size(packed)

    assert zstd.get_frame_info(packed).decompressed_size == 1 << 20
    assert zstd.get_frame_info(packed[first:]).decompressed_size == 1 << 19
    assert packed[4] & 4, "the checksum flag of RFC 8878, 3.1.1.1.1"


def test_gzip_member_carries_no_time() -> None:
    assert pack(CODECS["gzip"], b"x")[4:8] == bytes(4)


@pytest.mark.parametrize("name", WRITABLE)
def test_levels(name: str) -> None:
    codec = CODECS[name]
    fast = pack(codec, DATA, level=codec.levels[0])
    small = pack(codec, DATA, level=codec.levels[-1])

    assert len(small) <= len(fast)
    assert unpack(name, small) == unpack(name, fast) == DATA
    assert pack(codec, DATA, level=codec.default_level) == pack(codec, DATA)
    for wrong in (codec.levels[0] - 1, codec.levels[-1] + 1):
        with pytest.raises(ValueError, match=f"{name} has levels"):
            codec.open_writer(print, threads=1, level=wrong)


def pool_threads() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name.startswith("savefmt-compress")]


@pytest.mark.parametrize("name", WRITABLE)
def test_abort_ends_everything_and_may_repeat(name: str) -> None:
    writer = CODECS[name].open_writer(bytearray().extend, threads=2)
    writer.write(DATA * 40)
    writer.abort()
    writer.abort()
    writer.close()

    assert not pool_threads()
    with pytest.raises(ValueError, match="closed"):
        writer.write(b"x")


@pytest.mark.parametrize("name", WRITABLE)
def test_close_may_repeat(name: str) -> None:
    packed = bytearray()
    writer = CODECS[name].open_writer(packed.extend, threads=2)
    writer.write(DATA)
    writer.close()
    length = len(packed)
    writer.close()
    writer.abort()

    assert len(packed) == length
    assert not pool_threads()
    with pytest.raises(ValueError, match="closed"):
        writer.write(b"x")


def feed(writer: Writer, data: bytes) -> None:
    writer.write(data)
    writer.close()


@pytest.mark.parametrize("name", WRITABLE)
def test_a_failing_target_leaves_nothing_behind(name: str) -> None:
    def full_disk(data: bytes) -> None:
        raise OSError(28, "disk full")

    writer = CODECS[name].open_writer(full_disk, threads=2)
    with pytest.raises(OSError, match="disk full"):
        feed(writer, NOISE)
    writer.abort()

    assert not pool_threads()


@pytest.mark.parametrize("name", MEMBER_NAMES)
def test_threads_must_be_positive(name: str) -> None:
    with pytest.raises(ValueError, match="threads"):
        CODECS[name].open_writer(print, threads=0)


class Gate:
    """A compressor that waits until it may finish, and counts its fellows."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.started = 0

    def open(self, length: int) -> Compressor:
        self.started += 1
        return self

    def compress(self, data: memoryview) -> bytes:
        assert self.opened.wait(60)
        return bytes(data)

    def flush(self) -> bytes:
        return b""


def test_members_in_flight_are_bounded() -> None:
    gate = Gate()
    out = bytearray()
    writer = MemberWriter(out.extend, gate.open, errors=(), member_length=10, threads=3)
    accepted = 0

    def feed() -> None:
        nonlocal accepted
        for number in range(50):
            writer.write(b"%09d\n" % number)
            accepted += 1
        writer.close()

    feeder = threading.Thread(target=feed)
    feeder.start()
    feeder.join(0.2)
    held = accepted
    gate.opened.set()
    feeder.join()

    assert held <= 3 + 1
    assert out == b"".join(b"%09d\n" % number for number in range(50))


def test_a_failing_compressor_is_reported() -> None:
    class Broken(GzipCodec):
        def _compressor(self, level: int, length: int) -> Compressor:
            raise MemoryError("no room")

    writer = Broken().open_writer(bytearray().extend, threads=2)
    writer.write(b"abc")
    with pytest.raises(MemoryError, match="no room"):
        writer.close()
    writer.abort()

    assert not pool_threads()


class OutOfMemory:
    """A compressor that the library refuses memory."""

    def compress(self, data: Bytes) -> bytes:
        raise zstd.ZstdError("Allocation error : not enough memory")

    def flush(self) -> bytes:
        return b""


def test_what_the_library_says_becomes_an_error_of_ours() -> None:
    writer = MemberWriter(
        lambda data: None,
        lambda length: OutOfMemory(),
        errors=(zstd.ZstdError,),
        member_length=10,
        threads=1,
    )

    with pytest.raises(SavefmtError, match="the compressor failed: Allocation error"):
        writer.write(bytes(100))
        writer.close()
    writer.abort()


def test_too_little_memory_to_decode_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    class Decoder:
        eof, needs_input, unused_data = False, True, b""

        def decompress(self, data: Bytes, length: int) -> bytes:
            raise zstd.ZstdError(
                "Unable to decompress Zstandard data: Allocation error : not enough memory"
            )

    codec = CODECS["zstd"]
    monkeypatch.setattr(type(codec), "_decompressor", lambda self, memory: Decoder())

    with pytest.raises(MemoryError):
        list(codec.open_reader(iter([zstd.compress(b"data")]), offset=0))


def test_too_little_memory_for_a_decoder_is_no_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise zstd.ZstdError("Unable to create ZSTD_DCtx instance.")

    monkeypatch.setattr(zstd, "ZstdDecompressor", refuse)

    with pytest.raises(MemoryError):
        list(CODECS["zstd"].open_reader(iter([zstd.compress(b"data")]), offset=0))
