"""Look for patterns in the guest's memory."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

from savefmt.errors import SavefmtError
from savefmt.image import SaveImage
from savefmt.model import IOOptions, OnProgress
from savefmt.scan.patterns import Matcher
from savefmt.scan.results import Hit
from savefmt.scan.together import Found, Together, find_one
from savefmt.scan.windows import Memory, Reach, Stretch, Window

if TYPE_CHECKING:  # loaded when an address is wanted
    from savefmt.guest.blockaddresses import BlockAddresses
    from savefmt.guest.mappings import ReverseMap
    from savefmt.guest.space import AddressSpace

CONTEXT = 16
"""Bytes before and behind a match that are told with it, unless asked for otherwise."""

CONTEXT_LIMIT = 4096


def _reverse(space: AddressSpace) -> ReverseMap:
    from savefmt.guest.mappings import ReverseMap

    return ReverseMap(space)


class Places:
    """Addresses of places in the blocks: physical ones, and virtual ones on request.

    Parameters
    ----------
    image : SaveImage
        The image.
    space : AddressSpace, optional
        Whose virtual addresses to tell.

    Attributes
    ----------
    problem : str or None
        Why addresses are missing.
    """

    def __init__(self, image: SaveImage, space: AddressSpace | None = None) -> None:
        self._image = image
        self.problem: str | None = None
        self._reverse = _reverse(space) if space is not None else None
        if self._reverse is not None:
            self.problem = _problem_of(self._reverse)

    @cached_property
    def _placement(self) -> BlockAddresses:
        from savefmt.guest.blockaddresses import BlockAddresses

        try:
            return BlockAddresses(self._image.guest.physical.map.ranges)
        except SavefmtError as error:
            self.problem = f"physical addresses are not known: {error.message}"
            return BlockAddresses(())

    def physical(self, block: str, offset: int) -> tuple[int, ...]:
        """Return the guest-physical addresses of a place."""
        return self._placement.addresses(block, offset)

    def physical_of(self, stretch: Stretch) -> tuple[int, ...] | None:
        """Return where the guest sees a stretch; None if it does not see it in one piece."""
        return self._placement.addresses_of(stretch.block, stretch.start, stretch.end)

    def virtual(self, block: str, offset: int, physical: Sequence[int]) -> tuple[int, ...]:
        """Return the virtual addresses of a place, which has these physical ones."""
        if self._reverse is None:
            return ()
        return tuple(sorted({at for one in physical for at in self._reverse.addresses(one)}))


def _problem_of(reverse: ReverseMap) -> str | None:
    if reverse.damaged:
        return f"{reverse.damaged} page tables are lost; some virtual addresses are missing"
    if not reverse.complete:
        return "the page tables repeat, or are too many; some virtual addresses are missing"
    return None


def search(
    image: SaveImage,
    patterns: Sequence[Matcher],
    *,
    blocks: Sequence[str] | None = None,
    context: int = CONTEXT,
    max_count: int | None = None,
    places: Places | None = None,
    memory: Memory | None = None,
    io: IOOptions = IOOptions(),
    progress: OnProgress | None = None,
) -> Iterator[Hit]:
    """Look for patterns in all of memory.

    Bytes and hexadecimal patterns are found at every place, including overlapping matches.
    After a match, a regular expression is tried again from the end of the match.  Pages that
    the image does not hold are zeros.  A match may cross pages, and begin or end in zeros that
    are not in the file; it never crosses the end of a block.

    Parameters
    ----------
    image : SaveImage
        Of any form.
    patterns : sequence of Matcher
        Made by the functions of `savefmt.scan.patterns`.
    blocks : sequence of str, optional
        Look in these only.
    context : int
        Bytes before and behind each match to tell with it, at most `CONTEXT_LIMIT`.
    max_count : int, optional
        Stop after so many matches.
    places : Places, optional
        Tells addresses; physical ones by default.
    memory : Memory, optional
        What to go through instead of the image's blocks: that of processes.
    io : IOOptions
        Threads.
    progress : callable, optional
        Called with the work done so far; it cancels by returning False.

    Yields
    ------
    Hit
        In the order of the blocks and of places in them, each as soon as it is known.

    Raises
    ------
    AddressError
        If there is no such block.
    ValueError
        If there is no pattern, or a number is not valid.
    """
    if not patterns:
        raise ValueError("nothing to look for")
    if not 0 <= context <= CONTEXT_LIMIT:
        raise ValueError(f"context is 0 to {CONTEXT_LIMIT} bytes")
    places = places or Places(image)
    memory = memory or Memory(image, blocks, io=io, progress=progress)
    return islice(_hits(memory, patterns, context, places), max_count)


def count(
    image: SaveImage,
    patterns: Sequence[Matcher],
    *,
    blocks: Sequence[str] | None = None,
    memory: Memory | None = None,
    io: IOOptions = IOOptions(),
    progress: OnProgress | None = None,
) -> int:
    """Count what `search` would yield; the parameters are the same."""
    if not patterns:
        raise ValueError("nothing to look for")
    memory = memory or Memory(image, blocks, io=io, progress=progress)
    return sum(
        len(each) // 2 for _, found in _found(memory, patterns, 0) for each in found.values()
    )


def _hits(
    memory: Memory, patterns: Sequence[Matcher], context: int, places: Places
) -> Iterator[Hit]:
    for window, found in _found(memory, patterns, context):
        named = [_named(each, patterns[number].name) for number, each in found.items()]
        block, first = window.stretch.block, window.stretch.start
        starts = places.physical_of(window.stretch)  # as a rule, what answers for all
        for start, end, name in heapq.merge(*named):
            offset = window.base + start
            if starts is None:
                physical = places.physical(block, offset)
            else:
                physical = tuple([at + offset - first for at in starts])
            yield Hit(
                name,
                block,
                offset,
                end - start,
                physical,
                places.virtual(block, offset, physical),
                window.data[start:end],
                window.data[max(start - context, 0) : start],
                window.data[end : end + context],
            )


def _named(found: Found, name: str) -> Iterator[tuple[int, int, str]]:
    return ((found[at], found[at + 1], name) for at in range(0, len(found), 2))


def _found(
    memory: Memory, patterns: Sequence[Matcher], context: int
) -> Iterator[tuple[Window, Mapping[int, Found]]]:
    """Yield windows with matches, together with the matches of each pattern."""
    reach = max(pattern.reach for pattern in patterns)
    zeros = any(pattern.fits_zeros for pattern in patterns)
    # What begins in zeros before the data can end in it, and the reverse.
    covered = Reach(lead=max(context, 1), tail=reach + context, margin=reach, zeros=zeros)
    together = Together(patterns)

    def work(window: Window) -> tuple[Window, Mapping[int, Found]]:
        found = together.find(window)
        # Windows wait for their turn: those without a match need not take memory.
        return window if found else Window(window.stretch, window.base, b""), found

    ends: dict[int, int] = {}
    block = ""
    for window, found in memory.each(work, covered):
        if window.stretch.block != block:
            block, ends = window.stretch.block, {}
        left = {}
        for number, each in found.items():
            mine = each
            if ends.get(number, 0) > window.stretch.start:
                # A match reached in here, and the next is looked for behind it.
                mine = find_one(patterns[number], window, ends[number])
            if mine:
                left[number] = mine
                if not patterns[number].overlaps:
                    ends[number] = window.base + mine[-1]
        if left:
            yield window, left
