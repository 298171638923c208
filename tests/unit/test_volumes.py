"""Block devices as targets: what is refused, what is written, what is left of a failure."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from builder import MIB, make_envelope, make_stream, page
from filesystems import CannotMountError, obstacle
from loopdevices import loop_device

import savefmt
from savefmt import (
    CheckLevel,
    ConversionError,
    ImageChangedError,
    ImageIOError,
    IOOptions,
    Layout,
    OperationCancelled,
    SavefmtError,
    UnsupportedError,
)
from savefmt.edit import set_xml
from savefmt.reading.source import Source
from savefmt.writing import signatures, volumes
from savefmt.writing.volumes import OutputVolume

LENGTH = 6 * MIB
BLOCKS = {"pc.ram": b"".join(page(i) + bytes(4096) for i in range(200))}
FORMS = {
    "raw": (Layout.SEQUENTIAL, "raw"),
    "zstd": (Layout.SEQUENTIAL, "zstd"),
    "sparse": (Layout.MAPPED_RAM, "raw"),
}


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A block device on which every byte is set."""
    with loop_device(tmp_path / "backing", LENGTH, fill=b"\xa5") as device:
        yield device


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(make_envelope() + make_stream(blocks=BLOCKS))
    return path


def put(volume: Path, data: bytes, offset: int = 0) -> None:
    with open(volume, "r+b", buffering=0) as device:
        os.pwrite(device.fileno(), data, offset)
        os.fsync(device.fileno())


def content(volume: Path) -> bytes:
    return volume.read_bytes()


def gpt() -> bytes:
    """A partition table as disks of guests have it: the protective part is enough."""
    entry = struct.pack("<8BII", 0, 0, 2, 0, 0xEE, 255, 255, 255, 1, 0xFFFF)
    return bytes(446) + entry + bytes(48) + b"\x55\xaa"


# --- what is written ---


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("origin", FORMS)
def test_any_form_into_any_other(
    origin: str, form: str, image: Path, volume: Path, tmp_path: Path
) -> None:
    """The device was full of other bytes, which are neither in holes nor behind the end."""
    layout, codec = FORMS[origin]
    savefmt.convert(image, tmp_path / "source", layout=layout, codec=codec)
    layout, codec = FORMS[form]
    direct = origin != form
    io = IOOptions(direct=direct)

    report = savefmt.convert(
        tmp_path / "source",
        volume,
        layout=layout,
        codec=codec,
        overwrite=True,
        verify=True,
        io=io,
    )

    savefmt.convert(tmp_path / "source", tmp_path / "file", layout=layout, codec=codec)
    expected = (tmp_path / "file").read_bytes()
    found = content(volume)
    assert found[: len(expected)] == expected
    assert found[len(expected) : len(expected) + 65536] == bytes(65536)
    assert found[len(expected) + 65536 :] == b"\xa5" * (LENGTH - len(expected) - 65536)
    assert (report.target_length, report.target_disk_length) == (len(expected), len(expected))
    assert report.direct == direct
    assert savefmt.check(volume, level=CheckLevel.FULL).ok
    told = [line for line in report.changes if "virsh restore will fail" in line]
    assert bool(told) == (form == "zstd")
    assert any("what the device held before is gone" in line for line in report.changes)


def test_zeros_that_were_sent_as_pages(volume: Path, tmp_path: Path) -> None:
    """Their bits are set, and nothing is written for them: the place must read as zeros."""
    path = tmp_path / "image"
    pages = {"pc.ram": page(1) + bytes(8192) + page(2)}
    path.write_bytes(
        make_stream(
            layout="mapped-ram",
            blocks=pages,
            explicit_zeros=frozenset({("pc.ram", 1), ("pc.ram", 2)}),
        )
    )

    savefmt.convert(path, volume, overwrite=True)

    with savefmt.open(volume) as opened:
        assert opened.memory.read("pc.ram", 0, 16384) == pages["pc.ram"]


def test_a_device_that_cannot_zero_itself(
    volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volumes, "_zero", lambda fd, offset, length: False)
    test_zeros_that_were_sent_as_pages(volume, tmp_path)


def test_a_full_device(image: Path, tmp_path: Path) -> None:
    """Nothing fits behind the image."""
    savefmt.convert(image, tmp_path / "file", layout=Layout.SEQUENTIAL)
    length = -(-(tmp_path / "file").stat().st_size // 512) * 512
    with loop_device(tmp_path / "small", length) as small:
        savefmt.convert(image, small, overwrite=True)
        with savefmt.open(small) as one, savefmt.open(image) as other:
            assert one.memory.digest() == other.memory.digest()


def test_an_older_image_is_not_taken_for_the_end(volume: Path, tmp_path: Path) -> None:
    """Where the new one ends stands a description of the old one."""
    long, short = tmp_path / "long", tmp_path / "short"
    long.write_bytes(make_stream(blocks={"pc.ram": b"".join(map(page, range(300)))}))
    short.write_bytes(make_stream(blocks={"pc.ram": page(1)}, description=False))
    savefmt.convert(long, volume, overwrite=True)
    end = short.stat().st_size
    put(volume, b"\x06\0\0\0\2{}", end)

    savefmt.convert(short, volume, overwrite=True)

    report = savefmt.check(volume, level=CheckLevel.FULL)
    assert report.ok
    assert content(volume)[: end + 1] == short.read_bytes() + b"\0"


# --- what is refused, before anything is written ---


def refused(image: Path, volume: Path, match: str, **options: object) -> None:
    before = content(volume)
    for dry_run in (True, False):
        with pytest.raises(ConversionError, match=match) as caught:
            savefmt.convert(image, volume, dry_run=dry_run, **options)  # type: ignore[arg-type]
        assert os.fspath(caught.value.path or "") == str(volume)
    assert content(volume) == before


def test_without_force(image: Path, volume: Path) -> None:
    refused(image, volume, "a block device, which loses all that is on it; --force")


def make(kind: str, volume: Path) -> None:
    reason = obstacle(kind)
    if reason:
        pytest.skip(reason)
    subprocess.run([f"mkfs.{kind}", "-q", str(volume)], check=True)


def test_with_a_file_system(image: Path, volume: Path) -> None:
    """It is named, --force may overwrite it, and then nobody finds it any more."""
    make("ext4", volume)
    refused(image, volume, "block device, which holds ext4; --force overwrites it")

    savefmt.convert(image, volume, layout=Layout.MAPPED_RAM, overwrite=True)

    with open(volume, "rb") as device:
        assert signatures.find_signatures(device.fileno()) == ()
    assert savefmt.check(volume).ok


def test_mounted(image: Path, volume: Path, tmp_path: Path) -> None:
    make("ext4", volume)
    place = tmp_path / "place"
    place.mkdir()
    if subprocess.run(["mount", str(volume), str(place)], check=False).returncode:
        pytest.skip(str(CannotMountError("ext4 cannot be mounted here")))
    try:
        with pytest.raises(ConversionError, match=f"in use .mounted at {place}.*not written to"):
            savefmt.convert(image, volume, overwrite=True)
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_partitioned(image: Path, volume: Path) -> None:
    """The disk of a guest, in most cases; --force does not help."""
    put(volume, gpt())
    refused(image, volume, r"holds .*(gpt|PMBR|dos).*is not written to", overwrite=True)


def test_a_member_of_a_volume_group(image: Path, volume: Path) -> None:
    """Its label is that of `pvcreate`: sector 1, with a checksum of its own."""
    label = bytearray(512)
    label[:8], label[8:16] = b"LABELONE", struct.pack("<Q", 1)
    label[20:32] = struct.pack("<I8s", 32, b"LVM2 001")
    label[32:64] = b"abcdefghijklmnopqrstuvwxyz012345"
    label[64:72] = struct.pack("<Q", LENGTH)
    crc = 0xF597A6CF
    for byte in label[20:]:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xEDB88320 if crc & 1 else 0)
    label[16:20] = struct.pack("<I", crc)
    put(volume, bytes(label), 512)

    refused(image, volume, "holds LVM2_member, in which .* is not written to", overwrite=True)


def test_held_by_another(image: Path, volume: Path) -> None:
    fd = os.open(volume, os.O_RDONLY | os.O_EXCL)
    try:
        refused(image, volume, "in use .another program holds it", overwrite=True)
    finally:
        os.close(fd)


def test_locked_by_a_guest(image: Path, volume: Path) -> None:
    """QEMU takes such locks on the disks of its guests, and does not open them O_EXCL."""
    with open(volume, "rb") as device:
        lock = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 100, 1, 0)
        fcntl.fcntl(device, 37, lock)  # F_OFD_SETLK

        refused(image, volume, "has this device locked, as QEMU", overwrite=True)


def test_while_another_conversion_writes_there(image: Path, volume: Path) -> None:
    with OutputVolume(volume, overwrite=True) as output:
        with pytest.raises(ConversionError, match="in use"):
            OutputVolume(volume, overwrite=True)
        output.commit()


@pytest.mark.parametrize("form", ["raw", "sparse"])
@pytest.mark.parametrize("origin", FORMS)
def test_too_small(origin: str, form: str, image: Path, tmp_path: Path) -> None:
    layout, codec = FORMS[origin]
    savefmt.convert(image, tmp_path / "source", layout=layout, codec=codec)
    layout, codec = FORMS[form]
    savefmt.convert(tmp_path / "source", tmp_path / "file", layout=layout, codec=codec)
    length = (tmp_path / "file").stat().st_size // 65536 * 65536
    if form == "sparse" and origin != "sparse":
        length -= 65536  # the devices are only known in the end
    with loop_device(tmp_path / "small", length) as small:
        refused(
            tmp_path / "source",
            small,
            rf"takes \d+ bytes or more, and this device has {length}",
            overwrite=True,
            layout=layout,
            codec=codec,
        )


def test_where_nothing_can_tell_what_lies_there(
    image: Path, volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signatures, "_LIBRARY", "libblkid.so.none")
    with pytest.raises(UnsupportedError, match="of util-linux, .* is missing"):
        savefmt.convert(image, volume, overwrite=True)
    assert content(volume) == b"\xa5" * LENGTH


def test_the_source_itself(image: Path, volume: Path, tmp_path: Path) -> None:
    """Also under another name; a change of one sector is made in place all the same."""
    savefmt.convert(image, volume, overwrite=True)
    status = volume.stat()
    node = tmp_path / "node"
    os.mknod(node, status.st_mode, status.st_rdev)
    before = content(volume)
    with pytest.raises(ConversionError, match="cannot be replaced in place"):
        savefmt.convert(volume, volume, codec="zstd", overwrite=True)
    with pytest.raises(ImageChangedError):
        savefmt.convert(volume, node, codec="zstd", overwrite=True)
    assert content(volume) == before

    savefmt.convert(volume, volume, save_version=3, overwrite=True)

    assert savefmt.probe(volume).envelope.version == 3  # type: ignore[union-attr]
    with pytest.raises(SavefmtError):
        set_xml(volume, b"<domain><name>" + b"n" * MIB + b"</name></domain>", running=False)
    with savefmt.open(volume) as one, savefmt.open(image) as other:
        assert one.memory.digest() == other.memory.digest()


@pytest.mark.parametrize("turned", [False, True])
def test_what_the_source_is_made_of(turned: bool, image: Path, tmp_path: Path) -> None:
    """A loop device of the source's own file, and a source that is one of the target's."""
    backing = tmp_path / "backing"
    with loop_device(backing, LENGTH) as below, loop_device(below, LENGTH) as above:
        put(above, image.read_bytes())
        ways = [(above, below)] if turned else [(backing, below), (backing, above), (below, above)]
        for source, target in ways:
            before = content(source)
            with pytest.raises(ConversionError, match="which is read; name another"):
                savefmt.convert(source, target, codec="zstd", overwrite=True)
            assert content(source) == before


def test_the_file_that_the_source_is_made_of(image: Path, tmp_path: Path) -> None:
    """It gets a new file under its name, and the device keeps the old one."""
    with loop_device(tmp_path / "backing", LENGTH) as device:
        put(device, image.read_bytes())
        before = content(device)
        savefmt.convert(device, tmp_path / "backing", codec="zstd", overwrite=True)
        assert content(device) == before


def test_a_device_that_holds_memory_of_the_source(volume: Path, tmp_path: Path) -> None:
    """Memory that was left out of the image is read, too."""
    source = Source(tmp_path / "image", shared=(("pc.ram", volume),))
    with pytest.raises(ConversionError, match="which is read"):
        savefmt.convert(source, volume, overwrite=True)


def test_the_disk_that_a_partition_is_of(
    image: Path, volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = os.stat(volume).st_rdev
    disk = tmp_path / "sda"
    (disk / "sda1").mkdir(parents=True)
    (disk / "sda1" / "partition").write_text("1\n")
    (disk / "dev").write_text(f"{os.major(number)}:{os.minor(number)}\n")
    node = tmp_path / "node"
    os.mknod(node, volume.stat().st_mode, os.makedev(240, 1))
    monkeypatch.setattr(volumes, "_system", lambda at: disk if at == number else disk / "sda1")
    with pytest.raises(ConversionError, match="which is read"):
        savefmt.convert(volume, node, overwrite=True)
    with pytest.raises(ConversionError, match="which is read"):
        savefmt.convert(node, volume, overwrite=True)


def test_read_only(image: Path, volume: Path) -> None:
    subprocess.run(["blockdev", "--setro", str(volume)], check=True)
    try:
        refused(image, volume, "this device is read-only", overwrite=True)
    finally:
        subprocess.run(["blockdev", "--setrw", str(volume)], check=True)


def test_a_device_that_cannot_be_read_any_more(image: Path, tmp_path: Path) -> None:
    with loop_device(tmp_path / "backing", LENGTH) as device:
        os.truncate(tmp_path / "backing", 4096)
        with pytest.raises(SavefmtError) as caught:
            savefmt.convert(image, device, overwrite=True)
        assert str(caught.value).startswith(f"{device}: ")


def test_what_is_no_image(image: Path, volume: Path) -> None:
    with pytest.raises(ConversionError, match="to which only whole images are written"):
        savefmt.export(image, volume, format="raw", overwrite=True)
    assert content(volume) == b"\xa5" * LENGTH


# --- what is left of a failure ---


@pytest.mark.parametrize("form", FORMS)
def test_a_failure_leaves_no_image(form: str, image: Path, volume: Path) -> None:
    layout, codec = FORMS[form]
    with pytest.raises(OperationCancelled):
        savefmt.convert(
            image, volume, layout=layout, codec=codec, overwrite=True, progress=lambda _: False
        )
    assert content(volume)[:4096] == bytes(4096)
    with pytest.raises(SavefmtError):
        savefmt.open(volume)


def test_a_source_that_ends_too_early(image: Path, volume: Path) -> None:
    image.write_bytes(image.read_bytes()[:-3000])
    with pytest.raises(SavefmtError):
        savefmt.convert(image, volume, overwrite=True)
    assert content(volume)[:4096] == bytes(4096)


def test_a_compressed_result_that_does_not_fit(tmp_path: Path) -> None:
    """How long it gets is known in the end."""
    noise = tmp_path / "noise"
    blocks = {"pc.ram": os.urandom(2 * MIB)}
    noise.write_bytes(make_envelope() + make_stream(blocks=blocks))
    with loop_device(tmp_path / "small", MIB) as small:
        with pytest.raises(ImageIOError, match="No space left"):
            savefmt.convert(noise, small, codec="zstd", overwrite=True)
        assert content(small)[:4096] == bytes(4096)


def test_on_the_command_line(image: Path, volume: Path) -> None:
    command = [sys.executable, "-m", "savefmt", "convert", str(image), str(volume), "-O", "sparse"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, "--force" in done.stderr) == (1, True)
    done = subprocess.run([*command, "-F", "--verify"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "what the device held before is gone" in done.stdout
