"""Pages that need not be copied: shared by the file system, or copied by its server."""

from __future__ import annotations

import errno
import os
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builder import MIB, PAGE_SIZE, make_envelope, make_stream, page
from filesystems import CLONING, CannotMountError, mounted, used
from oracle import compress

import savefmt
from savefmt import ImageIOError, IOOptions, Layout
from savefmt.edit import set_xml
from savefmt.format.envelope import FORMAT_NUMBERS
from savefmt.image import SaveImage
from savefmt.native.allocated import set_bits
from savefmt.native.file import File
from savefmt.native.pages import BlockPages
from savefmt.writing import clones

RAM = 24 * MIB
METADATA = 3 * MIB
"""What a file system may take for a file without data of its own."""


@pytest.fixture(params=CLONING, scope="module")
def cloning(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder on a file system that shares extents."""
    try:
        with mounted(request.param, tmp_path_factory.mktemp("disks")) as place:
            yield place
    except CannotMountError as error:
        pytest.skip(str(error))


@pytest.fixture
def folder(cloning: Path, tmp_path: Path) -> Iterator[Path]:
    """A folder of one test's own on it."""
    place = cloning / tmp_path.name
    place.mkdir()
    yield place
    for path in sorted(place.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def sparse_image(folder: Path, stale: int = 0, first_page: bytes = b"") -> Path:
    """Write a mapped-ram image: runs of pages and of holes, and `stale` pages under clear bits."""
    dice = random.Random(1)
    pages = RAM // PAGE_SIZE
    memory = bytearray(RAM)
    for first in range(0, pages, 64):
        count = dice.randint(1, 48)
        for number in range(first, first + count):
            memory[number * PAGE_SIZE : (number + 1) * PAGE_SIZE] = page(number)
    memory[: len(first_page)] = first_page
    path = folder / "image"
    data = make_stream(
        layout="mapped-ram",
        prefix=make_envelope(format=6, padding=8),
        blocks={"pc.ram": bytes(memory), "pc.bios": page(7) + bytes(PAGE_SIZE)},
    )
    with open(path, "wb") as file:  # as QEMU does: what is zero is a hole
        for at in range(0, len(data), PAGE_SIZE):
            piece = data[at : at + PAGE_SIZE]
            if any(piece):
                os.pwrite(file.fileno(), piece, at)
        file.truncate(len(data))
    with SaveImage(path) as image:
        block = image.mapped.pages[0]
        clear = [i for i in range(block.count) if not block.bitmap[i >> 3] >> (i & 7) & 1]
        places = [block.offset + i * PAGE_SIZE for i in dice.sample(clear, stale)]
    with open(path, "r+b") as file:
        for place in places:
            os.pwrite(file.fileno(), page(99), place)
        os.fsync(file.fileno())
    return path


def test_another_envelope_takes_metadata_only(folder: Path) -> None:
    source, target = sparse_image(folder), folder / "target"
    before = used(folder)

    report = savefmt.convert(source, target, save_version=3, verify=True)

    assert used(folder) - before < METADATA
    assert report.cloned_length == report.data_pages * PAGE_SIZE > RAM // 4  # type: ignore[operator]
    assert savefmt.compare(source, target).same


def test_stale_pages_stay_behind(folder: Path) -> None:
    source, target = sparse_image(folder, stale=40), folder / "target"

    report = savefmt.convert(source, target, save_version=3)

    assert report.cloned_length
    with SaveImage(target) as image:
        block = image.mapped.pages[0]
        raw = image.file.read(block.count * PAGE_SIZE, block.offset)
        assert raw == bytes(image.memory.read("pc.ram", 0, RAM))


def test_longer_xml_moves_the_stream_and_copies_nothing(folder: Path) -> None:
    source = sparse_image(folder)
    with SaveImage(source) as image:
        xml, digest = image.envelope.xml, image.memory.digest()  # type: ignore[union-attr]
    before = used(folder)

    report = set_xml(source, xml.replace(b"</domain>", b"<!--" + b"x" * 5000 + b"--></domain>"))

    assert report.moved
    assert used(folder) - before < METADATA
    with SaveImage(source) as image:
        assert image.memory.digest() == digest


@pytest.mark.parametrize(("codec", "padding"), [("raw", 8), ("zstd", 4321)])
def test_a_stream_in_order_is_not_copied_either(codec: str, padding: int, folder: Path) -> None:
    """The new XML gets so much padding that the stream lies on the same borders as before."""
    source = folder / "image"
    memory = b"".join(random.Random(2).randbytes(PAGE_SIZE) for _ in range(RAM // PAGE_SIZE))
    data = make_stream(blocks={"pc.ram": memory})
    envelope = make_envelope(format=FORMAT_NUMBERS[codec], padding=padding)
    source.write_bytes(envelope + (data if codec == "raw" else compress(codec, data)))
    with SaveImage(source) as image:
        xml, stored = image.envelope.xml, image.stored_offset  # type: ignore[union-attr]
    tail = source.read_bytes()[stored:]
    os.sync()
    before = used(folder)

    report = set_xml(source, xml.replace(b"</domain>", b"<!--" + b"x" * 5000 + b"--></domain>"))

    assert report.moved
    assert used(folder) - before < METADATA
    with SaveImage(source) as image:
        assert image.stored_offset > stored
        assert image.memory.read("pc.ram", 0, RAM) == memory
        assert source.read_bytes()[image.stored_offset :] == tail


def test_a_damaged_stream_is_not_shared_either(folder: Path) -> None:
    source = folder / "image"
    source.write_bytes(make_envelope(padding=8) + make_stream()[:-100])
    with SaveImage(source) as image:
        xml = image.envelope.xml  # type: ignore[union-attr]
    before = source.read_bytes()

    with pytest.raises(savefmt.SavefmtError):
        set_xml(source, xml.replace(b"</domain>", b"<!--" + b"x" * 5000 + b"--></domain>"))
    assert source.read_bytes() == before
    assert list(folder.iterdir()) == [source]


@pytest.mark.parametrize("form", ["raw", "elf", "blocks"])
def test_exports_take_metadata_only(form: str, folder: Path) -> None:
    source, target, copied = sparse_image(folder, stale=9), folder / "target", folder / "copied"
    before = used(folder)

    report = savefmt.export(source, target, format=form)
    after = used(folder)
    other = savefmt.export(source, copied, format=form, io=IOOptions(clone=False))

    assert after - before < METADATA
    assert report.cloned_length == report.data_pages * PAGE_SIZE > RAM // 4  # type: ignore[operator]
    assert other.cloned_length == 0
    assert contents(target) == contents(copied)


def test_vmcoreinfo_is_found_in_pages_that_are_not_copied(folder: Path) -> None:
    text = b"OSRELEASE=6.1\n"
    note = struct.pack("<III", 11, len(text), 0) + b"VMCOREINFO\0\0" + text
    source, target = sparse_image(folder, first_page=note.ljust(PAGE_SIZE, b"\0")), folder / "core"

    report = savefmt.export(source, target)

    assert report.cloned_length
    assert report.vmcoreinfo == "memory"
    assert text in target.read_bytes()[: 4 * PAGE_SIZE]


def test_lime_has_no_page_on_a_border(folder: Path) -> None:
    report = savefmt.export(sparse_image(folder), folder / "target", format="lime")

    assert report.cloned_length == 0


def contents(path: Path) -> dict[str, bytes]:
    """Return what a file or the files of a folder hold."""
    paths = sorted(path.iterdir()) if path.is_dir() else [path]
    return {item.name if path.is_dir() else "": item.read_bytes() for item in paths}


def test_cloning_can_be_forbidden(folder: Path) -> None:
    source, target = sparse_image(folder), folder / "target"
    before = used(folder)

    report = savefmt.convert(source, target, save_version=3, io=IOOptions(clone=False))

    assert report.cloned_length == 0
    assert used(folder) - before > RAM // 4
    assert savefmt.compare(source, target).same


def test_another_file_system_is_copied_to(folder: Path, tmp_path: Path) -> None:
    source, target = sparse_image(folder), tmp_path / "target"

    report = savefmt.convert(source, target, save_version=3, verify=True)

    assert report.cloned_length == 0
    assert savefmt.compare(source, target).same


# Anywhere.


def on_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that files lie on a server that copies by itself, and that nothing is cloned."""

    def refuse(*arguments: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no clones")

    monkeypatch.setattr(clones, "_clone", refuse)
    monkeypatch.setattr(clones, "_file_system", lambda fd: "nfs4")


def test_a_server_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_server(monkeypatch)
    source, target = sparse_image(tmp_path, stale=9), tmp_path / "target"
    copied = 0
    copy = os.copy_file_range

    def count(*arguments: Any) -> int:
        nonlocal copied
        done = copy(*arguments)
        copied += done
        return done

    monkeypatch.setattr(os, "copy_file_range", count)
    report = savefmt.convert(source, target, save_version=3, verify=True)

    assert report.cloned_length == copied > 0
    assert savefmt.compare(source, target).same


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EINVAL, errno.EPERM, None])
def test_a_server_that_cannot_leaves_it_to_the_engine(
    code: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_server(monkeypatch)
    source, target = sparse_image(tmp_path), tmp_path / "target"

    def fail(*arguments: object) -> int:
        if code is None:
            return 0  # the end of the file, as some kernels say where they cannot
        raise OSError(code, "no copies")

    monkeypatch.setattr(os, "copy_file_range", fail)
    report = savefmt.convert(source, target, save_version=3, verify=True)

    assert report.cloned_length == 0
    assert savefmt.compare(source, target).same


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(clones, "_clone", full)
    source, target = sparse_image(tmp_path), tmp_path / "target"

    with pytest.raises(ImageIOError, match="No space left") as caught:
        savefmt.convert(source, target, layout=Layout.MAPPED_RAM, save_version=3)

    assert caught.value.errno == errno.ENOSPC
    assert sorted(os.listdir(tmp_path)) == ["image"]


@pytest.mark.parametrize("shift", [512, PAGE_SIZE])
def test_pages_off_the_borders_of_blocks_are_not_tried(
    shift: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []
    monkeypatch.setattr(clones, "_clone", lambda *arguments: tried.append(arguments))
    path = tmp_path / "source"
    path.write_bytes(page(1) * 2)
    block = BlockPages(b"pc.ram", 1, PAGE_SIZE, 0, bytearray([1, 0, 0, 0, 0, 0, 0, 0]))

    with (
        open(path, "rb") as source,
        open(tmp_path / "target", "w+b") as target,
        File(source.fileno(), path=path) as one,
        File(target.fileno(), path=path, write=True) as other,
    ):
        moved = clones.place_pages(one, [block], other, [shift], IOOptions(), lambda _: None)

    assert bool(tried) == (shift == PAGE_SIZE)
    assert moved.cloned == (PAGE_SIZE if tried else 0)


@pytest.mark.parametrize(("first", "end"), [(0, 1), (3, 8), (7, 9), (0, 64), (5, 61), (15, 16)])
def test_bits_are_set_as_by_hand(first: int, end: int) -> None:
    mask = bytearray(8)

    set_bits(mask, first, end)

    assert int.from_bytes(mask, "little") == sum(1 << i for i in range(first, end))


@pytest.mark.parametrize("shift", [1 << 20, 12345])
def test_part_of_a_file_is_copied(shift: int, folder: Path) -> None:
    """Its offsets are not those of the file."""
    plain, target = sparse_image(folder), folder / "target"
    with open(folder / "archive", "wb") as file:
        file.write(b"\xa5" * shift + plain.read_bytes())

    report = savefmt.convert(savefmt.Source(folder / "archive", offset=shift), target)

    assert report.cloned_length == 0
    assert savefmt.compare(plain, target).same
