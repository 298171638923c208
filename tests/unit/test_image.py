"""Opening an image: what it is, for any form, and what is wrong with it."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from builder import (
    DEFAULT_BLOCKS,
    DEFAULT_DEVICES,
    MIB,
    PAGE_SIZE,
    VIRTIO_MEM_EARLY,
    make_envelope,
    make_stream,
    page,
)
from oracle import CODECS, compress, hold

import savefmt
from savefmt import (
    ClosedImageError,
    CorruptError,
    ImageIOError,
    IncompleteImageError,
    Layout,
    MapExtent,
    NotASaveImageError,
    RamBlock,
    SavefmtError,
    SaveImage,
    TruncatedError,
    UnsupportedError,
)

COOKIE = b"<cookie/>"


def put(folder: Path, data: bytes) -> Path:
    path = folder / "image"
    path.write_bytes(data)
    return path


def open_bytes(folder: Path, data: bytes, **options: Any) -> SaveImage:
    return savefmt.open(put(folder, data), **options)


@pytest.mark.parametrize("codec", CODECS)
def test_a_sequential_image(codec: str, tmp_path: Path) -> None:
    prefix = make_envelope(format=CODECS.index(codec), cookie=COOKIE)
    data = prefix + compress(codec, make_stream(uuid=bytes(range(16))))

    with open_bytes(tmp_path, data) as image:
        assert image.layout is Layout.SEQUENTIAL
        assert image.codec == codec
        assert image.machine == "pc-q35-10.0"
        assert image.capabilities == frozenset()
        assert image.page_size == PAGE_SIZE
        assert image.stream_offset == len(prefix)
        assert not image.mislabelled
        assert image.envelope is not None
        assert image.envelope.cookie == COOKIE
        assert image.domain is not None
        assert image.domain.name == "tiny"
        assert list(image.blocks) == list(DEFAULT_BLOCKS)
        assert image.blocks["pc.ram"] == RamBlock("pc.ram", 8 * PAGE_SIZE, PAGE_SIZE)
        if codec == "raw":
            assert image.sections is not None
            assert [section.idstr for section in image.sections] == [
                device.idstr for device in DEFAULT_DEVICES
            ]
        else:
            assert image.sections is None


def test_a_mapped_image(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "prefix": make_envelope(format=6),
        "early": [VIRTIO_MEM_EARLY],
        "parts": 2,
    }
    data = make_stream(layout="mapped-ram", **options)

    with open_bytes(tmp_path, data) as image:
        assert image.layout is Layout.MAPPED_RAM
        assert image.capabilities == {"mapped-ram"}
        assert image.blocks["pc.ram"] == RamBlock("pc.ram", 8 * PAGE_SIZE, PAGE_SIZE, 3, 5)
        assert image.sections is not None
        assert [
            (section.idstr, section.version, section.offset, section.length)
            for section in image.sections
        ] == [
            (device.idstr, device.version, device.offset, len(device.payload))
            for device in hold(image.path).image.devices
        ]
        end = b"\3" + image.mapped.ram.section_id.to_bytes(4, "big")
        assert image.mapped.last_part == data.index(end) + len(end)


def test_the_layout_is_what_the_stream_says(tmp_path: Path) -> None:
    with open_bytes(tmp_path, make_envelope(format=6) + make_stream()) as image:
        assert image.layout is Layout.SEQUENTIAL
        assert image.mislabelled
    mapped = make_stream(layout="mapped-ram", prefix=make_envelope())
    with open_bytes(tmp_path, mapped) as image:
        assert image.layout is Layout.MAPPED_RAM
        assert image.mislabelled


def test_a_sequential_image_has_no_page_areas(tmp_path: Path) -> None:
    with (
        open_bytes(tmp_path, make_stream()) as image,
        pytest.raises(UnsupportedError, match="no page areas"),
    ):
        _ = image.mapped


def test_probe_tells_all(tmp_path: Path) -> None:
    data = make_stream(
        layout="mapped-ram",
        prefix=make_envelope(format=6, cookie=COOKIE, was_running=0),
        uuid=bytes(range(16)),
    )

    summary = savefmt.probe(put(tmp_path, data))

    assert summary.state == "finished"
    assert summary.envelope is not None
    assert not summary.envelope.was_running
    assert summary.envelope.format_name == "sparse"
    assert summary.envelope.cookie_length == len(COOKIE)
    assert (summary.domain_name, summary.domain_type) == ("tiny", "qemu")
    assert summary.uuid == "00010203-0405-0607-0809-0a0b0c0d0e0f"
    assert summary.logical_length == len(data)
    assert sum(block.present or 0 for block in summary.blocks) == 5


@pytest.mark.parametrize("codec", ["raw", "zstd"])
def test_probe_counts_pages_on_request(codec: str, tmp_path: Path) -> None:
    path = put(tmp_path, compress(codec, make_stream()))

    assert savefmt.probe(path).blocks[0].present is None
    counted = savefmt.probe(path, pages=True).blocks
    assert [(block.present, block.zero) for block in counted] == [(3, 5), (1, 1), (1, 0)]


def test_probe_describes_the_unfinished_too(tmp_path: Path) -> None:
    path = put(tmp_path, make_envelope(magic=b"LibvirtQemudPart") + make_stream())

    assert savefmt.probe(path).state == "incomplete"
    with pytest.raises(IncompleteImageError):
        savefmt.open(path)


def test_probe_names_the_damaged_file(tmp_path: Path) -> None:
    data = make_stream(layout="mapped-ram")
    path = put(tmp_path, data.replace(b"\x04cpu", b"\x04CPU").replace(b"cpu_common", b"CPU_common"))
    broken = put(tmp_path, path.read_bytes().replace(b"\x7e\0\0\0\x0b", b"\x7e\0\0\1\x0b"))

    with pytest.raises(SavefmtError) as caught:
        savefmt.probe(broken)
    assert caught.value.path == broken


# What cannot be opened.


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (b"", NotASaveImageError, "the file is empty"),
        (b"no image" + bytes(100), NotASaveImageError, "neither a libvirt save image nor"),
        (b"Q", NotASaveImageError, "neither"),
        (b"QEVM", TruncatedError, "stream header"),
        (b"QEVM\0\0\0\4" + bytes(20), NotASaveImageError, "stream version 4"),
        (make_stream()[:60], TruncatedError, "ends inside"),
        (b"LibvirtQemudSave", TruncatedError, "libvirt header"),
        (make_envelope()[:-1], TruncatedError, "domain XML"),
        (make_envelope(), TruncatedError, "before the stream begins"),
        (make_envelope() + b"no stream", CorruptError, "no stream begins behind the"),
        (make_envelope(format=5) + make_stream(), CorruptError, "says zstd, but .* sequential"),
        (make_envelope() + compress("xz", make_stream()), CorruptError, "compressed with xz"),
        (compress("gzip", b"no stream"), NotASaveImageError, "magic is missing"),
    ],
)
def test_what_cannot_be_opened(
    data: bytes, kind: type[SavefmtError], message: str, tmp_path: Path
) -> None:
    path = put(tmp_path, data)

    with pytest.raises(kind, match=message) as caught:
        savefmt.open(path)

    assert caught.value.path == path


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ImageIOError, match="No such file") as caught:
        savefmt.open(tmp_path / "missing")
    assert caught.value.path == tmp_path / "missing"


def test_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")

    for path in (tmp_path, tmp_path / "fifo", Path("/dev/null")):
        with pytest.raises(UnsupportedError, match="neither a regular file nor a block device"):
            savefmt.open(path)


def test_an_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path, make_stream())

    def refuse(*args: object, **options: object) -> int:  # root may read everything
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(os, "open", refuse)

    with pytest.raises(ImageIOError, match="Permission denied") as caught:
        savefmt.open(path)
    assert caught.value.path == path
    assert caught.value.errno == errno.EACCES


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = count()
    for data in (make_stream(), make_stream()[:60], make_stream(layout="mapped-ram")):
        path = put(tmp_path, data)
        for io in (savefmt.IOOptions(), savefmt.IOOptions(direct=True)):
            try:
                with savefmt.open(path, io=io) as image:
                    image.memory.digest()
            except TruncatedError:
                pass
    assert count() == before


def test_use_after_close(tmp_path: Path) -> None:
    for layout in Layout:
        image = open_bytes(tmp_path, make_stream(layout=layout))
        image.close()
        image.close()

        for use in (lambda: image.file, lambda: image.memory.digest()):  # noqa: B023
            with pytest.raises(ClosedImageError):
                use()
        assert image.machine == "pc-q35-10.0"


# Extents.


def test_extents_of_a_mapped_image(tmp_path: Path) -> None:
    data = make_stream(layout="mapped-ram")
    with open_bytes(tmp_path, data) as image:
        extents = [extent for extent in image.extents() if extent.block == "pc.ram"]

    place = hold(tmp_path / "image").image.blocks["pc.ram"].pages_offset
    assert place is not None
    size = PAGE_SIZE
    assert extents == [
        MapExtent("pc.ram", 0, size, "data", place, size),
        MapExtent("pc.ram", size, size, "zero", None, None),
        MapExtent("pc.ram", 2 * size, 2 * size, "data", place + 2 * size, size),
        MapExtent("pc.ram", 4 * size, 4 * size, "zero", None, None),
    ]


@pytest.mark.parametrize("codec", ["raw", "gzip"])
def test_extents_of_a_sequential_image(codec: str, tmp_path: Path) -> None:
    blocks = {"a": page(1) + page(2) + page(3) + bytes(2 * PAGE_SIZE), "b": page(4)}
    data = make_stream(blocks=blocks)
    with open_bytes(tmp_path, compress(codec, data)) as image:
        extents = list(image.extents())

    assert [(e.block, e.start, e.length, e.kind) for e in extents if e.kind == "zero"] == [
        ("a", 3 * PAGE_SIZE, 2 * PAGE_SIZE, "zero")
    ]
    found = bytearray(3 * PAGE_SIZE)
    for extent in extents:
        if extent.kind != "data":
            continue
        if codec != "raw":
            assert extent.offset is None
            continue
        assert extent.offset is not None
        assert extent.stride is not None
        for i in range(extent.length // PAGE_SIZE):
            at = extent.offset + i * extent.stride
            content = data[at : at + PAGE_SIZE]
            start = extent.start + i * PAGE_SIZE
            assert content == blocks[extent.block][start : start + PAGE_SIZE]
            if extent.block == "a":
                found[start : start + PAGE_SIZE] = content
    if codec == "raw":
        assert found == blocks["a"][: 3 * PAGE_SIZE]


def test_extents_of_pages_that_never_came(tmp_path: Path) -> None:
    blocks = {"a": bytes(2 * PAGE_SIZE)}
    with open_bytes(tmp_path, make_stream(blocks=blocks, rounds=[[]])) as image:
        assert list(image.extents()) == [MapExtent("a", 0, 2 * PAGE_SIZE, "absent", None, None)]


def test_big_endian_bitmaps_are_told_by_holes(tmp_path: Path) -> None:
    blocks = {"ram": page(1) * 64 + bytes(MIB * 8 - 64 * PAGE_SIZE)}
    path = put(tmp_path, make_stream(layout="mapped-ram", bitmap_order="big", blocks=blocks))
    place = hold(path, bitmap_order="big").image.blocks["ram"].pages_offset
    assert place is not None

    with savefmt.open(path) as image:
        assert image.mapped.byte_order == "little"  # whole words look alike
    blocks = {"ram": page(1) * 3 + bytes(MIB * 8 - 3 * PAGE_SIZE)}
    put(tmp_path, make_stream(layout="mapped-ram", bitmap_order="big", blocks=blocks))
    with savefmt.open(path) as image:
        assert image.mapped.byte_order == "big"
