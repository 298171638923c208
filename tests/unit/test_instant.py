"""Thin streams and their marks, changes to a domain XML, and images in use."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from builder import MIB, PAGE_SIZE, make_envelope, make_stream, page
from hypothesis import given
from hypothesis import strategies as st

import savefmt
from savefmt import ConversionError, CorruptError, IOOptions, Layout
from savefmt.format.domain import check_document, read_elements
from savefmt.format.thin import ThinMark
from savefmt.format.vmstate import Description
from savefmt.image import SaveImage
from savefmt.instant import clone_for_libvirt, mappable
from savefmt.instant.domainedit import with_arguments, with_texts, without_arguments
from savefmt.instant.thinstream import thin_stream
from savefmt.native.allocated import stale_runs
from savefmt.native.file import File
from savefmt.native.pages import BlockPages
from savefmt.writing.inuse import note_thin, refuse_in_use

IO = IOOptions(threads=1)
MEMORY = page(1) + bytes(PAGE_SIZE) + page(3) + bytes(MIB)
BLOCKS = {"pc.ram": MEMORY, "pc.bios": page(9) + bytes(PAGE_SIZE), "a/vga.vram": page(5)}


def sparse(folder: Path, blocks: dict[str, bytes] = BLOCKS, **options: Any) -> Path:
    """Write a mapped-ram image of libvirt's."""
    path = folder / "base"
    prefix = make_envelope(format=6)
    path.write_bytes(make_stream(layout="mapped-ram", prefix=prefix, blocks=blocks, **options))
    return path


def spoil(path: Path, *pages: int) -> None:
    """Write bytes under clear bits of the main memory."""
    with SaveImage(path) as image:
        offset = image.mapped.pages[0].offset
    with open(path, "r+b") as file:
        for number in pages:
            os.pwrite(file.fileno(), page(77), offset + number * PAGE_SIZE)


# The stream.


def thin(image: SaveImage, **options: Any) -> bytes:
    return b"".join(bytes(piece) for piece in thin_stream(image, {"pc.ram"}, IO, **options))


def test_only_stale_pages_of_a_mapped_block_have_records(tmp_path: Path) -> None:
    path = sparse(tmp_path)
    spoil(path, 1, 7, 8)
    stream = tmp_path / "thin"

    with SaveImage(path) as image:
        stream.write_bytes(thin(image))
        whole = image.memory.read("pc.bios", 0, 2 * PAGE_SIZE)

    with SaveImage(stream) as image:
        assert image.layout is Layout.SEQUENTIAL
        assert "mapped-ram" not in image.capabilities
        kinds = {
            extent.start // PAGE_SIZE: extent.kind
            for extent in image.extents()
            if extent.block == "pc.ram"
        }
        assert kinds == {0: "absent", 1: "zero", 2: "absent", 7: "zero", 9: "absent"}
        assert image.memory.read("pc.bios", 0, 2 * PAGE_SIZE) == whole
    assert savefmt.check(stream).ok


@given(
    pages=st.lists(st.booleans(), min_size=1, max_size=600),
    bits=st.lists(st.booleans(), min_size=600, max_size=600),
)
def test_stale_runs_are_those_of_the_slow_way(pages: list[bool], bits: list[bool]) -> None:
    bitmap = bytearray(80)
    for i, here in enumerate(bits[: len(pages)]):
        bitmap[i >> 3] |= here << (i & 7)
    with tempfile.TemporaryFile() as file:
        for i, stored in enumerate(pages):
            if stored:
                os.pwrite(file.fileno(), page(i), i * PAGE_SIZE)
        file.truncate(len(pages) * PAGE_SIZE)
        with File(file.fileno(), path="x") as opened:
            block = BlockPages(b"pc.ram", len(pages), PAGE_SIZE, 0, bitmap)
            runs = list(stale_runs(opened, block))

    found = {i for run in runs for i in range(run.first, run.first + run.count)}
    assert found == {i for i, stored in enumerate(pages) if stored and not bits[i]}


# The mark.

MARK = ThinMark("/some/where", 1, 2, 3, "abc", (("x", "y"),))


@pytest.mark.parametrize("text", [None, b"{}", b'{"devices": []}', b' { "page_size": 4096}'])
def test_a_mark_is_read_back(text: bytes | None) -> None:
    description = None if text is None else Description.parse(text.lstrip(), 5)

    marked = MARK.put_into(description)

    assert ThinMark.find(marked) == MARK
    assert ThinMark.find(description) is None
    assert json.loads(marked.raw).keys() >= (json.loads(text).keys() if text else set())


@pytest.mark.parametrize(
    "change",
    [
        {"path": "relative"},
        {"path": "/nul\0"},
        {"path": 1},
        {"length": "1"},
        {"modified": True},
        {"digest": None},
        {"blocks": {}},
        {"blocks": [["a"]]},
        {"blocks": [["a", 1]]},
        {"blocks": [["a", "b"]] * 5000},
    ],
    ids=str,
)
def test_a_mark_without_sense_is_refused(change: dict[str, Any]) -> None:
    value = json.loads(MARK.put_into(None).raw)
    value["savefmt-thin"].update(change)

    with pytest.raises(CorruptError, match="no sense"):
        ThinMark.find(Description.parse(json.dumps(value).encode(), 0))


def test_a_mark_that_is_no_object_is_refused() -> None:
    with pytest.raises(CorruptError, match="no sense"):
        ThinMark.find(Description.parse(b'{"savefmt-thin": 7}', 0))


def test_thin_images_do_not_stand_on_one_another(tmp_path: Path) -> None:
    (guest,) = clone_for_libvirt(sparse(tmp_path), tmp_path / "one", name="a").guests
    with SaveImage(guest.image) as image:
        assert image.mark is not None
        text = Path(guest.image).read_bytes()
    old = json.dumps(image.mark.path).encode()
    assert old in text
    looped = tmp_path / "one" / "b.save"
    new = json.dumps(guest.image).encode()
    data = text.replace(old, new)
    at = data.rindex(b'{"savefmt-thin"')
    length = int.from_bytes(text[text.rindex(b'{"savefmt-thin"') - 4 :][:4], "big")
    grown = length + len(new) - len(old)
    looped.write_bytes(data[: at - 4] + grown.to_bytes(4, "big") + data[at:])

    with pytest.raises(ConversionError, match="not a mapped-ram image"):
        SaveImage(looped)


def test_a_thin_image_of_a_thin_one_has_the_same_base(tmp_path: Path) -> None:
    (first,) = clone_for_libvirt(sparse(tmp_path), tmp_path / "one", name="a").guests
    (second,) = clone_for_libvirt(first.image, tmp_path / "two", name="b").guests

    with SaveImage(second.image) as image:
        assert image.mark is not None
        assert image.mark.path == str(tmp_path / "base")
        assert image.memory.read("pc.ram", 0, 3 * PAGE_SIZE) == MEMORY[: 3 * PAGE_SIZE]


# What can be mapped.


def test_devices_and_small_blocks_are_not_mapped(tmp_path: Path) -> None:
    blocks = {
        name: page(1) + bytes(2 * MIB)
        for name in ("pc.ram", "ram-node0", "memdimm0", "memnvdimm0", "vga.vram", "a/b", "pc.rom")
    }
    with SaveImage(sparse(tmp_path, blocks | {"tiny": page(1)})) as image:
        assert {block.idstr for block in mappable(image)} == {"pc.ram", "ram-node0", "memdimm0"}


def test_libvirt_s_clones_map_main_memory_and_no_dimm(tmp_path: Path) -> None:
    blocks = {"memdimm0": page(1) + bytes(8 * MIB), "pc.ram": page(2) + bytes(2 * MIB)}
    (guest,) = clone_for_libvirt(sparse(tmp_path, blocks), tmp_path / "one", name="a").guests

    with SaveImage(guest.image) as image:
        assert image.mark is not None
        assert image.mark.blocks == (("savefmt-pc.ram", "pc.ram"),)


@pytest.mark.parametrize(
    ("name", "reason"), [("savefmt-pc.ram", "savefmt detach"), ("memdimm0", "own memory")]
)
def test_libvirt_s_clones_need_main_memory_by_its_name(
    name: str, reason: str, tmp_path: Path
) -> None:
    path = sparse(tmp_path, {name: page(1) + bytes(2 * MIB)})

    with pytest.raises(ConversionError, match=reason):
        clone_for_libvirt(path, tmp_path / "one", name="a")


def test_pages_off_page_borders_are_not_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmap.PAGESIZE", 64 << 10)
    with (
        SaveImage(sparse(tmp_path, {"pc.ram": bytes(MIB)}, align=PAGE_SIZE)) as image,
        pytest.raises(ConversionError, match="no block of this image can be mapped"),
    ):
        mappable(image)


# The XML.

DOMAIN = b"""<?xml version='1.0'?>
<!-- <name>not this</name> --><domain type='kvm'>
  <name attribute='a>b'>old</name><uuid/>
  <devices><a><name>inner</name></a></devices>
</domain>
"""


def test_texts_change_where_they_stand() -> None:
    changed = with_texts(DOMAIN, {("domain", "name"): "a<b", ("domain", "uuid"): "u"})

    assert b"<name>a&lt;b</name><uuid>u</uuid>\n  <devices>" in changed
    check_document(changed, "domain")
    assert b"<name>inner</name>" in changed
    assert b"<name>not this</name>" in changed


@pytest.mark.parametrize(
    "domain",
    [
        DOMAIN,
        b"<domain/>".replace(b"/>", b"></domain>"),
        b"<domain xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>"
        b"<qemu:commandline><qemu:arg value='-x'/></qemu:commandline></domain>",
        b"<domain><c:commandline xmlns:c='http://libvirt.org/schemas/domain/qemu/1.0'/></domain>",
    ],
    ids=["none", "empty", "some", "closed"],
)
def test_arguments_come_and_go(domain: bytes) -> None:
    words = ["-object", "ours,a='<&>'", "-machine", "ours"]

    with_ours = with_arguments(domain, words)
    check_document(with_ours, "domain")
    values = [
        element.attributes["value"]
        for element in read_elements(with_ours, "domain", 0, deepest=4)
        if element.path[-1].endswith(":arg")
    ]
    without = without_arguments(with_ours, lambda word: word.startswith("ours"))

    assert values[-4:] == words
    assert (without == domain) or b"commandline" in domain
    assert b"ours" not in without
    assert without.count(b"-x") == domain.count(b"-x")


# In use.


def test_a_file_that_a_process_maps_is_in_use(tmp_path: Path) -> None:
    path = sparse(tmp_path)
    refuse_in_use(path)
    script = (
        "import mmap,sys; f = open(sys.argv[1], 'rb'); "
        "m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        with pytest.raises(ConversionError, match=f"process {child.pid} has this file mapped"):
            refuse_in_use(path)
        child.kill()
    refuse_in_use(path)


def test_a_locked_file_is_in_use(tmp_path: Path) -> None:
    path = sparse(tmp_path)
    with open(path, "rb") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_SH)
        with pytest.raises(ConversionError, match="locked"):
            refuse_in_use(path)
    refuse_in_use(path)


def test_a_base_is_free_once_its_thin_images_are_gone(tmp_path: Path) -> None:
    path, thin = sparse(tmp_path), tmp_path / "thin"
    thin.touch()
    if not note_thin(path, thin):
        pytest.skip("this file system keeps no attributes")

    with pytest.raises(ConversionError, match="thin image"):
        refuse_in_use(path)
    thin.unlink()
    refuse_in_use(path)


@pytest.mark.parametrize("value", [b"", b"{}", b"[1]", b"not json", b'["/no/such/file"]'])
def test_a_note_without_sense_is_no_note(value: bytes, tmp_path: Path) -> None:
    path = sparse(tmp_path)
    try:
        os.setxattr(path, "user.savefmt.thin", value)
    except OSError:
        pytest.skip("this file system keeps no attributes")
    refuse_in_use(path)


def test_what_is_no_file_is_not_in_use(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent", Path(os.devnull)):
        refuse_in_use(path)
