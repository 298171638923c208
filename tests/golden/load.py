"""Unpack the golden images: sparse tars, read with nothing but the standard library."""

from __future__ import annotations

import functools
import json
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from monitor import dimm_places, memory_spans

HERE = Path(__file__).parent


@functools.cache
def manifest() -> dict[str, dict[str, Any]]:
    """Return what ``MANIFEST.json`` says of each image: see ``README.md`` for its members."""
    images: dict[str, dict[str, Any]] = json.loads((HERE / "MANIFEST.json").read_text())
    return images


def names(choose: Callable[[dict[str, Any]], bool] = lambda facts: True) -> list[str]:
    """Return the names of the images whose facts satisfy `choose`."""
    return [name for name, facts in manifest().items() if choose(facts)]


def unpack(name: str, directory: Path) -> Path:
    """Write the image `name` into `directory`, holes and all, and return its path."""
    with tarfile.open(HERE / f"{name}.tar.xz", "r:xz") as archive:
        # Debian 12's own Python has no filters yet; the archives are ours.
        archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
        member = archive.getmembers()[0]
        archive.extract(member, directory)
    return directory / member.name


def firmware(kind: str, directory: Path) -> Path:
    """Write the firmware that a guest's arguments call ``{firmware}``, to load its image."""
    target = directory / f"firmware-{kind}.bin"
    target.write_bytes(lzma.decompress((HERE / f"firmware-{kind}.bin.xz").read_bytes()))
    return target


def places(name: str) -> dict[str, int]:
    """Return where QEMU had the DIMMs of a guest, which its image does not tell."""
    listing = HERE / "guest" / f"{name.removesuffix('-sequential')}.mtree"
    return dimm_places(memory_spans(listing.read_text()))
