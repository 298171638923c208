"""What the files of a mounted image hold, without mounting any."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from builder import PAGE_SIZE, make_stream, page
from golden import load
from scanning import padded

import savefmt
from savefmt.errors import ConversionError, ImageIOError, TruncatedError
from savefmt.export.blocks import file_names
from savefmt.image import SaveImage
from savefmt.model import Layout
from savefmt.mount.contents import Content, Laid
from savefmt.mount.folder import Folder, build, find, put
from savefmt.mount.serving import check_mountpoint

GOLDENS = (
    *("libvirt-devices", "q35-smp-mapped", "libvirt-zstd", "libvirt-gzip", "live-xbzrle"),
    *("virtio-mem", "dimm-mapped", "microvm", "i440fx"),
)
WHOLE = 64 << 20
"""Larger files are mostly holes; they are read here and there."""


@contextmanager
def folder_of(path: Path, search: bool = True) -> Iterator[tuple[SaveImage, Folder]]:
    """Build the folder of an image."""
    with SaveImage(path, strict=False) as image:
        yield image, build(image, {}, search=search)


def laid(top: Folder, path: str) -> Laid:
    """Return a file with memory in it."""
    found = find(top, path)
    assert isinstance(found, Laid)
    return found


def read(content: Content, offset: int, length: int) -> bytes:
    """Read a range into memory that is not zeros, as far as the file goes."""
    data = bytearray(b"\xaa" * max(min(length, content.length - offset), 0))
    content.read_into(offset, memoryview(data))
    return bytes(data)


def spots(length: int, borders: Sequence[int], seed: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of a file: anywhere, and around where something begins."""
    chance = random.Random(seed)
    for _ in range(40):
        yield chance.randrange(length), chance.choice((1, 511, 4096, 131072))
    for border in borders:
        yield max(border - 5000, 0), 10000
        yield border, 4096
    yield length - 1, 100
    yield length, 100
    yield length + 5, 100


@pytest.mark.parametrize("name", GOLDENS)
def test_memory_is_what_export_writes(name: str, tmp_path: Path) -> None:
    path = load.unpack(name, tmp_path)
    savefmt.export(path, tmp_path / "memory.elf")
    savefmt.export(path, tmp_path / "memory.raw", format="raw")
    savefmt.export(path, tmp_path / "blocks", format="blocks")
    with folder_of(path) as (image, top):
        blocks = find(top, "blocks")
        assert isinstance(blocks, dict)
        expected = {f"blocks/{one}": tmp_path / f"blocks/{one}.bin" for one in blocks}
        assert len(blocks) == len(list((tmp_path / "blocks").iterdir()))
        for one in ("memory.elf", "memory.raw"):
            expected[one] = tmp_path / one
        for one, file in expected.items():
            content, size = laid(top, one), file.stat().st_size
            assert content.length == size
            if size <= WHOLE:
                assert read(content, 0, size) == file.read_bytes()
            borders = [item.offset for item in content._plan.placed]
            with file.open("rb") as truth:
                for offset, length in spots(size, borders, seed=size):
                    truth.seek(offset)
                    assert read(content, offset, length) == truth.read(length)
        held = sum(run.count for b in image.blocks for run in image.memory.runs(b))
        total = sum(laid(top, f"blocks/{one}").stored for one in blocks)
        assert total == held * image.page_size


def vmcoreinfo_note(release: str) -> bytes:
    """Return a page that begins with the note of a Linux kernel."""
    text = f"OSRELEASE={release}\nPAGESIZE=4096\n".encode()
    return padded(struct.pack("<III", 11, len(text), 0) + b"VMCOREINFO\0\0" + text)


@pytest.mark.parametrize("layout", list(Layout))
def test_the_core_tells_the_kernel_as_an_export_does(layout: Layout, tmp_path: Path) -> None:
    path = tmp_path / "image"
    golden = load.unpack("q35-smp-mapped", tmp_path)
    with savefmt.open(golden) as image:
        offset = image.mapped.pages[0].offset
        present = [run.first for run in image.memory.runs(image.head.blocks.blocks[0].idstr)]
    data = bytearray(golden.read_bytes())
    for number, release in zip(present[:2], ("6.1.0-a", "6.1.0-b"), strict=True):
        at = offset + number * PAGE_SIZE
        data[at : at + PAGE_SIZE] = vmcoreinfo_note(release)
    path.write_bytes(data)
    if layout is Layout.SEQUENTIAL:
        savefmt.convert(path, tmp_path / "sequential", layout=layout)
        path = tmp_path / "sequential"
    savefmt.export(path, tmp_path / "core")
    truth = (tmp_path / "core").read_bytes()
    assert b"OSRELEASE=6.1.0-a" in truth[: truth.index(b"6.1.0-b")]

    for search in (True, False):
        with folder_of(path, search=search) as (_, top):
            core = laid(top, "memory.elf")
            assert read(core, 0, len(truth)) == truth
            told = find(top, "vmcoreinfo.txt")
            assert (told is not None) == search
            if told is not None and not isinstance(told, dict):
                assert read(told, 0, 1000) == b"OSRELEASE=6.1.0-a\nPAGESIZE=4096\n"


def test_what_cannot_be_is_told(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(make_stream(machine="unheard-of-1.0", layout="mapped-ram"))
    told: list[str] = []
    with SaveImage(path) as image:
        top = build(image, {"a/b/c": b"text"}, left_out=lambda name, reason: told.append(name))

        assert told == ["memory.raw, memory.elf"]
        assert set(top) == {"a", "blocks"}
        assert read(laid(top, "blocks/pc.ram"), 0, 4) == page(0)[:4]
    assert find(top, "a/b/c") is not None
    for path_inside in ("a/b/c/d", "a/x", "blocks/../a", "x"):
        assert find(top, path_inside) is None


def test_a_file_that_got_shorter_fails_where_it_lacks_and_only_there(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(make_stream(layout="mapped-ram", blocks={"pc.ram": page(0) * 1024}))
    with folder_of(path) as (image, top):
        start = image.mapped.pages[0].offset
        with path.open("r+b") as file:
            file.truncate(start + 700 * PAGE_SIZE)
        content = laid(top, "blocks/pc.ram")

        assert read(content, 0, 700 * PAGE_SIZE) == page(0) * 700
        with pytest.raises((TruncatedError, ImageIOError)):
            read(content, 700 * PAGE_SIZE, 1)


def test_names_are_safe() -> None:
    names = ["../x", "a/b", "", ".", "a\x1b\nb", "A", "a", "x" * 999]
    made = file_names(names, ".json")

    assert len({name.casefold() for name in made}) == len(names)
    for name in made:
        assert name.endswith(".json")
        assert not name.startswith(".")
        assert "/" not in name
        assert name.isprintable()
        assert len(name) < 256


def test_a_file_is_no_folder() -> None:
    top: Folder = {}
    put(top, "a", Laid.__new__(Laid))
    with pytest.raises(ValueError, match="a file and a folder"):
        put(top, "a/b", Laid.__new__(Laid))


def test_where_one_may_mount(tmp_path: Path) -> None:
    check_mountpoint(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ConversionError, match="not empty"):
        check_mountpoint(tmp_path)
    for wrong in (tmp_path / "file", tmp_path / "missing"):
        with pytest.raises(ImageIOError):
            check_mountpoint(wrong)
