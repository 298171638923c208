"""The command line of a QEMU that maps an image."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from savefmt.image import SaveImage
from savefmt.instant.backends import MappedBlock, mappable
from savefmt.instant.onimage import refuse_unmappable, require_copy
from savefmt.qemu.command import command_line
from savefmt.qemu.report import CommandSkeleton
from savefmt.qemu.restoring import pages_file
from savefmt.writing.clones import clone_file


def instant_command(
    image: SaveImage, *, copy: str | None = None, devices: bool = True
) -> CommandSkeleton:
    """Derive a command line whose back ends map the image's pages.

    Parameters
    ----------
    image : SaveImage
        A mapped-ram image, or a thin one of it.
    copy : str, optional
        A copy of the image that the guest may write.
    devices : bool
        Add the devices that the XML names.

    Returns
    -------
    CommandSkeleton
        As `savefmt.qemu.command_line` gives it, with a back end for each block that can
        be mapped.

    Raises
    ------
    ConversionError
        If a guest cannot run on the image.
    """
    refuse_unmappable(image)
    blocks = mappable(image)
    skeleton = command_line(image, devices=devices)
    path = os.path.realpath(copy if copy is not None else pages_file(image))
    words = tuple(_with_backends(skeleton.words, blocks, path, shared=copy is not None))
    remarks = [
        remark for remark in skeleton.remarks if not any(_needs(remark, b.idstr) for b in blocks)
    ]
    return CommandSkeleton(words, (*remarks, *_remarks(blocks, path, shared=copy is not None)))


def make_copy(image: SaveImage, target: str, *, dry_run: bool = False) -> None:
    """Make a copy of an image that its guest may write, unless one is there already.

    The copy shares all pages with the image (XFS, btrfs); one that is there is taken as it is,
    since nothing but the guest's memory is read from it.
    """
    if os.path.exists(target):
        require_copy(image, target)
    elif not dry_run:
        clone_file(pages_file(image), target)


def backend(block: MappedBlock, path: str, *, shared: bool = False, id: str | None = None) -> str:
    """Return the value of ``-object`` that maps a block.

    ``rom=off`` lets the guest write its private pages although the file is read-only.
    """
    name, file = (text.replace(",", ",,") for text in (id or block.idstr, path))
    way = "share=on,readonly=off" if shared else "share=off,readonly=on,rom=off"
    return (
        f"memory-backend-file,id={name},size={block.length},mem-path={file},"
        f"offset={block.offset},{way}"
    )


def _with_backends(
    words: Sequence[tuple[str, ...]], blocks: Sequence[MappedBlock], path: str, *, shared: bool
) -> Iterator[tuple[str, ...]]:
    for word in words:
        if word[0] != "-object" or not word[1].startswith("memory-backend-"):
            yield word
        if word[0] == "-machine":  # behind it, in the place of the main memory's own back end
            for block in blocks:
                yield "-object", backend(block, path, shared=shared)


def _needs(remark: str, idstr: str) -> bool:
    return remark.startswith(f"the RAM block {idstr} of ")


def _remarks(blocks: Sequence[MappedBlock], path: str, *, shared: bool) -> Iterator[str]:
    for block in blocks[1:]:
        yield f"the back end {block.idstr} belongs to a NUMA node or a DIMM, which must be added"
    if shared:
        yield "the guest writes into its copy, which no other guest may use"
        return
    yield f"{path} must not change while the guest runs: cut short, it kills the guest (SIGBUS)"
