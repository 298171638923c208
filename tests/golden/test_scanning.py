"""Hashes of real images are those of the guest's memory, as QEMU itself dumped it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from interop.test_page_walk import patch_cpu, patch_memory
from scanning import PDB, header

import savefmt
from golden import load
from savefmt.scan.hashes import Manifest, check_manifest, hash_memory, manifest_lines
from savefmt.scan.patterns import text
from savefmt.scan.search import search
from savefmt.scan.system import identify

# Blocks that the image does not hold, or whose content QEMU lost.
UNKNOWN = load.names(lambda facts: bool(facts.get("ram_lost") or facts.get("ignored")))
IMAGES = [name for name in load.names() if name not in UNKNOWN]
# The one left out has 200,000 sections, which take seconds and prove no more here.
TWINS = load.names(
    lambda facts: (
        facts.get("twin", "dirty-bitmaps-mapped") != "dirty-bitmaps-mapped"
        and facts["layout"] == "sequential"
    )
)


def known(facts: dict[str, Any]) -> dict[str, str]:
    return {name: block["sha256"] for name, block in facts["blocks"].items()}


@pytest.mark.parametrize("name", IMAGES)
def test_block_hashes(name: str, tmp_path: Path) -> None:
    with savefmt.open(load.unpack(name, tmp_path)) as image:
        hashes = {one.block: one.digest for one in hash_memory(image) if one.kind == "block"}

    expected = known(load.manifest()[name])
    assert {block: hashes[block] for block in expected} == expected


@pytest.mark.parametrize("name", TWINS)
def test_twins_agree(name: str, tmp_path: Path) -> None:
    """A manifest of one, page by page, holds for the other; and a search finds the same."""
    paths = [load.unpack(one, tmp_path) for one in (name, load.manifest()[name]["twin"])]
    with savefmt.open(paths[0]) as image, savefmt.open(paths[1]) as twin:
        lines = list(manifest_lines("md5", hash_memory(image, "md5", pages=True), pages=True))
        assert {good for _, good in check_manifest(twin, Manifest(lines))} == {True}
        found = [
            sorted((hit.block, hit.offset) for hit in search(one, [text("GEAS"), text("SAFE")]))
            for one in (image, twin)
        ]
    assert found[0] == found[1] != []


def test_every_codec_gives_the_same_manifest(tmp_path: Path) -> None:
    names = load.names(
        lambda facts: facts["file"].startswith("libvirt-") and facts["kind"] == "libvirt"
    )
    names = [
        name
        for name in names
        if load.manifest()[name]["blocks"] == load.manifest()["libvirt-raw"]["blocks"]
    ]
    manifests = set()
    for name in names:
        with savefmt.open(load.unpack(name, tmp_path)) as image:
            manifests.add("\n".join(manifest_lines("sha256", hash_memory(image))))

    assert len(names) >= 7
    assert len(manifests) == 1


def test_windows_kernel_by_where_system_calls_go(tmp_path: Path) -> None:
    """A vCPU's MSR leads to the kernel through its page tables, whose word is the last."""
    path = load.unpack("guest/q35-16m", tmp_path)
    with savefmt.open(path) as image:
        patch_memory(image, path, {0x105000: header(0xFFFF_F800_0000_0000), 0x106000: PDB})
        patch_cpu(image, path, {"env.lstar": 0x4010_7123})

    with savefmt.open(path) as image:
        hint = identify(image)

    assert (hint.system, hint.kernel_base) == ("windows", 0x4010_5000)
    places = [mark.physical for mark in hint.evidence if mark.kind == "windows.kernel"]
    assert places == [(0x105000,), (0x105000,)]
