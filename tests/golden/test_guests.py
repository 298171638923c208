"""Registers, memory maps and page tables of real guests are what QEMU said they were."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from monitor import map_spans, memory_spans, register_blocks

import savefmt
from golden import load
from savefmt.cli.render.regs import registers_lines
from savefmt.errors import AddressError
from savefmt.image import SaveImage

FOLDER = load.HERE / "guest"
IMAGES = sorted(path.name.removesuffix(".tar.xz") for path in FOLDER.glob("*.tar.xz"))
X86 = [name for name in IMAGES if not name.startswith("virt")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place for the unpacked images."""
    return tmp_path_factory.mktemp("guests")


@pytest.fixture
def image(request: pytest.FixtureRequest, folder: Path) -> Iterator[SaveImage]:
    """The image of this name, opened."""
    name: str = request.param
    with savefmt.open(unpacked(name, folder), places=load.places(name)) as opened:
        yield opened


@cache
def unpacked(name: str, folder: Path) -> Path:
    place = folder / name
    place.mkdir()
    return load.unpack(f"guest/{name}", place)


def fact(name: str, kind: str) -> str:
    """Return what QEMU said of the guest in an image."""
    return (FOLDER / f"{name.removesuffix('-sequential')}.{kind}").read_text()


def by_name(names: list[str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("name", "image"), [(n, n) for n in names], indirect=["image"])


@by_name(IMAGES)
def test_registers(name: str, image: SaveImage) -> None:
    expected = register_blocks(fact(name, "regs"))

    for cpu, lines in zip(image.guest.cpus, expected, strict=True):
        assert [line.rstrip() for line in registers_lines(cpu)][: len(lines)] == lines


@by_name(IMAGES)
def test_memory_map(name: str, image: SaveImage) -> None:
    memory_map = image.guest.physical.map

    assert map_spans(memory_map.ranges) == memory_spans(fact(name, "mtree"))
    doubts = {finding.code for finding in memory_map.findings}
    assert doubts == ({"memmap.said"} if "dimm" in name else set())


@pytest.mark.parametrize("name", [name for name in IMAGES if "dimm" in name])
def test_a_dimm_that_nothing_places_is_not_in_the_map(name: str, folder: Path) -> None:
    """Its place is free, the slot is filled, and another DIMM may have been there before."""
    (block,) = load.places(name)
    with savefmt.open(unpacked(name, folder)) as image:
        memory_map = image.guest.physical.map
        expected = [span for span in memory_spans(fact(name, "mtree")) if span[2] != block]

        assert map_spans(memory_map.ranges) == expected
        assert memory_map.unknown == (block,)
        assert {finding.code for finding in memory_map.findings} == {"memmap.dimm"}


@by_name(IMAGES)
def test_markers_tell_their_own_address(name: str, image: SaveImage) -> None:
    """Each page holds a number and its physical address, which is its virtual one, too."""
    start = 0x40200000 if name.startswith("virt") else 0x100000
    space = image.guest.space(0)
    for page in range(64):
        address = start + page * 4096
        marker = (0x5341564546 + page).to_bytes(8, "little") + address.to_bytes(8, "little")
        assert image.guest.physical.read(address, 16) == marker
        assert space.read(address, 16) == marker
        assert space.translate(address).physical == address
    with pytest.raises(AddressError, match="not mapped"):
        space.translate(start + 0x40000 if name.startswith("virt") else 0x400000)


@by_name(X86)
def test_page_sizes(name: str, image: SaveImage) -> None:
    """The boot sector maps 4 MiB by two large pages below three levels of tables."""
    found = image.guest.space().translate(0x200123)

    assert image.guest.space().tables.mode == "4-level"
    assert [step.name for step in found.steps] == ["PML4E", "PDPTE", "PDE"]
    assert found.steps[0].address == 0x9000
    assert (found.page_size, found.writable, found.user) == (2 << 20, True, False)


@by_name(["virt-16m"])
def test_both_halves_of_aarch64(name: str, image: SaveImage) -> None:
    space = image.guest.space(0)

    high = space.translate(0xFFFF_0000_0000_3008)
    device = space.translate(0x0900_0000)

    assert (high.physical, high.page_size, len(high.steps)) == (0x40203008, 2 << 20, 3)
    assert (device.physical, device.page_size) == (0x0900_0000, 1 << 30)
    assert image.guest.cpus[0].system["TTBR0_EL1"] == 0x40100000  # type: ignore[union-attr]
    for outside in (1 << 39, 0xFFFE << 48):
        with pytest.raises(AddressError, match="is outside"):
            space.translate(outside)


@by_name(["q35-16m"])
def test_a_vcpu_without_paging(name: str, image: SaveImage) -> None:
    space = image.guest.space(1)

    assert space.tables.mode == "none"
    assert space.read(0x100000, 8) == (0x5341564546).to_bytes(8, "little")
    with pytest.raises(savefmt.UnsupportedError, match="does not use paging"):
        image.guest.space(1, 0x9000)
    assert image.guest.space(0, 0x9000).translate(0x100000).physical == 0x100000
    with pytest.raises(savefmt.UnsupportedError, match="no vCPU 7, only 0, 1"):
        image.guest.cpu(7)


def test_two_saves_of_one_guest_have_one_state(folder: Path) -> None:
    images = [savefmt.open(unpacked(name, folder)) for name in ("q35-16m", "q35-16m-sequential")]
    with images[0] as mapped, images[1] as sequential:
        assert mapped.guest.cpus == sequential.guest.cpus
        assert mapped.guest.physical.map.ranges == sequential.guest.physical.map.ranges


@pytest.mark.parametrize("name", load.names())
def test_every_golden_image_opens_up(name: str, tmp_path: Path) -> None:
    """Devices of all forms are taken apart to the last byte, and vCPUs have their registers."""
    facts = load.manifest()[name]
    with savefmt.open(load.unpack(name, tmp_path)) as image:
        described = facts.get("description", True)
        for section in image.devices.sections:
            tree = image.devices.tree(section)
            assert image.devices.described(section) is described
            if described:
                assert not tree.values("rest")
        assert image.devices.incomplete is None
        assert len(image.guest.cpus) == facts["vcpus"]
        ranges = image.guest.physical.map.ranges
        assert sum(item.length for item in ranges if item.kind == "ram") >= 7 << 20


def test_plugged_parts_of_virtio_mem(tmp_path: Path) -> None:
    pieces = load.manifest()["virtio-mem-mapped"]["plugged"]["memvm0"]
    with savefmt.open(load.unpack("virtio-mem-mapped", tmp_path)) as image:
        ranges = [r for r in image.guest.physical.map.ranges if r.kind == "virtio-mem"]
        assert [item.offset for item in ranges] == [2 << 20, 6 << 20]
        assert sum(item.length for item in ranges) == len(pieces) * 2 << 20
        for piece in pieces:
            text = f"page 7 of piece {piece}".encode()
            start = ranges[0].start - ranges[0].offset + (piece * 2 << 20) + 7 * 4096
            assert image.guest.physical.read(start, len(text)) == text
