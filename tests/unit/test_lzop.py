"""lzop: every field of the container, and a child process that may misbehave."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from savefmt.codec.base import refuse_foreign
from savefmt.codec.lzop import MAGIC, MAX_BLOCK_LENGTH, Flag, LzopCodec
from savefmt.codec.lzopwriter import LzopWriter
from savefmt.errors import CorruptError, ImageIOError, TruncatedError, UnsupportedError

pytest.importorskip("lzallright")
from lzallright import LZOCompressor

BASE = 0x2000
TEXT = b"".join(b"line %d of a text that packs well\n" % number for number in range(2_000))
BLOCKS = [TEXT[:30_000], random.Random(5).randbytes(9_000), bytes(50_000), b"z"]

needs_lzop = pytest.mark.skipif(not shutil.which("lzop"), reason="the program lzop is absent")


def u32(value: int) -> bytes:
    return value.to_bytes(4, "big")


def header(
    flags: int = Flag.ADLER32_PLAIN,
    *,
    version: int = 0x1040,
    needed: int = 0x0940,
    method: int = 1,
    delta: int = 0,
    name: bytes = b"",
    extra: bytes | None = None,
    spoil: int = 0,
) -> bytes:
    modern = version >= 0x0940
    fields = version.to_bytes(2, "big") + b"\x20\xa0"
    fields += needed.to_bytes(2, "big") if modern else b""
    fields += bytes([method, 5][: 1 + modern])
    flags |= Flag.FILTER if delta else 0
    flags |= Flag.EXTRA_FIELD if extra is not None else 0
    fields += u32(flags) + (u32(delta) if delta else b"")
    fields += u32(0o100644) + u32(1_700_000_000) + (u32(0) if modern else b"")
    fields += bytes([len(name)]) + name
    checksum = zlib.crc32 if flags & Flag.HEADER_CRC32 else zlib.adler32
    packed = MAGIC + fields + u32(checksum(fields) ^ spoil)
    if extra is not None:
        field = u32(len(extra)) + extra
        packed += field + u32(checksum(field))
    return packed


def differences(data: bytes, delta: int) -> bytes:
    before = bytes(delta) + data
    return bytes((new - old) & 0xFF for new, old in zip(data, before, strict=False))


def block(
    data: bytes, flags: int = Flag.ADLER32_PLAIN, *, delta: int = 0, spoil: str = ""
) -> bytes:
    wanted = differences(data, delta) if delta else data
    packed = LZOCompressor().compress(wanted)
    stored = len(packed) >= len(wanted)
    if stored:
        packed = wanted
    sums = {
        "plain adler": (Flag.ADLER32_PLAIN, zlib.adler32(data)),
        "plain crc": (Flag.CRC32_PLAIN, zlib.crc32(data)),
        "packed adler": (Flag.ADLER32_PACKED, zlib.adler32(packed)),
        "packed crc": (Flag.CRC32_PACKED, zlib.crc32(packed)),
    }
    out = u32(len(data)) + u32(len(packed))
    for kind, (flag, value) in sums.items():
        if flags & flag and not (stored and kind.startswith("packed")):
            out += u32(value ^ (kind == spoil))
    return out + packed


def unpack(packed: bytes, length: int = 1 << 20) -> bytes:
    def pieces() -> Iterator[bytes | memoryview]:
        for start in range(0, len(packed), length):
            yield memoryview(packed)[start : start + length]

    reader = LzopCodec().open_reader(pieces(), offset=BASE)
    return b"".join(bytes(piece) for piece in refuse_foreign(reader))


ALL_SUMS = [Flag.ADLER32_PLAIN, Flag.CRC32_PLAIN, Flag.ADLER32_PACKED, Flag.CRC32_PACKED]


# --- reading -----------------------------------------------------------------------


@pytest.mark.parametrize("chosen", range(16))
def test_every_set_of_checksums(chosen: int) -> None:
    flags = sum(flag for bit, flag in enumerate(ALL_SUMS) if chosen >> bit & 1)
    packed = header(flags) + b"".join(block(one, flags) for one in BLOCKS) + u32(0)

    for length in (1, 7, 4_096, len(packed)):
        assert unpack(packed, length) == b"".join(BLOCKS)


HEADERS = [
    header(version=0x0900),
    header(version=0x0930, name=b"old"),
    header(version=0x0940),
    header(version=0x1010, needed=0x1010),
    header(method=2),
    header(method=3),
    header(name=b"a name of its own"),
    header(name=b"n" * 255),
    header(Flag.ADLER32_PLAIN | Flag.HEADER_CRC32, name=b"x"),
    header(extra=b""),
    header(extra=b"something more"),
    header(Flag.ADLER32_PLAIN | Flag.HEADER_CRC32, extra=b"something more"),
    header(Flag.ADLER32_PLAIN | 0x0330_24BC),  # all that says nothing of the layout
]


@pytest.mark.parametrize("head", HEADERS, ids=range(len(HEADERS)))
def test_header_fields(head: bytes) -> None:
    packed = head + block(TEXT) + u32(0)

    for length in (1, 11, len(packed)):
        assert unpack(packed, length) == TEXT


@needs_lzop
@pytest.mark.interop
@pytest.mark.parametrize("head", HEADERS, ids=range(len(HEADERS)))
def test_our_idea_of_the_header_is_that_of_the_program(head: bytes) -> None:
    packed = head + block(TEXT) + u32(0)

    found = subprocess.run(
        ["lzop", "-dc", "--ignore-warn"], input=packed, capture_output=True, check=False
    )

    assert (found.returncode, found.stdout, found.stderr) == (0, TEXT, b"")


@pytest.mark.parametrize("delta", [1, 2, 3, 16])
def test_filters(delta: int) -> None:
    packed = header(delta=delta) + b"".join(block(one, delta=delta) for one in BLOCKS) + u32(0)

    assert unpack(packed) == b"".join(BLOCKS)


def test_several_parts() -> None:
    first = header(name=b"one") + block(TEXT) + u32(0)
    second = header(Flag.CRC32_PLAIN) + block(b"second", Flag.CRC32_PLAIN) + u32(0)

    assert unpack(first + second + first) == TEXT + b"second" + TEXT
    assert unpack(header() + u32(0)) == b""


@pytest.mark.parametrize("kind", ["plain adler", "plain crc", "packed adler", "packed crc"])
def test_wrong_checksum(kind: str) -> None:
    flags = sum(ALL_SUMS)
    start = header(flags)
    bad = block(TEXT, flags, spoil=kind)

    with pytest.raises(CorruptError, match="wrong checksum") as caught:
        unpack(start + block(TEXT, flags) + bad + u32(0))

    assert caught.value.offset == BASE + len(start) + len(block(TEXT, flags))
    assert ("of its compressed bytes" in caught.value.message) == kind.startswith("packed")


def test_wrong_checksum_of_a_stored_block() -> None:
    for flag, kind in [(Flag.ADLER32_PLAIN, "plain adler"), (Flag.CRC32_PLAIN, "plain crc")]:
        with pytest.raises(CorruptError, match="wrong checksum"):
            unpack(header(flag) + block(BLOCKS[1], flag, spoil=kind) + u32(0))


@pytest.mark.parametrize("flags", [0, Flag.HEADER_CRC32])
def test_wrong_header_checksum(flags: int) -> None:
    with pytest.raises(CorruptError, match=r"header.*checksum"):
        unpack(header(flags, spoil=1) + u32(0))


def test_wrong_extra_field() -> None:
    packed = bytearray(header(extra=b"abc"))
    packed[-1] ^= 1
    with pytest.raises(CorruptError, match=r"header.*checksum"):
        unpack(bytes(packed) + u32(0))

    huge = header(Flag.EXTRA_FIELD) + u32(1 << 31)
    with pytest.raises(CorruptError, match="extra field of 2147483648"):
        unpack(huge)


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (header(version=0x0890), "version 0x890"),
        (header(needed=0x1050), "needs 0x1050"),
        (header(method=0x80), "method 128"),
        (header(method=0), "method 0"),
        (header(0x0000_4000), "flags"),
        (header(delta=17), "filter 17"),
    ],
)
def test_what_we_lack_is_named(head: bytes, reason: str) -> None:
    with pytest.raises(UnsupportedError, match=reason) as caught:
        unpack(head + u32(0))

    assert caught.value.offset == BASE


def test_block_lengths_are_bounded() -> None:
    most = bytes(MAX_BLOCK_LENGTH)
    assert unpack(header() + block(most) + u32(0)) == most

    for length in (MAX_BLOCK_LENGTH + 1, 0xFFFF_FFFF):
        with pytest.raises(UnsupportedError, match=f"{length} bytes"):
            unpack(header() + u32(length) + u32(5) + u32(0) + b"12345")


@pytest.mark.parametrize("packed_length", [0, 101, 0xFFFF_FFFF])
def test_packed_length_must_fit(packed_length: int) -> None:
    with pytest.raises(CorruptError, match=f"{packed_length} bytes for 100"):
        unpack(header() + u32(100) + u32(packed_length) + bytes(200))


def test_a_block_must_decode_to_its_length() -> None:
    packed = LZOCompressor().compress(TEXT)

    for length in (len(TEXT) - 1, len(TEXT) + 1):
        with pytest.raises(CorruptError, match=r"decodes to|does not decode"):
            unpack(header(0) + u32(length) + u32(len(packed)) + packed + u32(0))
    for spoilt in (packed[:-1], packed + b"x", b"\xff" * len(packed)):
        with pytest.raises(CorruptError, match=r"decodes to|does not decode"):
            unpack(header(0) + u32(len(TEXT)) + u32(len(spoilt)) + spoilt + u32(0))


def test_every_cut_is_seen() -> None:
    flags = Flag.ADLER32_PLAIN | Flag.CRC32_PACKED
    packed = header(flags, name=b"name", extra=b"extra")
    packed += b"".join(block(one, flags) for one in (TEXT[:3_000], b"stored")) + u32(0)

    for cut in range(len(packed)):
        with pytest.raises(TruncatedError) as caught:
            unpack(packed[:cut])
        assert caught.value.offset == BASE + cut
        assert "compressed offset" in caught.value.message


@needs_lzop
@pytest.mark.interop
@pytest.mark.parametrize(
    "options",
    [["-1"], ["-9"], ["--crc32"], ["--no-checksum"], ["--filter=1"], ["--filter=7", "--crc32"]],
    ids=" ".join,
)
def test_options_of_the_program(options: list[str]) -> None:
    data = b"".join(BLOCKS) * 5
    packed = subprocess.run(
        ["lzop", "-c", *options], input=data, capture_output=True, check=True
    ).stdout

    assert unpack(packed) == data


@needs_lzop
@pytest.mark.interop
def test_files_of_the_program(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(name.encode() * 1_000)
    packed = subprocess.run(
        ["lzop", "-c", "-P", "one", "two"], cwd=tmp_path, capture_output=True, check=True
    ).stdout

    assert unpack(packed) == b"one" * 1_000 + b"two" * 1_000


# --- writing -----------------------------------------------------------------------


@pytest.fixture
def fake_lzop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a Python script in lzop's place."""

    def install(script: str) -> None:
        program = tmp_path / "lzop"
        program.write_text(f"#!{sys.executable} -S\nimport os, signal, sys, time\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))

    return install


@needs_lzop
def test_what_the_program_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LZOP", "-9 --crc32")  # the user's own options are not ours
    out = bytearray()
    writer = LzopWriter(out.extend, level=3)
    for start in range(0, len(TEXT) * 40, 100_000):
        writer.write((TEXT * 40)[start : start + 100_000])
    writer.close()

    assert out[15:17] == bytes([1, 5]), "method and level of lzop -3"
    assert unpack(bytes(out)) == TEXT * 40


def test_missing_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(UnsupportedError, match="install the package lzop"):
        LzopWriter(print, level=3)


def test_program_that_cannot_run(fake_lzop: Callable[[str], None], tmp_path: Path) -> None:
    fake_lzop("")
    (tmp_path / "lzop").write_bytes(b"\x7fELF no more")

    with pytest.raises(ImageIOError):
        LzopWriter(print, level=3)


def test_child_that_breaks_off(fake_lzop: Callable[[str], None]) -> None:
    fake_lzop("os.read(0, 100); sys.stderr.write('lzop: no mercy\\n'); sys.exit(3)")
    writer = LzopWriter(bytearray().extend, level=3)

    with pytest.raises(ImageIOError, match="lzop ended with status 3: lzop: no mercy") as caught:
        writer.write(bytes(50_000_000))
    assert isinstance(caught.value, OSError)
    assert caught.value.errno == errno.EIO, "EPIPE is said of standard output alone"
    writer.abort()
    with pytest.raises(ValueError, match="closed"):
        writer.write(b"x")


def test_child_that_fails_at_the_end(fake_lzop: Callable[[str], None]) -> None:
    fake_lzop("while os.read(0, 100_000): pass\nos.kill(os.getpid(), signal.SIGTERM)")
    writer = LzopWriter(bytearray().extend, level=3)
    writer.write(bytes(1_000))

    with pytest.raises(ImageIOError, match="killed by signal 15: it did not say why"):
        writer.close()
    writer.abort()


def test_child_that_ends_early_without_a_reason(fake_lzop: Callable[[str], None]) -> None:
    fake_lzop("sys.exit(0)")
    writer = LzopWriter(bytearray().extend, level=3)

    with pytest.raises(ImageIOError, match="status 0"):
        writer.write(bytes(50_000_000))


@pytest.mark.parametrize("stream", [1, 2])
def test_child_that_talks_before_it_listens(fake_lzop: Callable[[str], None], stream: int) -> None:
    fake_lzop(
        f"for _ in range(100): os.write({stream}, bytes(100_000))\n"
        "count = 0\n"
        "while data := os.read(0, 100_000): count += len(data)\n"
        "os.write(1, b'%d' % count)"
    )
    out = bytearray()
    writer = LzopWriter(out.extend, level=3)
    writer.write(bytes(9_000_000))
    writer.close()

    assert out.endswith(b"9000000")
    assert len(out) - len("9000000") == (10_000_000 if stream == 1 else 0)


def test_abort_kills_a_deaf_child(fake_lzop: Callable[[str], None]) -> None:
    fake_lzop("signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: time.sleep(60)")
    open_files = os.listdir("/proc/self/fd")
    writer = LzopWriter(print, level=3)
    writer.write(b"x")
    writer.abort()
    writer.abort()
    writer.close()

    assert writer._child.returncode == -9
    assert os.listdir("/proc/self/fd") == open_files
