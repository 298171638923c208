"""What a file of the mounted folder holds: a text, or memory laid out by a plan."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Protocol

from savefmt.export import vmcoreinfo
from savefmt.export.placing import Placed
from savefmt.export.plans import Plan
from savefmt.image import SaveImage
from savefmt.model import Finding

_PIECE = 1 << 20


class Content(Protocol):
    """The content of a file; any thread may read."""

    @property
    def length(self) -> int:
        """Bytes of the file."""

    @property
    def stored(self) -> int:
        """Bytes of it that are more than zeros."""

    def read_into(self, offset: int, out: memoryview) -> None:
        """Fill `out` with bytes of the file, which has so many there."""


class Text:
    """Bytes that are known.

    Parameters
    ----------
    data : bytes
        All of them.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.length = self.stored = len(data)

    def read_into(self, offset: int, out: memoryview) -> None:
        """Fill `out`."""
        out[:] = self._data[offset : offset + len(out)]


class Laid:
    """Memory in the places that a plan gives it, as `export` would write it.

    Parameters
    ----------
    image : SaveImage
        The caller closes it.
    plan : Plan
        The plan of the file; not empty.
    find : callable
        Returns the guest's VMCOREINFO; asked when the head of the file is read.
    """

    def __init__(
        self, image: SaveImage, plan: Plan, find: Callable[[], vmcoreinfo.VmcoreInfo | None]
    ) -> None:
        self._image = image
        self._plan = plan
        self._find = find
        self._lock = threading.Lock()
        self._idstrs = [block.idstr for block in image.head.blocks.blocks]
        self._placed = sorted(plan.placed, key=lambda item: item.offset)
        self._starts = [item.offset for item in self._placed]
        self.length = plan.length

    @cached_property
    def stored(self) -> int:
        """Bytes of the pages that the image holds."""
        return sum(
            run.stop - run.start
            for item in self._placed
            for run in held(self._image, self._idstrs, item)
        )

    @cached_property
    def _head(self) -> bytes:
        return self._plan.head(self._find())

    def read_into(self, offset: int, out: memoryview) -> None:
        """Fill `out`; places without a page are zeros, except the head."""
        end = offset + len(out)
        at = offset
        if offset < self._starts[0]:
            at = min(end, self._starts[0])
            with self._lock:  # one thread looks for it, and the others wait
                out[: at - offset] = self._head[offset:at].ljust(at - offset, b"\0")
        for item in self._placed[max(bisect_right(self._starts, at) - 1, 0) :]:
            if item.offset >= end:
                break
            first, last = max(at, item.offset), min(end, item.offset + item.segment.length)
            if first < last:
                out[at - offset : first - offset] = bytes(first - at)
                self._pages(item, first, out[first - offset : last - offset])
                at = last
        out[at - offset :] = bytes(end - at)

    def _pages(self, item: Placed, offset: int, out: memoryview) -> None:
        segment = item.segment
        start = segment.first * segment.page_size + offset - item.offset
        self._image.memory.read_into(self._idstrs[segment.block], start, out)


def held(image: SaveImage, idstrs: list[str], item: Placed) -> Iterator[range]:
    """Yield the stretches of a segment that the image holds, by their offset in its block."""
    segment = item.segment
    low, high = segment.first, segment.first + segment.count
    for run in image.memory.runs(idstrs[segment.block]):
        first, last = max(run.first, low), min(run.first + run.count, high)
        if first < last:
            yield range(first * segment.page_size, last * segment.page_size)


def find_vmcoreinfo(image: SaveImage, plan: Plan) -> vmcoreinfo.VmcoreInfo | None:
    """Find the VMCOREINFO that an export by this plan would have.

    Parameters
    ----------
    image : SaveImage
        Open.
    plan : Plan
        Of an ELF core.

    Returns
    -------
    VmcoreInfo or None
        None if the guest has none.
    """
    doubts: list[Finding] = []
    told = vmcoreinfo.from_device(image.guest.physical.read, vmcoreinfo.announced(image, doubts))
    return told or vmcoreinfo.choose(
        vmcoreinfo.find_in(_stretches(image, plan), image.page_size), doubts
    )


def _stretches(image: SaveImage, plan: Plan) -> Iterator[tuple[int, bytes]]:
    """Yield what the image holds of a plan, by address, each with room for a note behind it."""
    idstrs = [block.idstr for block in image.head.blocks.blocks]
    for item in plan.placed:
        segment = item.segment
        start = segment.first * segment.page_size
        end = start + segment.length
        for run in held(image, idstrs, item):
            for offset in range(run.start, run.stop, _PIECE):
                length = min(min(_PIECE, run.stop - offset) + vmcoreinfo.MAX_NOTE, end - offset)
                data = image.memory.read(idstrs[segment.block], offset, length)
                yield segment.address + offset - start, data
