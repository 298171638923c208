"""A guest whose memory is changed here and there, as one that means harm would have it."""

from __future__ import annotations

import random
from collections.abc import Callable

from savefmt.image import SaveImage

PAGE = 4096


class Forgery:
    """Changes what is read of a guest's memory, and knows which pages were read.

    Parameters
    ----------
    image : SaveImage
        Open; its file stays as it is.
    """

    def __init__(self, image: SaveImage) -> None:
        self._physical = image.guest.physical
        self._honest: Callable[[int, int], bytes] = self._physical.read
        self.changes: dict[int, bytes] = {}
        self.seen: dict[int, bytes] = {}
        self._physical.read = self._read  # type: ignore[method-assign]

    def _read(self, address: int, length: int) -> bytes:
        data = bytearray(self._honest(address, length))
        first = address // PAGE
        for page in range(first, -(-(address + length) // PAGE)):
            if length <= PAGE:
                self.seen[page] = b""
            for at, word in self.changes.items():
                if at // PAGE == page:
                    place = at - address
                    for number, byte in enumerate(word):
                        if 0 <= place + number < length:
                            data[place + number] = byte
        return bytes(data)

    def put(self, address: int, word: int) -> None:
        """Change eight bytes at a guest-physical address."""
        self.changes[address] = word.to_bytes(8, "little")

    def scatter(self, source: random.Random, count: int) -> None:
        """Change words in pages that were read before: to zeros, noise, or other words."""
        pages = sorted(self.seen)
        self.changes = {}
        for _ in range(count):
            page = source.choice(pages)
            data = self._honest(page * PAGE, PAGE)
            other = self._honest(source.choice(pages) * PAGE, PAGE)
            at = source.randrange(0, PAGE, 8)
            from_there = source.randrange(0, PAGE, 8)
            word = source.choice(
                [
                    bytes(8),
                    b"\xff" * 8,
                    source.randbytes(8),
                    data[from_there : from_there + 8],
                    other[from_there : from_there + 8],
                ]
            )
            self.changes[page * PAGE + at] = word
