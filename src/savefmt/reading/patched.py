"""A view of a file with a few of its bytes changed, or without its end."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from savefmt.frozen import dataclass
from savefmt.native.file import File, View


@dataclass(frozen=True, slots=True)
class Patch:
    """New bytes, and where in a file they belong."""

    offset: int
    data: bytes

    @property
    def end(self) -> int:
        """Behind the last byte."""
        return self.offset + len(self.data)


@dataclass(frozen=True, slots=True)
class Patched:
    """What differs from a file.

    Attributes
    ----------
    patches : tuple of Patch
        In order, inside the file, none overlapping the next.
    end : int or None
        Where it ends, if that is not where the file does.
    """

    patches: tuple[Patch, ...]
    end: int | None = None

    def view(self, length: int) -> View:
        """Return all of it; the file itself is that long."""
        end = length if self.end is None else self.end
        if not self.patches:
            return View(end, [(0, end, 0)])
        extents: list[tuple[int, int, int, int]] = []
        at = place = 0
        for patch in _joined(self.patches):
            if at < patch.offset:
                extents.append((at, patch.offset - at, at, 0))
            extents.append((patch.offset, len(patch.data), place, 1))
            at, place = patch.end, place + len(patch.data)
        if at < end:
            extents.append((at, end - at, at, 0))
        return View(end, extents, [self._new_bytes()])

    def with_header(self, head: bytes) -> Patched:
        """Return the same with other first bytes."""
        behind = (patch for patch in self.patches if patch.offset >= len(head))
        return Patched((Patch(0, head), *behind), self.end)

    def _new_bytes(self) -> File:
        with os.fdopen(os.memfd_create("patches"), "wb") as file:
            file.writelines(patch.data for patch in self.patches)
            file.flush()
            return File(file.fileno(), path="patches", engine="psync")


def _joined(patches: Iterable[Patch]) -> Iterator[Patch]:
    """Yield the same with those joined that touch."""
    last: Patch | None = None
    for patch in patches:
        if last is not None and last.end == patch.offset:
            last = Patch(last.offset, last.data + patch.data)
            continue
        if last is not None:
            yield last
        last = patch
    if last is not None:
        yield last
