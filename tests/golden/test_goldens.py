"""The golden images are what their manifest says, before anything else reads them."""

from __future__ import annotations

import hashlib
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from golden import load


@pytest.mark.parametrize("name", load.names())
def test_an_image_unpacks_to_the_file_that_was_packed(name: str, tmp_path: Path) -> None:
    facts = load.manifest()[name]

    image = load.unpack(name, tmp_path)

    assert image.name == facts["file"]
    assert image.stat().st_size == facts["length"]
    with image.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == facts["sha256"]
    if facts["layout"] == "mapped-ram":
        assert image.stat().st_blocks * 512 < facts["length"]


def test_every_archive_has_its_entry_and_all_are_small() -> None:
    archives = list(load.HERE.glob("*.tar.xz"))

    assert {path.name.removesuffix(".tar.xz") for path in archives} == set(load.manifest())
    assert sum(path.stat().st_size for path in archives) < 5 << 20


@pytest.mark.parametrize("name", load.names(lambda facts: facts["kind"] == "libvirt"))
def test_no_image_tells_of_the_machine_that_made_it(name: str, tmp_path: Path) -> None:
    head = load.unpack(name, tmp_path).read_bytes()[: 1 << 16]
    places = ("/var/lib/libvirt/", "/usr/bin/qemu", "/dev/urandom", "/machine")

    domain = ET.fromstring(head[92:].split(b"\0")[0])
    words = [w for e in domain.iter() for w in (e.text or "", *e.attrib.values())]
    paths = [word for word in words if word.startswith("/")]

    assert len(paths) > 2
    assert all(path.startswith(places) for path in paths)


@pytest.mark.parametrize("name", load.names(lambda facts: "twin" in facts))
def test_twins_hold_the_same_guest(name: str) -> None:
    facts = load.manifest()[name]
    twin = load.manifest()[facts["twin"]]

    assert twin["twin"] == name
    assert twin["blocks"] == facts["blocks"]
    assert twin["layout"] != facts["layout"]
