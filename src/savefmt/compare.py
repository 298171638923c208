"""Tell whether two images hold the same guest, in any layout, codec and envelope."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from savefmt.errors import FormatError, UnsupportedError
from savefmt.format.fielddiff import field_differences
from savefmt.frozen import replace
from savefmt.image import SaveImage
from savefmt.model import IOOptions, OnProgress, PageRun, StrPath
from savefmt.native.pages import SumKey
from savefmt.progress import Meter
from savefmt.reading.digests import GuestState, read_state
from savefmt.reports import BlockDifference, Comparison, SectionDifference

if TYPE_CHECKING:  # damaged images are rare
    from savefmt.salvage.rescue import Rescue


def compare(
    left: StrPath | SaveImage,
    right: StrPath | SaveImage,
    *,
    io: IOOptions = IOOptions(),
    progress: OnProgress | None = None,
) -> Comparison:
    """Compare all pages and device sections of two images.

    Pages are compared by sums under a key drawn at random for this call: two different
    pages look equal with a chance below 2**-60, also when somebody tried to make it so.

    Parameters
    ----------
    left, right : str, os.PathLike or SaveImage
        In any form.
    io : IOOptions
        How they are read.
    progress : callable, optional
        Called with the work done so far; it cancels by returning False.

    Returns
    -------
    Comparison
        Which pages and sections differ.

    Raises
    ------
    SavefmtError
        If one of them cannot be read.
    """
    key = SumKey.random()
    with ExitStack() as stack:
        images = [
            image if isinstance(image, SaveImage) else stack.enter_context(SaveImage(image, io=io))
            for image in (left, right)
        ]
        _refuse_page_sizes(*images)
        states = [
            read_state(image, key, io, Meter(progress, 0, f"reading {image.path.name}"))
            for image in images
        ]
        notes = [
            f"{image.path}: block {name!r} was left out of the image; --shared fills it in"
            for image in images
            if image.head.ram is not None
            for name in image.memory.left_out
        ]
        lost = _lost_pages(images)
        notes += [
            f"{count} pages of {name!r} are lost and were not compared" for name, count in lost
        ]
        lacking = [_lacks_devices(image.rescue) for image in images]
        sections, note = _compare_sections(states, lacking)
        for image in images if any(section.reason == "content" for section in sections) else ():
            with suppress(FormatError, UnsupportedError):  # which then has no fields to show
                phase = f"looking for devices in {image.path.name}"
                image.devices.prepare(Meter(progress, 0, phase))
        sections = [_with_fields(images, section) for section in sections]
        for image in images:
            image.file.require_unchanged()
        if images[0].machine != images[1].machine:
            notes.append(f"machine types: {images[0].machine} and {images[1].machine}")
        return Comparison(
            str(images[0].path),
            str(images[1].path),
            tuple(_compare_blocks(images, states)),
            tuple(sections),
            tuple(notes + note),
            sum(count for _, count in lost),
        )


def _lacks_devices(rescue: Rescue | None) -> bool:
    return rescue is not None and not rescue.report.devices_whole


def _lacks_blocks(rescue: Rescue | None) -> bool:
    return rescue is not None and rescue.report.unlisted > 0


def _lost_pages(images: list[SaveImage]) -> list[tuple[str, int]]:
    """Count the pages of common blocks that one image or the other has lost."""
    if all(image.rescue is None for image in images):
        return []
    from savefmt.salvage.ranges import Ranges

    common = [name for name in images[0].blocks if name in images[1].blocks]
    rescues = [image.rescue for image in images if image.rescue is not None]
    lost = [
        (name, Ranges(part for rescue in rescues for part in rescue.lost(name)).total)
        for name in common
    ]
    return [(name, count) for name, count in lost if count]


def _known(images: list[SaveImage], idstr: str, runs: Iterable[PageRun]) -> tuple[PageRun, ...]:
    """Return what of some pages no image has lost."""
    for image in images:
        if image.rescue is not None:
            lost = image.rescue.lost(idstr)
            runs = [
                PageRun(first, end - first)
                for run in runs
                for first, end in lost.outside(run.first, run.first + run.count)
            ]
    return tuple(runs)


def _refuse_page_sizes(left: SaveImage, right: SaveImage) -> None:
    if left.page_size != right.page_size:
        raise UnsupportedError(
            f"its pages have {right.page_size} bytes and those of {left.path} have "
            f"{left.page_size}, so they cannot be compared; they are different guests",
            path=right.path,
        )


def _compare_blocks(images: list[SaveImage], states: list[GuestState]) -> list[BlockDifference]:
    found = []
    mine, theirs = states
    for idstr, table in mine.sums.items():
        block = images[0].head.blocks[idstr]
        other = theirs.sums.get(idstr)
        if other is None:
            if not _lacks_blocks(images[1].rescue):
                found.append(BlockDifference(idstr, "only-left", table.count, (), block.page_size))
            continue
        if block.used_length != images[1].head.blocks[idstr].used_length:
            found.append(BlockDifference(idstr, "length", 0, (), block.page_size))
            continue
        runs = _known(images, idstr, table.differences(other))
        if runs:
            count = sum(run.count for run in runs)
            found.append(BlockDifference(idstr, "content", count, runs, block.page_size))
    for idstr, table in theirs.sums.items():
        if idstr not in mine.sums and not _lacks_blocks(images[0].rescue):
            size = images[1].head.blocks[idstr].page_size
            found.append(BlockDifference(idstr, "only-right", table.count, (), size))
    return found


def _with_fields(images: list[SaveImage], section: SectionDifference) -> SectionDifference:
    """Tell which fields of a section differ, if both sections can be decoded."""
    if section.reason != "content":
        return section
    trees = []
    for image in images:
        try:
            known = image.devices.find(section.idstr, section.instance_id)
            if known is None:
                return section
            trees.append(image.devices.tree(known))
        except (FormatError, UnsupportedError):
            return section
    return replace(section, fields=tuple(field_differences(*trees)))


def _compare_sections(
    states: list[GuestState], lacking: list[bool]
) -> tuple[list[SectionDifference], list[str]]:
    mine, theirs = states
    mine_lost, theirs_lost = lacking
    notes = ["device sections are lost and were not compared"] * (mine_lost or theirs_lost)
    if mine.sections is None or theirs.sections is None:
        if notes:
            return [], notes
        note = "device sections cannot be told apart without vmdescription; compared as a whole"
        if mine.devices_digest == theirs.devices_digest:
            return [], [note]
        return [SectionDifference("(all devices)", 0, "content")], [note]
    found = []
    for key, digest in mine.sections.items():
        if key not in theirs.sections:
            found += [SectionDifference(*key, "only-left")] * (not theirs_lost)
        elif theirs.sections[key] != digest:
            found.append(SectionDifference(*key, "content"))
    if not mine_lost:
        found += [
            SectionDifference(*key, "only-right")
            for key in theirs.sections
            if key not in mine.sections
        ]
    return found, notes
