"""What is gathered about an image."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest
from builder import DOMAIN_XML, PAGE_SIZE, make_stream, page
from PIL import Image

import savefmt
from savefmt.errors import CorruptError, OperationCancelled
from savefmt.report.dossier import gather
from savefmt.report.resources import Disk, Network, read_resources
from savefmt.scan.picture import paint

XML = b"""<domain><memory>2048</memory><vcpu placement='static'>4</vcpu>
<cpu mode='host-passthrough'/><devices>
<disk type='network' device='cdrom'><source protocol='rbd' name='pool/image'/><target dev='sda'/>
</disk><disk type='file'><driver name='qemu' type='raw'/><source file='/a'/><source file='/b'/>
<target dev='vda'/><backingStore><source file='/below'/></backingStore></disk>
<disk/><interface type='user'/><rng/><controller/><controller/></devices></domain>"""


def test_what_a_restore_needs() -> None:
    found = read_resources(XML)

    assert (found.vcpus, found.memory, found.cpu) == ("4", "2048 KiB", "host-passthrough")
    assert found.disks == (
        Disk("sda", "cdrom", "", "protocol=rbd, name=pool/image"),
        Disk("vda", "disk", "raw", "/a"),
        Disk("", "disk", "", ""),
    )
    assert found.networks == (Network("user", "", "", ""),)
    assert found.others == (("controller", 2), ("rng", 1))


def test_a_domain_that_tells_nothing() -> None:
    found = read_resources(b"<domain/>")

    assert (found.vcpus, found.memory, found.cpu, found.emulator) == ("", "", "", "")
    assert (found.disks, found.networks, found.others) == ((), (), ())
    assert read_resources(DOMAIN_XML).memory == "16 KiB"


@pytest.mark.parametrize("xml", [b"<domain>", b"<cookie/>", b"<!DOCTYPE domain><domain/>"])
def test_what_is_no_domain(xml: bytes) -> None:
    with pytest.raises(CorruptError):
        read_resources(xml)


@pytest.mark.parametrize("layout", ["sequential", "mapped-ram"])
def test_a_dossier_agrees_with_the_rooms(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "image"
    path.write_bytes(make_stream(layout=layout))
    found = gather(path)

    assert found.length == path.stat().st_size
    assert found.check.ok
    assert [part.part for part in found.left_out] == ["resources", "cpus", "linux"]  # all stubs


def test_cancelling_is_no_missing_part(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(make_stream(layout="sequential"))
    for allowed in range(3):
        left = iter(range(allowed))
        with pytest.raises(OperationCancelled):
            gather(path, progress=lambda _, left=left: next(left, None) is not None)  # type: ignore[misc]


def test_a_picture_has_a_size_that_opens(tmp_path: Path) -> None:
    path = tmp_path / "image"
    blocks = {"pc.ram": page(1) * 2048 + bytes(2048 * PAGE_SIZE)}
    path.write_bytes(make_stream(layout="mapped-ram", blocks=blocks))
    with savefmt.open(path) as image:
        whole, small = paint(image), paint(image, most=(20, 1000))

    assert whole.picture == small.picture
    assert Image.open(BytesIO(whole.png)).size == (64, 64)
    shrunk = Image.open(BytesIO(small.png)).convert("RGB")
    assert shrunk.size == (16, 16)
    assert shrunk.getpixel((3, 3)) == (70, 130, 200)
    assert shrunk.getpixel((3, 12)) == (16, 16, 24)
