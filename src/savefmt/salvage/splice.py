"""A file made of parts of another one, and of bytes that were lost or must differ."""

from __future__ import annotations

import os

from savefmt.frozen import dataclass
from savefmt.native.file import File, View


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a splice was: its length, its parts, and the last part that may have grown."""

    length: int
    extents: int
    told: int
    last: tuple[int, int, int] | None


class Splice:
    """Grows at its end; nothing is copied until somebody reads."""

    def __init__(self) -> None:
        self._extents: list[tuple[int, int, int]] = []
        self._told: list[tuple[int, bytes]] = []
        self.length = 0

    def keep(self, start: int, end: int) -> None:
        """Put the bytes of the file from `start` to before `end` at the end."""
        if start >= end:
            return
        if self._extents:
            at, length, place = self._extents[-1]
            if at + length == self.length and place + length == start:
                self._extents[-1] = at, length + end - start, place
                self.length += end - start
                return
        self._extents.append((self.length, end - start, start))
        self.length += end - start

    def put(self, data: bytes) -> None:
        """Put bytes that are in no file at the end."""
        if data:
            self._told.append((self.length, data))
            self.length += len(data)

    def skip_to(self, length: int) -> None:
        """Put zeros at the end until there are `length` bytes."""
        self.length = max(self.length, length)

    def mark(self) -> Mark:
        """Note how far it is."""
        last = self._extents[-1] if self._extents else None
        return Mark(self.length, len(self._extents), len(self._told), last)

    def restore(self, mark: Mark) -> None:
        """Take away all that came after a mark."""
        del self._extents[mark.extents :], self._told[mark.told :]
        if mark.last is not None:
            self._extents[-1] = mark.last
        self.length = mark.length

    def take_back(self, count: int) -> None:
        """Remove the last bytes, which came from the file in one piece."""
        at, length, place = self._extents.pop()
        if length > count:
            self._extents.append((at, length - count, place))
        self.length -= count

    def cut(self, length: int) -> None:
        """Take away all that is behind so many bytes."""
        self._extents = [
            (at, min(count, length - at), place)
            for at, count, place in self._extents
            if at < length
        ]
        self._told = [(at, data[: length - at]) for at, data in self._told if at < length]
        self.length = min(self.length, length)

    def view(self) -> View:
        """Return all of it."""
        if not self._told:
            return View(self.length, self._extents)
        extents = [(*extent, 0) for extent in self._extents]
        place = 0
        for at, data in self._told:
            extents.append((at, len(data), place, 1))
            place += len(data)
        return View(self.length, sorted(extents), [self._told_file()])

    def _told_file(self) -> File:
        """Write what is in no file to one that is in memory."""
        with os.fdopen(os.memfd_create("told"), "wb") as file:
            file.writelines(data for _, data in self._told)
            file.flush()
            return File(file.fileno(), path="told", engine="psync")

    def origin(self, offset: int) -> int | None:
        """Return where in the file the byte at an offset comes from, None where from nowhere."""
        from bisect import bisect_right

        number = bisect_right(self._extents, offset, key=lambda extent: extent[0]) - 1
        if number < 0:
            return None
        at, length, place = self._extents[number]
        return place + offset - at if offset < at + length else None
