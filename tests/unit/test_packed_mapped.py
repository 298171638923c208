"""A mapped-ram image that somebody compressed as a whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from builder import MIB, make_envelope, make_stream, page
from oracle import compress

import savefmt
from savefmt import CheckLevel, ConversionError, ImageIOError, Layout, SavefmtError
from savefmt.edit import set_xml
from savefmt.instant.backends import mappable
from savefmt.reading import spool as spool_module

BLOCKS = {"pc.ram": page(1) + bytes(8192) + page(2), "vga.vram": page(3)}
ENVELOPE = make_envelope(format=6)
PLAIN = {
    "bare": make_stream(layout="mapped-ram", blocks=BLOCKS),
    "envelope": make_stream(layout="mapped-ram", blocks=BLOCKS, prefix=ENVELOPE),
}


@pytest.fixture(params=[(kind, codec) for kind in PLAIN for codec in ("gzip", "zstd", "xz")])
def packed(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path, str]:
    """The image, the same uncompressed, and the codec."""
    kind, codec = request.param
    path, plain = tmp_path / "packed", tmp_path / "plain"
    plain.write_bytes(PLAIN[kind])
    path.write_bytes(compress(codec, PLAIN[kind]))
    return path, plain, codec


def test_it_is_read_like_any_other(packed: tuple[Path, Path, str], tmp_path: Path) -> None:
    path, plain, codec = packed
    with savefmt.open(path) as image, savefmt.open(plain) as other:
        assert image.layout is Layout.MAPPED_RAM
        for name, content in BLOCKS.items():
            assert image.memory.read(name, 0, len(content)) == content
        assert image.memory.digest() == other.memory.digest()
        assert list(image.extents()) == list(other.extents())
    assert savefmt.compare(path, plain).same
    told, expected = savefmt.check(path, level=CheckLevel.FULL), savefmt.check(plain)
    assert told.ok == expected.ok
    summary = savefmt.probe(path)
    assert (summary.outer, summary.layout) == (codec, Layout.MAPPED_RAM)
    assert summary.saved == pytest.approx(os.stat(path).st_mtime, rel=1e-12)
    for layout in Layout:
        savefmt.convert(path, tmp_path / layout, layout=layout, codec="raw", verify=True)
        assert savefmt.compare(tmp_path / layout, plain).same


def test_it_is_not_changed_where_it_stands(packed: tuple[Path, Path, str]) -> None:
    path, plain, codec = packed
    content = path.read_bytes()
    with savefmt.open(path) as image, pytest.raises(ConversionError, match="QEMU cannot map"):
        mappable(image)
    if "Libvirt" in plain.read_bytes()[:7].decode(errors="replace"):
        with pytest.raises(ConversionError, match=f"compressed with {codec}"):
            set_xml(path, None, running=True)
    with pytest.raises(ConversionError, match="the source itself; --force"):
        savefmt.convert(path, path)
    assert path.read_bytes() == content

    savefmt.convert(path, path, overwrite=True)

    assert savefmt.compare(path, plain).same
    assert savefmt.probe(path).outer == "raw"


def test_a_damaged_one(packed: tuple[Path, Path, str]) -> None:
    path, _, _ = packed
    content = path.read_bytes()
    for cut in (len(content) // 2, len(content) - 1):
        path.write_bytes(content[:cut])
        with pytest.raises(SavefmtError):
            savefmt.open(path)


def test_no_room_to_unpack_it(
    packed: tuple[Path, Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: str, needed: int) -> None:
        raise ImageIOError("unpacking takes more than there is", errno=28, path=folder)

    monkeypatch.setattr(spool_module, "refuse_without_room", full)
    with pytest.raises(ImageIOError, match="unpacking takes"):
        savefmt.open(packed[0])


def test_behind_its_envelope_its_offsets_cannot_hold(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(make_envelope(format=5) + compress("zstd", PLAIN["bare"]))
    with pytest.raises(SavefmtError):
        savefmt.open(path)


def test_a_bomb_is_not_taken_for_memory(tmp_path: Path) -> None:
    """What unpacks to zeros takes no room."""
    path = tmp_path / "image"
    path.write_bytes(compress("zstd", PLAIN["bare"] + bytes(64 * MIB)))
    with savefmt.open(path) as image:
        assert image.file.status.st_blocks * 512 < 2 * MIB
        assert image.memory.read("pc.ram", 0, 4096) == page(1)
