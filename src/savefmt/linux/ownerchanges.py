"""What changed between two saves of a guest, by the owners of the pages."""

from __future__ import annotations

from collections import Counter

from savefmt.guest.blockaddresses import BlockAddresses
from savefmt.image import SaveImage
from savefmt.linux.facts import OwnerChange, PageOwner
from savefmt.linux.kernelmemory import PAGE
from savefmt.linux.opening import open_kernel
from savefmt.linux.pageowners import PageOwners
from savefmt.reports import Comparison


def owner_changes(
    comparison: Comparison, left: SaveImage, right: SaveImage
) -> tuple[OwnerChange, ...]:
    """Tell whose the pages are that differ.

    Parameters
    ----------
    comparison : Comparison
        Of the two images.
    left, right : SaveImage
        Open, of a Linux guest.

    Returns
    -------
    tuple of OwnerChange
        The most pages first.

    Raises
    ------
    UnsupportedError
        If one of them is no Linux guest, or its kernel keeps too little of itself.
    """
    owners = [PageOwners(open_kernel(image)) for image in (left, right)]
    placement = BlockAddresses(right.guest.physical.map.ranges)
    counts = Counter[tuple[PageOwner | None, PageOwner | None]]()
    for block in comparison.blocks:
        for run in block.runs:
            for page in range(run.first, run.first + run.count):
                offset = page * block.page_size
                for address in placement.addresses(block.idstr, offset):
                    before, after = (one.of(address // PAGE) for one in owners)
                    counts[before, after] += 1
    return tuple(OwnerChange(*change, pages) for change, pages in counts.most_common())
