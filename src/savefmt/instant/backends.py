"""Blocks that QEMU can map from the image, as memory back ends, and whether it does."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from savefmt.errors import ConversionError
from savefmt.frozen import dataclass
from savefmt.image import SaveImage
from savefmt.model import Layout
from savefmt.qemu.report import MigrationError
from savefmt.qmp import Monitor

MIN_LENGTH = 1 << 20
"""Smaller blocks are not worth a back end."""

_FILE_BACKEND = "memory-backend-file"
_DIMM = "memdimm"
_OUTLIVING = ("memnvdimm", "shmmem")
"""libvirt's names for memory that is not the guest's alone."""


@dataclass(frozen=True, slots=True)
class MappedBlock:
    """A block that can be mapped, or is.

    Attributes
    ----------
    idstr : str
        Also the id of its back end.
    offset, length : int
        Of its pages in the image.
    """

    idstr: str
    offset: int
    length: int


def mappable(image: SaveImage) -> tuple[MappedBlock, ...]:
    """Return the blocks that QEMU can map from an image.

    Those are the machine's memory and what has a back end by its own name: NUMA nodes,
    DIMMs.  Video memory and ROMs belong to devices, and virtio-mem refuses such back ends.

    Parameters
    ----------
    image : SaveImage
        Open.

    Returns
    -------
    tuple of MappedBlock
        The largest first; never empty.

    Raises
    ------
    ConversionError
        If there is nothing to map.
    """
    if image.layout is not Layout.MAPPED_RAM:
        raise ConversionError(
            "a guest can run on a mapped-ram image only, whose pages lie in order; "
            "savefmt prepare makes one",
            path=image.path,
        )
    if not image.is_own_file:
        raise ConversionError(
            "the file does not hold the bytes of the image as they are, so QEMU cannot map "
            "it; take it out with savefmt prepare or savefmt convert",
            path=image.path,
        )
    found = [
        MappedBlock(block.idstr, pages.offset, block.used_length)
        for block, pages in zip(image.head.blocks.blocks, image.mapped.pages, strict=True)
        if _may_be_mapped(block.idstr, image)
        and not block.ignored
        and block.used_length >= MIN_LENGTH
        and pages.offset % mmap.PAGESIZE == 0
    ]
    if not found:
        raise ConversionError(
            "no block of this image can be mapped: none of them is main memory (or has a back "
            "end of its own) and begins at a page boundary",
            path=image.path,
        )
    return tuple(sorted(found, key=lambda block: -block.length))


def _may_be_mapped(idstr: str, image: SaveImage) -> bool:
    # Devices and machines give names with a slash or a dot; others came from the command line.
    named = idstr.endswith(".ram") or not {"/", "."} & set(idstr)
    return named and not idstr.startswith(_OUTLIVING) and idstr not in _virtio_mem(image)


def _virtio_mem(image: SaveImage) -> frozenset[str]:
    """Return the blocks of virtio-mem devices, as far as they can be told by their names."""
    sections = image.sections or ()
    if not any("virtio-mem" in section.idstr for section in sections):
        return frozenset()
    names = {block.idstr for block in image.head.blocks.blocks}
    main = {name for name in names if name.endswith(".ram") or name.startswith("ram-node")}
    return frozenset(name for name in names - main if not name.startswith(_DIMM))


# What QEMU has.


def mapped_by(
    monitor: Monitor, image: SaveImage, path: str, *, shared: bool = False
) -> tuple[MappedBlock, ...]:
    """Return the blocks that a QEMU maps from an image, once that is known to be harmless.

    Parameters
    ----------
    monitor : Monitor
        Connected.
    image : SaveImage
        A mapped-ram one.
    path : str
        The file that its pages lie in, or a copy that the guest may write.
    shared : bool
        The file is such a copy.

    Returns
    -------
    tuple of MappedBlock
        Not empty.

    Raises
    ------
    MigrationError
        If no back end is this image, or one maps it in another way than it must.
    """
    possible = {block.idstr: block for block in mappable(image)}
    found = []
    for idstr, backend in _file_backends(monitor):
        if not _is_same(str(backend["mem-path"]), path):
            continue
        block = possible.get(idstr)
        if block is None:
            raise MigrationError(
                f"the back end {idstr!r} of this QEMU maps the image, which has no such block that "
                "can be mapped; savefmt restore --instant --print-command tells the right ones"
            )
        _refuse_other_place(idstr, backend, block)
        _refuse_other_way(idstr, backend, shared)
        found.append(block)
    if not found:
        raise MigrationError(
            "no memory back end of this QEMU is the image; savefmt restore --instant "
            "--print-command tells how to start it"
        )
    _refuse_replaced(monitor, found, path)
    return tuple(found)


def _file_backends(monitor: Monitor) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for entry in monitor.execute("qom-list", path="/objects"):
        if entry["type"] != f"child<{_FILE_BACKEND}>":
            continue
        path = f"/objects/{entry['name']}"
        names = {item["name"] for item in monitor.execute("qom-list", path=path)}
        wanted = names & {"mem-path", "offset", "size", "share", "readonly", "rom"}
        yield (
            str(entry["name"]),
            {name: monitor.execute("qom-get", path=path, property=name) for name in wanted},
        )


def _is_same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _refuse_other_place(idstr: str, backend: Mapping[str, Any], block: MappedBlock) -> None:
    for name, there, here in (
        ("offset", backend.get("offset", 0), block.offset),
        ("size", backend["size"], block.length),
    ):
        if there != here:
            raise MigrationError(
                f"the back end {idstr!r} of this QEMU has {name}={there}, and the image has "
                f"the block at {name}={here}; start QEMU as savefmt restore --instant "
                "--print-command tells"
            )


def _refuse_other_way(idstr: str, backend: Mapping[str, Any], shared: bool) -> None:
    """Refuse what would let the guest write into the image, or keep it from its memory."""
    wanted = {"share": shared, "readonly": not shared, "rom": "off"}
    for name, value in wanted.items():
        there = backend.get(name, value)
        if there != value:
            shown = value if isinstance(value, str) else "on" if value else "off"
            raise MigrationError(
                f"the back end {idstr!r} of this QEMU needs {name}={shown}: the guest must not "
                "write into the image"
                if not shared
                else f"the back end {idstr!r} of this QEMU needs {name}={shown}, since the guest "
                "is to write into its copy"
            )


def _refuse_replaced(monitor: Monitor, blocks: Sequence[MappedBlock], path: str) -> None:
    """Refuse a QEMU that mapped another file under this name, where the kernel lets us see."""
    pid = monitor.peer
    try:
        maps = _maps(pid) if pid is not None else None
    except OSError:
        return  # savefmt may not see it, so it believes QEMU
    if maps is None:
        return
    status = os.stat(path)
    places = {offset for inode, offset in maps if inode == status.st_ino}
    for block in blocks:
        if block.offset not in places:
            raise MigrationError(
                f"QEMU has mapped another file for {block.idstr!r} than is there by that name "
                "now: the image was replaced since QEMU began; start QEMU again"
            )


def _maps(pid: int) -> list[tuple[int, int]]:
    """Return inode and offset of every file that a process maps."""
    found = []
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            words = line.split(maxsplit=5)
            if len(words) > 5 and words[4] != "0":
                found.append((int(words[4]), int(words[2], 16)))
    return found
