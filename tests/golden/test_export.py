"""Exports of real images: QEMU's own dump to the byte, and ELF cores that others read."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import NoteSegment
from sparse import extents, first_difference, sha256

import savefmt
from golden import load
from savefmt.image import SaveImage

FOLDER = load.HERE / "guest"
DUMPS = {
    name.removesuffix(".elf"): digest
    for digest, name in (line.split() for line in (FOLDER / "SHA256SUMS").read_text().splitlines())
}
PIECE = 1 << 20


def of_interest(facts: dict[str, Any]) -> bool:
    """All images but the one without its RAM, and those of 200 000 sections of dirty bitmaps."""
    return "ignored" not in facts and "dirty-bitmaps" not in str(facts["save_capabilities"])


@pytest.mark.parametrize("name", DUMPS)
def test_the_bytes_of_qemus_own_dump(name: str, tmp_path: Path) -> None:
    cores = []
    for form in (name, f"{name}-sequential"):
        core = tmp_path / f"{form}.core"
        source, places = load.unpack(f"guest/{form}", tmp_path), load.places(form)
        report = savefmt.export(source, core, compat="qemu", places=places)
        doubts = {finding.code for finding in report.findings}
        assert doubts == ({"memmap.said"} if "dimm" in name else set())
        assert report.target_disk_length < 2 << 20, "zeros stay holes"
        assert core.stat().st_mode & 0o777 == 0o600
        cores.append(core)

    assert first_difference(*cores) is None
    assert sha256(cores[0]) == DUMPS[name]


@pytest.mark.parametrize("codec", ["gzip", "zstd", "lzop"])
def test_compressed_images_give_the_same(codec: str, tmp_path: Path) -> None:
    plain = load.unpack("guest/q35-16m-sequential", tmp_path)
    savefmt.convert(plain, tmp_path / "packed", codec=codec)

    savefmt.export(tmp_path / "packed", tmp_path / "core", compat="qemu")

    assert sha256(tmp_path / "core") == DUMPS["q35-16m"]


def loads(core: Path) -> Iterator[tuple[int, int, int]]:
    """Yield address, offset in the file and length of what pyelftools finds."""
    with core.open("rb") as file:
        for segment in ELFFile(file).iter_segments("PT_LOAD"):
            assert segment["p_vaddr"] == segment["p_paddr"]
            assert segment["p_filesz"] == segment["p_memsz"]
            assert segment["p_align"] == 0
            assert segment["p_offset"] % 4096 == 0
            yield segment["p_paddr"], segment["p_offset"], segment["p_filesz"]


def same_memory(image: SaveImage, path: Path, address: int, offset: int, length: int) -> bool:
    """Whether a stretch of a file is what random access finds in the image."""
    with path.open("rb") as file:
        for start, end in extents(path):
            for at in range(max(start, offset), min(end, offset + length), PIECE):
                count = min(PIECE, end - at, offset + length - at)
                file.seek(at)
                if file.read(count) != image.guest.physical.read(address + at - offset, count):
                    return False
    return True


@pytest.mark.parametrize("name", load.names(of_interest))
def test_every_form_becomes_a_core(name: str, tmp_path: Path) -> None:
    """Core, raw memory and LiME of every golden image hold what reading it page by page gives."""
    source = load.unpack(name, tmp_path)
    core, raw = tmp_path / "core", tmp_path / "raw"
    report = savefmt.export(source, core)
    savefmt.export(source, raw, format="raw")
    with savefmt.open(source) as image:
        ranges = image.guest.physical.map.ranges
        cpus = len(image.guest.cpus)
        found = list(loads(core))
        assert sum(length for *_, length in found) == sum(item.length for item in ranges)
        assert [address for address, *_ in found if address not in {r.start for r in ranges}] == []
        assert all(same_memory(image, core, *load_) for load_ in found)
        top = raw.stat().st_size
        assert top == max(r.end for r in ranges if r.kind in ("ram", "dimm", "virtio-mem"))
        assert all(same_memory(image, raw, r.start, r.start, r.length) for r in ranges)
        pages = sum(_data_pages(image, r.block, r.offset, r.length) for r in ranges)
    assert (report.cpus, report.data_pages) == (cpus, pages)


def _data_pages(image: SaveImage, block: str, offset: int, length: int) -> int:
    size = image.page_size
    first, last = offset // size, (offset + length) // size
    return sum(
        max(min(run.first + run.count, last) - max(run.first, first), 0)
        for run in image.memory.runs(block)
    )


def test_notes(tmp_path: Path) -> None:
    core = tmp_path / "core"
    savefmt.export(load.unpack("guest/q35-16m", tmp_path), core)
    with core.open("rb") as file:
        elf = ELFFile(file)
        (segment,) = elf.iter_segments("PT_NOTE")
        assert isinstance(segment, NoteSegment)
        notes = [(note["n_name"], note["n_descsz"]) for note in segment.iter_notes()]

    assert elf["e_machine"] == "EM_X86_64"
    assert notes == [("CORE", 336)] * 2 + [("QEMU", 440)] * 2


def test_an_arm_core(tmp_path: Path) -> None:
    source, core = load.unpack("guest/virt-16m", tmp_path), tmp_path / "core"
    savefmt.export(source, core)
    with core.open("rb") as file, savefmt.open(source) as image:
        elf = ELFFile(file)
        assert elf["e_machine"] == "EM_AARCH64"
        (segment,) = elf.iter_segments("PT_NOTE")
        assert isinstance(segment, NoteSegment)
        notes = [note["n_descdata"] for note in segment.iter_notes()]
        assert [len(note) for note in notes] == [392, 528] * len(image.guest.cpus)
        for cpu, note in zip(image.guest.cpus, notes[::2], strict=True):
            assert int.from_bytes(note[112 + 32 * 8 :][:8], "little") == cpu.pc  # type: ignore[union-attr]
        savefmt.export(source, core, compat="qemu", overwrite=True)


def test_lime(tmp_path: Path) -> None:
    source, target = load.unpack("guest/i440-32m-vga", tmp_path), tmp_path / "lime"
    savefmt.export(source, target, format="lime")
    with savefmt.open(source) as image, target.open("rb") as file:
        at = 0
        for item in image.guest.physical.map.ranges:
            file.seek(at)
            head = struct.unpack("<IIQQ8s", file.read(32))
            assert head == (0x4C694D45, 1, item.start, item.end - 1, bytes(8))
            assert same_memory(image, target, item.start, at + 32, item.length)
            at += 32 + item.length
        assert target.stat().st_size == at


@pytest.mark.parametrize("form", ["q35-16m", "q35-16m-sequential"])
def test_blocks(form: str, tmp_path: Path) -> None:
    source, target = load.unpack(f"guest/{form}", tmp_path), tmp_path / "blocks"
    report = savefmt.export(source, target, format="blocks")
    with savefmt.open(source) as image:
        for block, name in zip(image.head.blocks.blocks, report.files, strict=True):
            assert (target / name).read_bytes() == image.memory.read(
                block.idstr, 0, block.used_length
            )
    assert "pc.ram.bin" in report.files
    assert "_rom_etc_acpi_tables.bin" in report.files
    assert sorted(path.name for path in target.iterdir()) == sorted(report.files)
    assert target.stat().st_mode & 0o777 == 0o700
    assert not [path for path in tmp_path.iterdir() if "savefmt-" in path.name]


@pytest.mark.parametrize("form", ["q35-16m", "q35-16m-sequential"])
def test_a_window_of_raw_memory(form: str, tmp_path: Path) -> None:
    source, target = load.unpack(f"guest/{form}", tmp_path), tmp_path / "raw"
    savefmt.export(source, target, format="raw", start=0xFFFE0000, length=0x20000)
    with savefmt.open(source) as image:
        assert target.read_bytes() == image.memory.read("pc.bios", 0x20000, 0x20000)

        savefmt.export(image, target, format="raw", start=0x101000, length=0x3000, overwrite=True)
        assert target.read_bytes() == image.guest.physical.read(0x101000, 0x3000)


def test_memory_that_was_left_out_is_said_to_be(tmp_path: Path) -> None:
    report = savefmt.export(load.unpack("ignore-shared", tmp_path), tmp_path / "core")

    assert "export.absent" in {f.code for f in report.findings if f.severity == "warning"}
