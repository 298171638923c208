"""`virsh restore` brings back what `convert` wrote, and the guest goes on where it stood."""

from __future__ import annotations

import shlex
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from golden import load
from loopdevices import loop_device

import savefmt
from interop import linux
from interop.conftest import need_direct_io, need_machine
from interop.libvirt import Libvirt, VirshError
from interop.qemu import wait_for
from savefmt.bench import bench
from savefmt.bench.values import BenchOptions

pytestmark = pytest.mark.interop

SEQUENTIAL, MAPPED = savefmt.Layout.SEQUENTIAL, savefmt.Layout.MAPPED_RAM
CONSOLE = "/var/lib/libvirt/console/ticker.log"
FORMATS = ("raw", "gzip", "bzip2", "xz", "lzop", "zstd", "sparse")
DOMAIN = f"""\
<domain type='qemu'>
  <name>ticker</name>
  <uuid>7c9e6679-7425-40de-944b-e07fc1f90ae7</uuid>
  <memory unit='MiB'>96</memory>
  <vcpu>2</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>/var/lib/libvirt/images/vmlinuz</kernel>
    <initrd>/var/lib/libvirt/images/initramfs.cpio</initrd>
    <cmdline>{linux.APPEND}</cmdline>
  </os>
  <features><acpi/><apic/></features>
  <cpu mode='custom' match='exact'><model>qemu64</model></cpu>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <serial type='file'><source path='{CONSOLE}'/><target port='0'/></serial>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
    <memballoon model='none'/>
  </devices>
</domain>
"""


@dataclass(frozen=True)
class Saved:
    """An image of the Linux guest, and its console up to the save."""

    path: Path
    console: str


def format_of(image: Path) -> str:
    """Return the name of the format that an image's header gives."""
    with image.open("rb") as file:
        return FORMATS[struct.unpack_from("<I", file.read(32), 28)[0]]


def console_text(libvirt: Libvirt) -> str:
    path = libvirt.path(CONSOLE)
    return path.read_text(errors="replace") if path.exists() else ""


class Saves(dict[str, Saved]):
    """Images by name; what this libvirt cannot write skips the test that wants it."""

    def __missing__(self, name: str) -> Saved:
        """Skip."""
        pytest.skip("this libvirt takes no snapshot of memory with this QEMU")


@pytest.fixture(scope="module")
def saves(
    libvirt: Libvirt, linux_guest: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Saved]]:
    """Images of one guest, which is restored and runs on in between."""
    directory = tmp_path_factory.mktemp("saves")
    for name in ("vmlinuz", "initramfs.cpio"):
        shutil.copy(linux_guest / name, libvirt.path(f"/var/lib/libvirt/images/{name}"))
    libvirt.start(DOMAIN)
    try:
        wait_for(lambda: "tick 5\n" in console_text(libvirt), "tick on the console")
        with_snapshot = take_snapshot(libvirt, directory / "mislabelled")
        result, console = Saves(), ""
        for name in ("raw", "zstd", "sparse"):
            libvirt.save("ticker", directory / name, name)
            console += console_text(libvirt)
            result[name] = Saved(directory / name, console)
            if name != "sparse":
                libvirt.restore(directory / name)
                wait_for(lambda: "tick" in console_text(libvirt), "tick on the console")
        if with_snapshot:
            result |= correct_snapshot(libvirt, directory)
        yield result
    finally:
        libvirt.destroy("ticker")
        shutil.rmtree(directory)


def take_snapshot(libvirt: Libvirt, image: Path) -> bool:
    """Try to take one, which libvirt 12.8 cannot with QEMU 11.1."""
    try:
        libvirt.snapshot("ticker", image)
    except VirshError as error:
        if "migration to a file is not supported" not in str(error):
            raise
        return False
    return True


def correct_snapshot(libvirt: Libvirt, directory: Path) -> dict[str, Saved]:
    """Return the snapshot, and as libvirt would have written it without its defect."""
    shutil.copy(directory / "mislabelled", directory / "live")
    with (directory / "live").open("r+b") as file:
        file.seek(28)
        file.write(struct.pack("<I", FORMATS.index("raw")))
    before = console_before(libvirt, directory / "live")
    return {name: Saved(directory / name, before) for name in ("live", "mislabelled")}


def console_before(libvirt: Libvirt, image: Path) -> str:
    """Find out how far a guest had counted at a live save: a restored copy shows it."""
    libvirt.restore(image)
    wait_for(lambda: console_text(libvirt).count("\n") >= 3, "ticks on the console")
    libvirt.destroy("ticker")
    before, found, _ = linux.transcript(1000).partition(console_text(libvirt))
    assert found
    return before


def restore_and_watch(libvirt: Libvirt, saved: Saved, image: Path, *options: str) -> None:
    """Restore, and see the guest count on from where it stood."""
    try:
        libvirt.restore(image, *options)
        assert libvirt.state("ticker") == "running"
        wait_for(
            lambda: linux.goes_on(saved.console, console_text(libvirt)),
            "tick and report on memory",
        )
    finally:
        libvirt.destroy("ticker")


CASES = [
    ("raw", "sparse"),
    ("raw", "bzip2"),
    ("zstd", "sparse"),
    ("zstd", "gzip"),
    ("sparse", "raw"),
    ("sparse", "zstd"),
    ("sparse", "lzop"),
    ("live", "sparse"),
    ("live", "xz"),
    ("mislabelled", "sparse"),
    ("mislabelled", "raw"),
]


def convert(source: Path, target: Path, format: str, *, overwrite: bool = False) -> None:
    """Convert to one of libvirt's formats."""
    layout = MAPPED if format == "sparse" else SEQUENTIAL
    codec = "raw" if format == "sparse" else format
    savefmt.convert(source, target, layout=layout, codec=codec, overwrite=overwrite)
    assert format_of(target) == format


@pytest.mark.parametrize(("source", "format"), CASES, ids=["-to-".join(case) for case in CASES])
def test_a_converted_image_is_restored(
    source: str, format: str, saves: dict[str, Saved], libvirt: Libvirt, tmp_path: Path
) -> None:
    target = tmp_path / "converted.save"

    convert(saves[source].path, target, format)

    restore_and_watch(libvirt, saves[source], target)
    target.unlink()


def test_a_repaired_label_is_restored(
    saves: dict[str, Saved], libvirt: Libvirt, tmp_path: Path
) -> None:
    """What libvirt itself mislabelled, it refuses; with the right label it takes it."""
    saved = saves["mislabelled"]
    image = tmp_path / "repaired.save"
    with pytest.raises(VirshError):
        libvirt.restore(saved.path)

    savefmt.repair(saved.path, image, fixes=["format"])

    assert (format_of(saved.path), format_of(image)) == ("sparse", "raw")
    restore_and_watch(libvirt, saved, image)


def test_a_repaired_image_is_restored(
    saves: dict[str, Saved], libvirt: Libvirt, tmp_path: Path
) -> None:
    """All that can be wrong with its header, and older bytes behind a compressed stream."""
    saved = saves["zstd"]
    image = tmp_path / "damaged.save"
    data = bytearray(saved.path.read_bytes())
    data[:16] = b"LibvirtQemudPart"
    data[20:24], data[28:36] = struct.pack("<I", 4711), struct.pack("<II", 6, 17)
    image.write_bytes(data + b"what lay here before" * 999)
    with pytest.raises(VirshError):
        libvirt.restore(image)

    savefmt.repair(image, fixes=["all", "magic"])

    assert image.read_bytes() == saved.path.read_bytes()
    restore_and_watch(libvirt, saved, image)


def test_images_on_a_volume_are_restored(
    saves: dict[str, Saved], libvirt: Libvirt, tmp_path: Path
) -> None:
    """What the device held before is behind each of them."""
    with loop_device(tmp_path / "backing", 160 << 20) as volume:
        for format in ("raw", "sparse"):
            convert(saves["zstd"].path, volume, format, overwrite=True)
            try:
                restore_and_watch(libvirt, saves["zstd"], volume)
            except VirshError as error:
                if "libvirt_iohelper" in str(error) and "signal 13" in str(error):
                    # As of 12.8: QEMU hangs up at the end of the stream, before the device's.
                    pytest.skip("this libvirt's helper dies of what is behind the stream")
                raise
        convert(saves["zstd"].path, volume, "zstd", overwrite=True)
        with pytest.raises(VirshError, match="unsupported format"):  # as the conversion said
            libvirt.restore(volume)


@pytest.mark.parametrize("source", ["raw", "zstd", "live"])
def test_a_sparse_image_is_restored_past_the_cache(
    source: str, saves: dict[str, Saved], libvirt: Libvirt, tmp_path: Path
) -> None:
    need_direct_io(tmp_path)
    target = tmp_path / "converted.save"

    convert(saves[source].path, target, "sparse")

    options = ("--bypass-cache", "--parallel-channels", "4")
    restore_and_watch(libvirt, saves[source], target, *options)
    target.unlink()


@pytest.mark.parametrize("name", ["sparse", "raw", "zstd"])
def test_virsh_does_as_bench_advises(
    name: str, saves: dict[str, Saved], libvirt: Libvirt, tmp_path: Path
) -> None:
    options = BenchOptions(1 << 20, (1,), (1 << 20,), repeat=1)
    saved = saves[name]
    advised = bench(saved.path, options).advice.commands[:-1]  # the last one converts
    restore, *afterwards = [shlex.split(command.replace("GUEST", "ticker")) for command in advised]
    save = shlex.split(bench(tmp_path, options).advice.commands[0])
    assert restore[:3] == ["virsh", "restore", str(saved.path)]
    assert save[:4] == ["virsh", "save", "DOMAIN", "FILE"]

    try:
        libvirt.virsh(*restore[1:])
        # QEMU 10.0 may die if it is saved before it runs again.
        wait_for(
            lambda: linux.goes_on(saved.console, console_text(libvirt)),
            "tick and report on memory",
        )
        for words in afterwards:  # else direct-io stays set, and a save without it kills QEMU
            assert words[0] == "virsh"
            libvirt.virsh(*words[1:])
        libvirt.virsh("save", "ticker", tmp_path / "again", *save[4:])
    finally:
        libvirt.destroy("ticker")

    assert format_of(tmp_path / "again") == "sparse"
    (tmp_path / "again").unlink()


def blocks_after_restore(libvirt: Libvirt, image: Path, domain: str) -> dict[str, str]:
    """Restore without letting the guest run, and hash all its RAM blocks."""
    try:
        libvirt.restore(image, "--paused")
        assert libvirt.state(domain) == "paused"
        return libvirt.block_hashes(domain)
    finally:
        libvirt.destroy(domain)


@pytest.mark.parametrize(("source", "format"), [("raw", "sparse"), ("sparse", "zstd")])
def test_every_byte_of_memory_comes_back(
    source: str, format: str, saves: dict[str, Saved], libvirt: Libvirt, tmp_path: Path
) -> None:
    image = saves[source].path
    target = tmp_path / "converted.save"

    convert(image, target, format)

    assert blocks_after_restore(libvirt, target, "ticker") == blocks_after_restore(
        libvirt, image, "ticker"
    )
    target.unlink()


@pytest.mark.parametrize("name", load.names(lambda facts: facts["kind"] == "libvirt"))
def test_golden_images_are_restored(name: str, libvirt: Libvirt, tmp_path: Path) -> None:
    facts = load.manifest()[name]
    need_machine(facts["machine"])
    load.firmware("libvirt", libvirt.root / "lib/images").rename(
        libvirt.path("/var/lib/libvirt/images/firmware.bin")
    )
    libvirt.path("/var/lib/libvirt/images/boot.img").write_bytes(bytes(1 << 20))
    source, target = load.unpack(name, tmp_path), tmp_path / "converted.save"

    convert(source, target, "zstd" if facts["layout"] == "mapped-ram" else "sparse")

    blocks = {name: block["sha256"] for name, block in facts["blocks"].items()}
    assert blocks_after_restore(libvirt, target, facts["domain"]) == blocks


@pytest.mark.parametrize("name", ["libvirt-raw", "libvirt-zstd"])
def test_the_run_state_is_kept(name: str, libvirt: Libvirt, tmp_path: Path) -> None:
    """One of the two was saved to go on by itself, the other to stay paused."""
    facts = load.manifest()[name]
    need_machine(facts["machine"])
    load.firmware("libvirt", libvirt.root / "lib/images").rename(
        libvirt.path("/var/lib/libvirt/images/firmware.bin")
    )
    target = tmp_path / "converted.save"

    convert(load.unpack(name, tmp_path), target, "sparse")

    try:
        libvirt.restore(target)
        state = libvirt.state(facts["domain"])
    finally:
        libvirt.destroy(facts["domain"])
    assert state == ("running" if facts["was_running"] else "paused")
