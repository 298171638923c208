"""Memory that an image leaves out, and that lies in a file of its own (x-ignore-shared)."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import pytest
from builder import Record, all_records, make_envelope, make_stream, page
from oracle import compress
from qcow2disk import Disk

import savefmt
from savefmt import (
    CheckLevel,
    ConversionError,
    ImageChangedError,
    ImageIOError,
    Layout,
    SavefmtError,
    Source,
    UnsupportedError,
)
from savefmt.cli.main import main

RAM = b"".join(page(number) + bytes(4096) for number in range(80))
NVDIMM = b"".join(page(1000 + number) for number in range(24))
BIOS = page(900) + bytes(4096) + page(901)
BLOCKS = {"pc.ram": RAM, "pc.bios": BIOS, "nv": NVDIMM}
PLACES = {"pc.ram": 0, "pc.bios": 0xFFFFD000, "nv": 1 << 32}
SENT: list[list[Record]] = [all_records({"pc.bios": BIOS})]
SEQUENTIAL = make_stream(blocks=BLOCKS, guest_addresses=PLACES, rounds=SENT)
MAPPED = make_stream(
    layout="mapped-ram",
    blocks=BLOCKS,
    guest_addresses=PLACES,
    ignored=frozenset({"pc.ram", "nv"}),
)
FORMS = {
    "sequential": SEQUENTIAL,
    "envelope": make_envelope() + SEQUENTIAL,
    "big-endian": make_envelope(order="big") + SEQUENTIAL,
    "zstd": make_envelope(format=5) + compress("zstd", SEQUENTIAL),
    "outer": compress("gzip", make_envelope() + SEQUENTIAL),
    "mapped": MAPPED,
    "mapped, offset": b"\x5a" * 65536 + MAPPED,
}


@pytest.fixture(params=FORMS)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    """An image without its memory, in any form, together with that."""
    (tmp_path / "image").write_bytes(FORMS[request.param])
    (tmp_path / "ram").write_bytes(RAM)
    (tmp_path / "nv").write_bytes(NVDIMM + b"more that is none of ours")
    shared = (("pc.ram", tmp_path / "ram"), ("nv", tmp_path / "nv"))
    offset = 65536 if "offset" in request.param else 0
    return Source(tmp_path / "image", offset=offset, shared=shared)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """The same guest, saved whole."""
    path = tmp_path / "whole"
    path.write_bytes(make_stream(blocks=BLOCKS))
    return path


def test_it_is_one_guest(source: Source, whole: Path, tmp_path: Path) -> None:
    with savefmt.open(source) as image, savefmt.open(whole) as other:
        for name, content in BLOCKS.items():
            assert image.memory.read(name, 0, len(content)) == content
            assert image.memory.view(name, 0, 4096) == content[:4096]
        assert image.memory.digest() == other.memory.digest()
        assert image.memory.left_out == ()
        assert not image.mislabelled
        assert {e.kind for e in image.extents()} == {"data", "zero"}
    assert savefmt.compare(source, whole).same
    assert savefmt.check(source, level=CheckLevel.FULL).ok
    for layout in Layout:
        savefmt.convert(source, tmp_path / layout, layout=layout, verify=True)
        with savefmt.open(tmp_path / layout) as image:
            assert "x-ignore-shared" not in image.capabilities
        assert savefmt.compare(tmp_path / layout, whole).same
    summary = savefmt.probe(source)
    assert summary.shared == ("pc.ram", "nv")
    assert summary.saved == pytest.approx(os.stat(source).st_mtime)


@pytest.mark.parametrize("form", [SEQUENTIAL, MAPPED], ids=["sequential", "mapped"])
@pytest.mark.parametrize("packed", ["", "deflate"])
def test_a_snapshot_in_a_disk_is_filled_in(
    form: bytes, packed: str, whole: Path, tmp_path: Path
) -> None:
    disk, ram, nv = (str(tmp_path / name) for name in ("disk", "ram", "nv"))
    Path(disk).write_bytes(Disk(packed=packed, shuffle=True).build({"one": form}))
    Path(ram).write_bytes(RAM)
    Path(nv).write_bytes(NVDIMM)
    source = Source(disk, "one", shared=(("pc.ram", ram), ("nv", nv)))
    with savefmt.open(source) as image:
        for name, content in BLOCKS.items():
            assert image.memory.read(name, 0, len(content)) == content
        assert image.memory.left_out == ()
    assert savefmt.compare(source, whole).same
    savefmt.convert(source, tmp_path / "out", layout=Layout.MAPPED_RAM, verify=True)
    assert savefmt.compare(tmp_path / "out", whole).same
    words = ("--snapshot", "one", "--shared", f"pc.ram={ram}", "--shared", f"nv={nv}")
    assert main(["compare", "-q", str(whole), str(whole), *words]) == 2  # no disk
    assert main(["hash", disk, *words]) == 0
    summary = savefmt.probe(source)
    assert summary.shared == ("pc.ram", "nv")
    assert summary.snapshot is not None


def test_what_is_still_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "ram").write_bytes(RAM)
    for number, form in enumerate((SEQUENTIAL, MAPPED)):
        path = tmp_path / f"image{number}"
        path.write_bytes(form)
        with savefmt.open(path, shared={"pc.ram": tmp_path / "ram"}) as image:
            assert image.memory.read("pc.ram", 0, len(RAM)) == RAM
            assert image.memory.left_out == ("nv",)
            with pytest.raises(UnsupportedError, match="--shared nv=FILE"):
                image.memory.read("nv", 0, 1)
            assert image.blocks["nv"].ignored
            assert "x-ignore-shared" in image.capabilities


def test_what_is_refused(source: Source, tmp_path: Path) -> None:
    def with_file(block: str, path: Path) -> Source:
        return Source(source.path, offset=source.offset, shared=((block, path),))

    for block, path, match in (
        ("pc.bios", tmp_path / "ram", "image itself holds .*'pc.bios'.*: nv, pc.ram"),
        ("none", tmp_path / "ram", "no RAM block 'none'"),
        ("pc.ram", tmp_path / "nv", "98329 bytes, and the RAM block 'pc.ram' has 655360"),
    ):
        with pytest.raises(ConversionError, match=match):
            savefmt.open(with_file(block, path))
    with pytest.raises(ConversionError, match="neither a regular file"):
        savefmt.open(with_file("pc.ram", Path("/dev/null")))
    with pytest.raises(ImageIOError, match="No such file"):
        savefmt.open(with_file("pc.ram", tmp_path / "none"))
    with pytest.raises(ValueError, match="named twice"):
        Source("image", shared=(("a", "b"), ("a", "c")))
    with pytest.raises(ConversionError, match="image is part of"):
        savefmt.convert(source, source.path, overwrite=True)


def test_memory_that_is_cut_short_meanwhile(source: Source) -> None:
    """The image is named, not the folder of a temporary file."""
    _, ram = next(item for item in source.shared if item[0] == "pc.ram")
    with savefmt.open(source) as image:
        os.truncate(ram, 4096)
        with pytest.raises(SavefmtError, match="became shorter") as caught:
            image.memory.read("pc.ram", 0, len(RAM))
    assert os.fspath(caught.value.path or "") == os.fspath(source.path)


def test_memory_that_changes_meanwhile(source: Source, tmp_path: Path) -> None:
    with savefmt.open(source) as image:
        os.utime(tmp_path / "ram", (1, 1))
        with pytest.raises(ImageChangedError, match="ram"):
            image.memory.digest()


def test_an_image_that_keeps_all_of_its_memory(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "ram").write_bytes(RAM)
    with pytest.raises(ConversionError, match="nothing was"):
        savefmt.open(whole, shared={"pc.ram": tmp_path / "ram"})


def said(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Run a command; return what it prints."""
    with contextlib.suppress(SystemExit):
        main([str(word) for word in words])
    printed = capsys.readouterr()
    return printed.out + printed.err


@pytest.mark.parametrize(
    "words",
    [
        ("hash", "IMAGE"),
        ("strings", "IMAGE"),
        ("search", "--hex", "00112233445566778899", "IMAGE"),
        ("os", "IMAGE"),
        ("stats", "IMAGE"),
        ("compare", "IMAGE", "IMAGE"),
        ("convert", "IMAGE", "TARGET"),
        ("read", "--block", "pc.ram", "IMAGE", "0", "1"),
        ("linux", "IMAGE"),
    ],
    ids=lambda words: words[0],
)
def test_each_command_names_what_is_missing(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "image").write_bytes(SEQUENTIAL)
    (tmp_path / "ram").write_bytes(RAM)
    (tmp_path / "nv").write_bytes(NVDIMM)
    names = {"IMAGE": str(tmp_path / "image"), "TARGET": str(tmp_path / "target")}
    command = [names.get(word, word) for word in words]

    text = said(capsys, *command)
    assert "left out" in text or "--shared pc.ram=FILE" in text
    shared = [f"--shared=pc.ram={tmp_path}/ram", f"--shared=nv={tmp_path}/nv"]
    if words[0] == "convert":
        shared.append("--force")
    assert "left out" not in said(capsys, *command, *shared)


def test_info_tells_what_was_filled_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "image").write_bytes(SEQUENTIAL)
    (tmp_path / "ram").write_bytes(RAM)
    shared = f"--shared=pc.ram={tmp_path}/ram"

    told = json.loads(said(capsys, "info", "-j", tmp_path / "image", shared))
    assert told["images"][0]["shared"] == ["pc.ram"]
    assert "filled in:" in said(capsys, "info", tmp_path / "image", shared)
    for wrong in ("pc.ram", "=file", "pc.ram="):
        assert "BLOCK=FILE" in said(capsys, "info", tmp_path / "image", f"--shared={wrong}")
    assert "twice" in said(capsys, "info", tmp_path / "image", shared, shared)
