"""Images that begin somewhere in a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from builder import DEFAULT_BLOCKS, make_envelope, make_stream
from golden import load
from loopdevices import loop_device
from oracle import compress

import savefmt
from savefmt import (
    CheckLevel,
    ConversionError,
    IOOptions,
    SavefmtError,
    Source,
    TruncatedError,
)
from savefmt.edit import set_xml
from savefmt.instant.backends import mappable

JUNK = b"\x5a" * 65536
STREAM = make_stream()
MOVED = make_stream(layout="mapped-ram")
IMAGES = {
    "stream": STREAM,
    "envelope": make_envelope() + STREAM,
    "compressed": make_envelope(format=5) + compress("zstd", STREAM),
    "outer": compress("gzip", make_envelope() + STREAM),
    "mapped": MOVED,
    "mapped in envelope": (sparse := make_envelope(format=6))
    + make_stream(layout="mapped-ram", prefix=sparse)[len(sparse) :],
}


def put(folder: Path, content: bytes) -> Path:
    path = folder / "file"
    path.write_bytes(content)
    return path


def check_memory(source: Source) -> None:
    with savefmt.open(source) as image:
        for name, content in DEFAULT_BLOCKS.items():
            assert image.memory.read(name, 0, len(content)) == content
            assert image.memory.view(name, 0, 4096) == content[:4096]


@pytest.mark.parametrize("offset", [1, 4096, 65536])
@pytest.mark.parametrize("kind", IMAGES)
def test_an_image_in_a_file(kind: str, offset: int, tmp_path: Path) -> None:
    source = Source(put(tmp_path, JUNK[:offset] + IMAGES[kind]), offset=offset)

    check_memory(source)
    assert savefmt.check(source, level=CheckLevel.FULL).ok
    savefmt.convert(source, tmp_path / "taken", verify=True)
    savefmt.convert(source, tmp_path / "raw", codec="raw", bare=True)
    check_memory(Source(tmp_path / "taken"))
    alone = tmp_path / "alone"
    alone.write_bytes(IMAGES[kind])
    with savefmt.open(alone) as plain, savefmt.open(source) as part:
        assert part.memory.digest() == plain.memory.digest()
        assert part.stream_offset == plain.stream_offset
    summary = savefmt.probe(source)
    assert (summary.offset, summary.logical_length) == (offset, len(IMAGES[kind]))


@pytest.mark.parametrize("offset", [1, 4096, 65536])
def test_qemu_counts_from_the_beginning_of_its_file(offset: int, tmp_path: Path) -> None:
    """As ``migrate file:PATH,offset=N`` writes it."""
    stream = make_stream(layout="mapped-ram", prefix=JUNK[:offset])
    source = Source(put(tmp_path, stream), offset=offset)

    check_memory(source)
    assert savefmt.check(source, level=CheckLevel.FULL).ok
    savefmt.convert(source, tmp_path / "sparse", layout=savefmt.Layout.MAPPED_RAM)
    savefmt.convert(source, tmp_path / "raw", layout=savefmt.Layout.SEQUENTIAL, verify=True)
    check_memory(Source(tmp_path / "sparse"))
    check_memory(Source(tmp_path / "raw"))


def test_a_golden_image_in_a_file(tmp_path: Path) -> None:
    plain = load.unpack("i440fx-mapped", tmp_path)
    with savefmt.open(plain) as image:
        digest = image.memory.digest()
    part = put(tmp_path, JUNK + plain.read_bytes())
    with savefmt.open(part, offset=len(JUNK)) as image:
        assert image.memory.digest() == digest


def test_what_is_not_there(tmp_path: Path) -> None:
    path = put(tmp_path, JUNK + STREAM)
    for offset in (len(JUNK) + len(STREAM), 1 << 62):
        with pytest.raises(TruncatedError, match="ends before offset"):
            savefmt.open(path, offset=offset)
    with pytest.raises(SavefmtError):
        savefmt.open(path, offset=len(JUNK) - 1)
    with pytest.raises(ValueError, match="begin at -1"):
        savefmt.open(path, offset=-1)


def test_what_it_is_in_stays_as_it_is(tmp_path: Path) -> None:
    content = JUNK + make_envelope() + STREAM
    path = put(tmp_path, content)
    source = Source(path, offset=len(JUNK))
    with pytest.raises(ConversionError, match="part of another file"):
        set_xml(source, None, running=False)
    with pytest.raises(ConversionError, match="image is part of"):
        savefmt.convert(source, path, save_version=1, overwrite=True)
    assert path.read_bytes() == content


def test_on_the_command_line(tmp_path: Path) -> None:
    path = put(tmp_path, JUNK + STREAM)
    command = [sys.executable, "-m", "savefmt"]
    for words in (("info",), ("check",), ("hash",), ("convert", "-O", "null"), ("devices",)):
        done = subprocess.run([*command, *words, "--offset", "64K", path], capture_output=True)
        assert done.returncode == 0, (words, done.stderr)
    shown = subprocess.run(
        [*command, "info", "-j", "--offset=0x10000", path], capture_output=True, check=True
    )
    assert json.loads(shown.stdout)["images"][0]["offset"] == 65536


def test_no_guest_runs_on_part_of_a_file(tmp_path: Path) -> None:
    path = put(tmp_path, JUNK + MOVED)

    with (
        savefmt.open(path, offset=len(JUNK)) as image,
        pytest.raises(ConversionError, match="QEMU cannot map"),
    ):
        mappable(image)


# --- block devices ---


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A block device of 8 MiB."""
    with loop_device(tmp_path / "backing", 8 << 20) as device:
        yield device


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("kind", IMAGES)
def test_a_volume_is_read_like_a_file(
    kind: str, direct: bool, volume: Path, tmp_path: Path
) -> None:
    with open(volume, "r+b") as device:
        device.write(IMAGES[kind])
        os.fsync(device.fileno())
    io = IOOptions(direct=direct)

    check_memory(Source(volume))
    assert savefmt.check(volume, level=CheckLevel.FULL, io=io).ok
    savefmt.convert(volume, tmp_path / "taken", codec="raw", io=io, verify=True)
    check_memory(Source(tmp_path / "taken"))
    assert savefmt.probe(volume).logical_length == 8 << 20
    with savefmt.open(volume, io=io) as image:
        assert image.length == 8 << 20
        assert image.file.direct == direct
