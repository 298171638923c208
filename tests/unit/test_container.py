"""What holds an image: what follows it, what lies around it, and what is none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from builder import DEFAULT_BLOCKS, make_envelope, make_stream
from oracle import CODECS, compress, decompress
from qcow2disk import Disk

import savefmt
from savefmt import CheckLevel, ConversionError, CorruptError, SavefmtError, TruncatedError
from savefmt.edit import set_xml

PACKED = CODECS[1:]
STREAM = make_stream()
OTHER = make_stream(blocks={"pc.ram": b"another" * 4096 + bytes(4096 * 8 - 7 * 4096)})


def put(folder: Path, data: bytes) -> Path:
    path = folder / "image"
    path.write_bytes(data)
    return path


def image_of(codec: str, packed: bytes) -> bytes:
    return make_envelope(format=CODECS.index(codec)) + packed


def ram(path: Path) -> bytes:
    with savefmt.open(path) as image:
        return image.memory.read("pc.ram", 0, len(DEFAULT_BLOCKS["pc.ram"]))


# --- bytes behind a compressed stream ---


@pytest.mark.parametrize("tail", ["zeros", "noise", "older"])
@pytest.mark.parametrize("codec", PACKED)
def test_bytes_behind_are_told_and_not_carried_along(codec: str, tail: str, tmp_path: Path) -> None:
    packed = compress(codec, STREAM)
    behind = {"zeros": bytes(5000), "noise": b"\x5a" * 777, "older": compress(codec, OTHER)[99:]}
    image = image_of(codec, packed)
    path = put(tmp_path, image + behind[tail])

    report = savefmt.check(path, level=CheckLevel.FULL)
    assert report.ok
    (found,) = [one for one in report.findings if one.code == "stream.trailing-data"]
    assert f"{len(behind[tail])} bytes follow" in found.message
    assert found.offset == len(image)
    assert ram(path) == DEFAULT_BLOCKS["pc.ram"]

    savefmt.convert(path, tmp_path / "same", verify=True)
    assert (tmp_path / "same").read_bytes() == image
    savefmt.convert(path, tmp_path / "raw", codec="raw", bare=True)
    assert (tmp_path / "raw").read_bytes() == STREAM


@pytest.mark.parametrize("codec", PACKED)
def test_bytes_behind_come_through_a_pipe(codec: str, tmp_path: Path) -> None:
    path = put(tmp_path, image_of(codec, compress(codec, STREAM)) + b"\x5a" * 777)
    command = [sys.executable, "-m", "savefmt", "-q", "convert"]
    with path.open("rb") as source:
        done = subprocess.run([*command, "-", "-"], stdin=source, capture_output=True, check=True)
    out = done.stdout
    start = len(make_envelope(format=CODECS.index(codec)))

    assert decompress(codec, out[start:]) == STREAM


@pytest.mark.parametrize("codec", PACKED)
def test_a_stream_that_needs_what_is_foreign_is_damaged(codec: str, tmp_path: Path) -> None:
    """The second of two members lost its first bytes."""
    half = len(STREAM) // 2
    first, second = compress(codec, STREAM[:half]), compress(codec, STREAM[half:])
    path = put(tmp_path, image_of(codec, first + b"zz" + second[2:]))

    with savefmt.open(path) as image, pytest.raises(CorruptError, match="compressed offset"):
        image.memory.digest()


@pytest.mark.parametrize("codec", PACKED)
def test_a_cut_between_members_is_a_cut(codec: str, tmp_path: Path) -> None:
    path = put(tmp_path, image_of(codec, compress(codec, STREAM[: len(STREAM) // 2])))

    with savefmt.open(path) as image, pytest.raises(TruncatedError, match="cut short"):
        image.memory.digest()


# --- compressed as a whole ---


@pytest.mark.parametrize("inner", ["raw", "zstd"])
@pytest.mark.parametrize("outer", PACKED)
def test_an_image_compressed_as_a_whole_is_read(outer: str, inner: str, tmp_path: Path) -> None:
    image = image_of(inner, compress(inner, STREAM))
    path = put(tmp_path, compress(outer, image))

    with savefmt.open(path) as opened:
        assert opened.envelope is not None
        assert opened.domain is not None
        assert opened.codec == inner
        digest = opened.memory.digest()
        assert len(opened.devices.sections) > 0
    assert ram(path) == DEFAULT_BLOCKS["pc.ram"]
    assert savefmt.check(path, level=CheckLevel.FULL).ok
    with savefmt.open(put(tmp_path, image)) as plain:
        assert plain.memory.digest() == digest


@pytest.mark.parametrize("outer", PACKED)
def test_converting_takes_the_outer_compression_off(outer: str, tmp_path: Path) -> None:
    image = image_of("raw", STREAM)
    path = put(tmp_path, compress(outer, image))
    savefmt.convert(path, tmp_path / "out")

    assert (tmp_path / "out").read_bytes() == image
    command = [sys.executable, "-m", "savefmt", "-q", "convert", "-", str(tmp_path / "piped")]
    with path.open("rb") as source:
        subprocess.run(command, stdin=source, check=True)
    assert (tmp_path / "piped").read_bytes() == image


def test_an_image_compressed_as_a_whole_is_not_changed_in_place(tmp_path: Path) -> None:
    packed = compress("gzip", image_of("raw", STREAM))
    path = put(tmp_path, packed)

    with pytest.raises(ConversionError, match="as a whole is compressed with gzip"):
        set_xml(path, None, running=True)
    with pytest.raises(ConversionError, match="the source itself"):
        savefmt.convert(path, path, save_version=1)
    assert path.read_bytes() == packed


# --- what is no image ---

KDUMP = b"KDUMP   " + bytes(200)
ELF_CORE = b"\x7fELF\2\1\1" + bytes(9) + b"\4\0\x3e\0" + bytes(200)
QCOW2 = b"QFI\xfb\0\0\0\3" + bytes(52)
TWO_STATES = Disk().build({"one": STREAM, "two": STREAM})
NOT_IMAGES = [
    (QCOW2 + bytes(100), "disk image (qcow2) without internal snapshots"),
    (TWO_STATES, "disk image (qcow2) with"),
    (b"QFI\xfb\0\0\0\1" + bytes(100), "disk image (qcow) without"),
    (ELF_CORE[:16] + b"\3" + ELF_CORE[17:], "ELF program or library"),
    (b"\xd2\xbe\xd2\xbe" + bytes(99), "VMware"),
    (b"\x7fVirtualBox SavedState V2.0\n" + bytes(99), "VBoxManage"),
    (b"QCPR\0\0\0\1" + bytes(99), "live update"),
    (b"Xen saved domain, xl format" + bytes(99), "only QEMU's"),
    (b"<domain type='kvm'>" + bytes(99), "domain's XML"),
]


@pytest.mark.parametrize(("data", "what"), NOT_IMAGES, ids=range(len(NOT_IMAGES)))
def test_other_files_are_named(data: bytes, what: str, tmp_path: Path) -> None:
    with pytest.raises(SavefmtError) as caught:
        savefmt.open(put(tmp_path, data))
    assert what in caught.value.message
    with pytest.raises(SavefmtError) as caught:
        savefmt.open(put(tmp_path, compress("zstd", data)))
    assert "inside of the zstd data" in caught.value.message
    assert what in caught.value.message
    command = [sys.executable, "-m", "savefmt", "convert", "-", str(tmp_path / "out")]
    done = subprocess.run(command, input=data, capture_output=True, check=False)
    assert done.returncode in (1, 2)
    assert what in done.stderr.decode()


def test_raw_memory_of_vmware_is_told_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "Windows.VMEM"
    path.write_bytes(bytes(4096))

    with pytest.raises(SavefmtError, match="raw memory of a VMware guest"):
        savefmt.open(path)
