"""Codecs: what the tools write is read, what we write the tools read, and damage is seen."""

from __future__ import annotations

import bz2
import gzip
import itertools
import lzma
import random
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator

import pytest

from savefmt.codec.base import PIECE_LENGTH, Border, Bytes, Codec, refuse_foreign
from savefmt.codec.members import MemberCodec
from savefmt.codec.registry import CODECS, codec_for_format, detect, find_codec
from savefmt.errors import (
    CorruptError,
    FormatError,
    ImageIOError,
    SavefmtError,
    TruncatedError,
    UnsupportedError,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

NAMES = ["gzip", "bzip2", "xz", "lzop", "zstd"]
MEMBER_NAMES = ["gzip", "bzip2", "xz", "zstd"]
LIBVIRT_FLAGS = {"xz": ["-3"]}
BASE = 0x5C


def needs(tool: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not shutil.which(tool), reason=f"the program {tool} is absent")


WITH_TOOL = [pytest.param(name, marks=[needs(name), pytest.mark.interop]) for name in NAMES]


def mixed(length: int, seed: int = 7) -> bytes:
    """Zeros, text and noise in turn, as in a guest's memory."""
    source = random.Random(seed)
    kinds: list[Callable[[], bytes]] = [
        lambda: bytes(20_000),
        lambda: b"%d is no page of text. " % source.randrange(10) * 1_500,
        lambda: source.randbytes(30_000),
    ]
    data = bytearray()
    while len(data) < length:
        data += source.choice(kinds)()
    return bytes(data[:length])


DATA = mixed(400_000)


def pieces(data: bytes, length: int = 50_000) -> Iterator[Bytes]:
    # One buffer for all pieces, spoilt after use, as a reader of files may do.
    buffer = bytearray(length)
    for start in range(0, len(data), length):
        piece = data[start : start + length]
        buffer[: len(piece)] = piece
        yield memoryview(buffer)[: len(piece)]
        buffer[:] = b"\xee" * length


def unpack(name: str, packed: bytes, length: int = 50_000) -> bytes:
    reader = CODECS[name].open_reader(pieces(packed, length), offset=BASE)
    return b"".join(bytes(piece) for piece in refuse_foreign(reader))


def unpack_until_error(name: str, packed: bytes) -> tuple[bytes, SavefmtError | None]:
    gathered = bytearray()
    try:
        for piece in refuse_foreign(CODECS[name].open_reader(iter([packed]), offset=BASE)):
            gathered += piece
    except SavefmtError as error:
        return bytes(gathered), error
    return bytes(gathered), None


def pack(
    codec: Codec, data: bytes, *, threads: int = 2, level: int | None = None, length: int = 77_777
) -> bytes:
    packed = bytearray()
    writer = codec.open_writer(packed.extend, threads=threads, level=level)
    for piece in pieces(data, length):
        writer.write(piece)
    writer.close()
    return bytes(packed)


def run(command: list[str], data: bytes) -> bytes:
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout


def sample(name: str, data: bytes = DATA) -> bytes:
    """One member or frame; lzop's by hand, so that no program is needed."""
    if name == "gzip":
        return gzip.compress(data, mtime=0)
    if name == "bzip2":
        return bz2.compress(data)
    if name == "xz":
        return lzma.compress(data, preset=3)
    if name == "zstd":
        return zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1})
    head = bytes.fromhex("1040 20a0 0940 01 05 03000001 00000000 00000000 00000000 00")
    packed = CODECS["lzop"].magic + head + zlib.adler32(head).to_bytes(4, "big")
    for start in range(0, len(data), 1 << 18):
        block = data[start : start + (1 << 18)]
        packed += len(block).to_bytes(4, "big") * 2 + zlib.adler32(block).to_bytes(4, "big")
        packed += block
    return packed + bytes(4)


# --- the table ---------------------------------------------------------------------


def test_numbers_are_those_of_libvirt() -> None:
    numbers = {name: codec.libvirt_format for name, codec in CODECS.items()}

    assert numbers == {"gzip": 1, "bzip2": 2, "xz": 3, "lzop": 4, "zstd": 5}
    assert [codec_for_format(number).name for number in range(1, 6)] == NAMES


@pytest.mark.parametrize("number", [0, 6, 99])
def test_other_numbers_are_refused(number: int) -> None:
    with pytest.raises(UnsupportedError, match=f"format {number}"):
        codec_for_format(number)


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(UnsupportedError, match=r"'lzma'.*bzip2, gzip, lzop, xz, zstd"):
        find_codec("lzma")


@pytest.mark.parametrize("name", NAMES)
def test_detect_by_magic(name: str) -> None:
    assert detect(sample(name)[:16]) == name
    assert find_codec(name) is CODECS[name]


def test_detect_a_skippable_zstd_frame() -> None:
    assert detect(bytes.fromhex("5e2a4d18 04000000")) == "zstd"


@pytest.mark.parametrize(
    "head", [b"", b"\x1f", b"QEVM\0\0\0\3", b"LibvirtQemudSave", b"\x7fELF", bytes(16), b"P*M"]
)
def test_detect_nothing(head: bytes) -> None:
    assert detect(head) is None


def test_nothing_heavy_is_imported_beforehand() -> None:
    heavy = ["bz2", "lzma", "zlib", "isal", "backports.zstd", "compression.zstd", "lzallright"]
    heavy += ["concurrent.futures", "threading", "subprocess", "importlib.metadata"]
    script = "import sys; before = set(sys.modules); import savefmt.codec.registry; "
    script += f"print(sorted(set({heavy}) & (set(sys.modules) - before)))"

    found = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        check=True,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )

    assert found.stdout == "[]\n"


# --- round trips -------------------------------------------------------------------


@pytest.mark.parametrize("name", WITH_TOOL)
@pytest.mark.parametrize("length", [1, 70_000, 3_000_000])
def test_read_what_the_tool_writes(name: str, length: int) -> None:
    data = mixed(length)
    packed = run([name, "-c", *LIBVIRT_FLAGS.get(name, [])], data)

    assert unpack(name, packed) == data
    assert detect(packed[:16]) == name


@pytest.mark.parametrize("name", WITH_TOOL)
def test_the_tool_reads_what_we_write(name: str) -> None:
    warned = ["--ignore-warn"] if name == "lzop" else []  # as libvirt does
    data = mixed(9_000_000)

    for part in (b"", b"x", data):
        packed = pack(CODECS[name], part)
        assert run([name, "-dc", *warned], packed) == part
        assert unpack(name, packed) == part


@pytest.mark.parametrize("name", MEMBER_NAMES)
@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_round_trip_around_a_member(name: str, extra: int) -> None:
    codec = CODECS[name]
    assert isinstance(codec, MemberCodec)
    data = mixed(codec.member_length + extra)

    assert unpack(name, pack(codec, data, threads=1)) == data


# --- reading: how much, how soon ---------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_first_bytes_need_little_input(name: str) -> None:
    packed = sample(name, random.Random(1).randbytes(4_000_000))
    pulled = 0

    def counted() -> Iterator[Bytes]:
        nonlocal pulled
        for piece in pieces(packed, 64 << 10):
            pulled += 1
            yield piece

    reader = CODECS[name].open_reader(counted(), offset=0)
    assert pulled == 0
    assert next(reader)
    # A block must be complete: lzop's are 256 KiB, bzip2's 900 kB.
    assert pulled <= {"bzip2": 15, "lzop": 5}.get(name, 2)


@pytest.mark.parametrize("name", MEMBER_NAMES)
def test_a_bomb_comes_in_bounded_pieces(name: str) -> None:
    packed = sample(name, bytes(96 << 20))
    pieces_read = CODECS[name].open_reader(iter([packed]), offset=0)
    lengths = [len(piece) for piece in pieces_read if not isinstance(piece, Border)]

    assert len(packed) < 1 << 20
    assert sum(lengths) == 96 << 20
    assert 0 < min(lengths) <= max(lengths) <= PIECE_LENGTH


@pytest.mark.parametrize("name", NAMES)
def test_any_piece_length(name: str) -> None:
    data = DATA[10_000:70_000]
    packed = sample(name, data) * 2

    for length in (1, 2, 3, 5, 4096, len(packed)):
        assert unpack(name, packed, length) == data * 2


@pytest.mark.parametrize("name", MEMBER_NAMES)
def test_thousands_of_tiny_members(name: str) -> None:
    assert unpack(name, sample(name, b"ab") * 3_000, 1 << 20) == b"ab" * 3_000


@pytest.mark.parametrize("name", NAMES)
def test_empty_members(name: str) -> None:
    empty = sample(name, b"")

    assert unpack(name, empty) == b""
    assert unpack(name, empty + sample(name, b"abc") + empty) == b"abc"


@pytest.mark.parametrize("name", NAMES)
def test_errors_of_the_source_pass_through(name: str) -> None:
    def failing() -> Iterator[Bytes]:
        yield sample(name)[:100]
        raise ImageIOError("no medium", errno=5)

    with pytest.raises(ImageIOError, match="no medium"):
        list(CODECS[name].open_reader(failing(), offset=0))


# --- reading: damage ---------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_cut_is_seen(name: str) -> None:
    data = mixed(3_000, seed=2) + b"some text to end with"
    packed = sample(name, data)

    for cut in range(len(packed)):
        before, error = unpack_until_error(name, packed[:cut])
        assert isinstance(error, TruncatedError), cut
        assert error.offset == BASE + cut
        assert "compressed offset" in error.message
        assert data.startswith(before)


@pytest.mark.parametrize("name", NAMES)
def test_cuts_of_a_long_image_are_seen(name: str) -> None:
    packed = sample(name)
    cuts = random.Random(4).sample(range(len(packed)), 60) + list(range(-20, 0))

    for cut in cuts:
        before, error = unpack_until_error(name, packed[:cut])
        assert isinstance(error, TruncatedError), cut
        assert error.offset == BASE + cut % len(packed)
        assert DATA.startswith(before)


@pytest.mark.parametrize("name", NAMES)
def test_a_cut_between_members_cannot_be_seen(name: str) -> None:
    one, two = sample(name, b"one"), sample(name, b"two")

    assert unpack(name, one + two) == b"onetwo"
    assert unpack(name, one) == b"one"
    for cut in range(len(one) + 1, len(one + two)):
        before, error = unpack_until_error(name, (one + two)[:cut])
        assert before[:3] == b"one"
        assert isinstance(error, TruncatedError), cut
        assert error.offset == BASE + cut


@pytest.mark.parametrize("name", NAMES)
def test_flipped_bits_never_give_wrong_data(name: str) -> None:
    data = mixed(2_000, seed=2) + b"some text to end with"
    packed = sample(name, data) + sample(name, b"second")

    seen = 0
    for place, bit in itertools.product(range(len(packed)), (0x01, 0x10, 0x80)):
        flipped = bytearray(packed)
        flipped[place] ^= bit
        result, error = unpack_until_error(name, bytes(flipped))
        if error is None:
            assert result == data + b"second", place
        else:
            seen += 1
            assert error.offset is not None
            assert BASE <= error.offset <= BASE + len(packed)
            assert "compressed offset" in error.message
    assert seen > 2 * len(packed)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tail", [b"x", b"garbage", b"\0\0\0\0x", b"QEVM\0\0\0\3"])
def test_garbage_behind_the_end(name: str, tail: bytes) -> None:
    packed = sample(name)

    result, error = unpack_until_error(name, packed + tail)

    assert result == DATA
    assert isinstance(error, CorruptError)
    assert error.offset is not None
    assert BASE + len(packed) <= error.offset <= BASE + len(packed) + 4


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [1, 4, 300_000])
def test_zeros_behind_the_end(name: str, count: int) -> None:
    result, error = unpack_until_error(name, sample(name) + bytes(count))

    assert result == DATA
    assert isinstance(error, FormatError)


def test_zeros_between_members() -> None:
    xz = sample("xz", b"one") + bytes(8) + sample("xz", b"two")
    assert unpack("xz", xz) == b"onetwo"

    # The gzip program, too, would drop the second member as garbage.
    result, error = unpack_until_error(
        "gzip", sample("gzip", b"one") + bytes(8) + sample("gzip", b"two")
    )
    assert result == b"one"
    assert isinstance(error, CorruptError)


@pytest.mark.parametrize("name", NAMES)
def test_another_format_is_refused(name: str) -> None:
    for other in NAMES:
        if other != name:
            _, error = unpack_until_error(name, sample(other))
            assert isinstance(error, CorruptError)
            assert error.offset == BASE


# --- reading: single formats -------------------------------------------------------


def gzip_member(flags: int, data: bytes) -> bytes:
    header = bytes([0x1F, 0x8B, 8, flags]) + bytes(6)
    if flags & 4:
        header += b"\x03\0abc"
    if flags & 8:
        header += b"a name\0"
    if flags & 16:
        header += b"a comment\0"
    if flags & 2:
        header += (zlib.crc32(header) & 0xFFFF).to_bytes(2, "little")
    return header + gzip.compress(data, mtime=0)[10:]


@pytest.mark.parametrize("flags", range(32))
def test_gzip_header_fields(flags: int) -> None:
    packed = gzip_member(flags, b"hello" * 100)

    for length in (1, 2, 7, len(packed)):
        assert unpack("gzip", packed, length) == b"hello" * 100
    for cut in range(len(packed)):
        assert isinstance(unpack_until_error("gzip", packed[:cut])[1], TruncatedError)


def test_gzip_header_damage() -> None:
    reserved = bytearray(gzip_member(0, b""))
    reserved[3] |= 0x40
    wrong_sum = bytearray(gzip_member(2, b""))
    wrong_sum[10] ^= 1
    endless = bytes([0x1F, 0x8B, 8, 8]) + bytes(6) + b"a" * 100_000 + gzip_member(0, b"")[10:]

    for packed, reason in [
        (bytes(reserved), "reserved"),
        (bytes(wrong_sum), "checksum"),
        (endless, "does not end"),
    ]:
        with pytest.raises(CorruptError, match=reason):
            unpack("gzip", packed)


@pytest.mark.parametrize("place", range(-8, 0))
def test_gzip_checksum_and_length_are_checked(place: int) -> None:
    packed = bytearray(sample("gzip"))
    packed[place] ^= 1

    result, error = unpack_until_error("gzip", bytes(packed))

    assert isinstance(error, CorruptError)
    assert DATA.startswith(result)


def test_xz_memory_is_bounded() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 256 << 20}]
    # Preset 0 allocates little while compressing, but the header promises all of it.
    filters[0].update(mode=lzma.MODE_FAST, mf=lzma.MF_HC3, nice_len=16)
    packed = lzma.compress(b"x" * 100, filters=filters)

    with pytest.raises(UnsupportedError, match=r"128 MiB.*xz -3"):
        unpack("xz", packed)


def test_xz_of_the_best_preset_is_read() -> None:
    assert unpack("xz", lzma.compress(DATA, preset=9)) == DATA


def zstd_frame_with_window(exponent: int) -> bytes:
    """One raw block, `abc`, under a header that asks for a window (RFC 8878, 3.1.1.1.2)."""
    header = bytes([0x00, (exponent - 10) << 3])
    return CODECS["zstd"].magic + header + (1 | 3 << 3).to_bytes(3, "little") + b"abc"


def test_zstd_window_is_bounded() -> None:
    assert unpack("zstd", zstd_frame_with_window(27)) == b"abc"
    with pytest.raises(UnsupportedError, match=r"128 MiB.*--long"):
        unpack("zstd", zstd_frame_with_window(28))


def test_memory_is_bounded_by_the_file() -> None:
    """A short file gets what the programs' own levels need, a long one more."""
    best = lzma.compress(DATA, preset=9)
    packed = zstd_frame_with_window(27)
    for name, data, length in [("xz", best, len(best)), ("zstd", packed, 4 << 20)]:
        reader = CODECS[name].open_reader(iter([data]), offset=0, length=length)
        assert b"".join(refuse_foreign(reader))
    with pytest.raises(UnsupportedError, match="too much for a file of this length"):
        list(CODECS["zstd"].open_reader(iter([packed]), offset=0, length=len(packed)))


def test_zstd_dictionary_is_refused() -> None:
    header = bytes([0x01, 0x50, 99])  # a dictionary id of one byte
    packed = CODECS["zstd"].magic + header + (1 | 3 << 3).to_bytes(3, "little") + b"abc"

    with pytest.raises(UnsupportedError, match="dictionary"):
        unpack("zstd", packed)


def test_zstd_skippable_frames() -> None:
    skippable = bytes.fromhex("5a2a4d18 03000000") + b"abc"
    packed = skippable + sample("zstd") + skippable

    for length in (1, 50_000):
        assert unpack("zstd", packed, length) == DATA
    for cut in range(1, len(skippable)):
        error = unpack_until_error("zstd", packed[: cut - len(skippable)])[1]
        assert isinstance(error, TruncatedError)
