"""The folder that an image is mounted as: which files there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

from savefmt.errors import SavefmtError
from savefmt.export import core
from savefmt.export.blocks import file_names, whole_blocks
from savefmt.export.placing import Placed
from savefmt.export.plans import Plan
from savefmt.export.raw import plan_raw
from savefmt.export.stretches import find_segments
from savefmt.export.vmcoreinfo import VmcoreInfo
from savefmt.image import SaveImage
from savefmt.model import Finding
from savefmt.mount.contents import Content, Laid, Text, find_vmcoreinfo

Folder = dict[str, "Content | Folder"]
"""Files and folders by name; the names are safe."""


def build(
    image: SaveImage,
    texts: Mapping[str, bytes],
    *,
    search: bool = True,
    left_out: Callable[[str, str], None] = lambda name, reason: None,
) -> Folder:
    """Make the folder of an image.

    Parameters
    ----------
    image : SaveImage
        Stays open as long as the folder is read.
    texts : mapping of str to bytes
        Further files: path from the top, with ``/``, and content.
    search : bool
        Look for VMCOREINFO now, for ``vmcoreinfo.txt``; else when the head of
        ``memory.elf`` is read.
    left_out : callable
        Told the name of a file that cannot be, and why.

    Returns
    -------
    Folder
        By name.
    """
    top: Folder = {}
    for name, data in texts.items():
        put(top, name, Text(data))
    idstrs = [block.idstr for block in image.head.blocks.blocks]
    whole = whole_blocks(image, [])
    names = file_names([idstrs[segment.block] for segment in whole], "")
    for name, segment in zip(names, whole, strict=True):
        plan = Plan((Placed(segment, 0),), segment.length)
        put(top, f"blocks/{name}", Laid(image, plan, _nothing))
    try:
        findings: list[Finding] = []
        segments = find_segments(image, findings)
        top["memory.raw"] = Laid(image, plan_raw(segments, None, findings), _nothing)
    except SavefmtError as error:
        left_out("memory.raw, memory.elf", error.message)
        return top
    try:
        plan = core.plan_core(image, segments, (), findings)
    except SavefmtError as error:
        left_out("memory.elf", error.message)
        return top
    find = cache(lambda: find_vmcoreinfo(image, plan))
    top["memory.elf"] = Laid(image, plan, find)
    info = find() if search else None
    if info is not None:
        top["vmcoreinfo.txt"] = Text(info.text)
    return top


def put(top: Folder, path: str, content: Content) -> None:
    """Put a file into a folder, making those between."""
    *folders, name = path.split("/")
    for part in folders:
        inner = top.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ValueError(f"{part!r} is a file and a folder")
        top = inner
    top[name] = content


def find(top: Folder, path: str) -> Content | Folder | None:
    """Return the entry at a path, None if there is none."""
    found: Content | Folder | None = top
    for part in filter(None, path.split("/")):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _nothing() -> VmcoreInfo | None:
    return None
