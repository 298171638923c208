"""A guest whose memory is changed here and there, as one that means harm would have it."""

from __future__ import annotations

import contextlib
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import savefmt
from savefmt.errors import SavefmtError
from savefmt.image import SaveImage
from savefmt.linux.answers import read_answer
from savefmt.linux.opening import open_kernel
from savefmt.linux.pagecache import extract
from savefmt.linux.processmemory import process_memory
from savefmt.scan.patterns import text
from savefmt.scan.search import search

PAGE = 4096


class Physical(Protocol):
    """Reads guest-physical memory."""

    def read(self, address: int, length: int) -> bytes:
        """Read some bytes."""


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
        self._changes: dict[int, dict[int, bytes]] = {}  # by page, then by place in it
        self.seen: dict[int, bytes] = {}
        self._physical.read = self._read  # type: ignore[method-assign]

    def _read(self, address: int, length: int) -> bytes:
        data = bytearray(self._honest(address, length))
        first = address // PAGE
        for page in range(first, -(-(address + length) // PAGE)):
            if length <= PAGE:
                self.seen[page] = b""
            for at, word in self._changes.get(page, {}).items():
                place = page * PAGE + at - address
                for number, byte in enumerate(word):
                    if 0 <= place + number < length:
                        data[place + number] = byte
        return bytes(data)

    def put(self, address: int, word: int) -> None:
        """Change eight bytes at a guest-physical address."""
        self._changes.setdefault(address // PAGE, {})[address % PAGE] = word.to_bytes(8, "little")


def scattered(physical: Physical, pages: Sequence[int], seed: int, count: int) -> dict[int, int]:
    """Return words for places in some pages: zeros, noise, or other words.

    Parameters
    ----------
    physical : object
        Reads the guest's memory as it is.
    pages : sequence of int
        Numbers of pages to change.
    seed, count : int
        Which dice, and how many throws.

    Returns
    -------
    dict of int to int
        By guest-physical address.
    """
    source, changes = random.Random(seed), {}
    for _ in range(count):
        page, other = source.choice(pages), source.choice(pages)
        at, from_there = source.randrange(0, PAGE, 8), source.randrange(0, PAGE, 8)
        words = [
            *(bytes(8), b"\xff" * 8, source.randbytes(8)),
            physical.read(page * PAGE + from_there, 8),
            physical.read(other * PAGE + from_there, 8),
        ]
        changes[page * PAGE + at] = int.from_bytes(source.choice(words), "little")
    return changes


def main(image_path: str, changes: str) -> str:
    """Ask everything of a forged guest, and return what comes of it."""
    with savefmt.open(image_path, io=savefmt.IOOptions(direct=False)) as image:
        forged = Forgery(image)
        for address, word in json.loads(changes).items():
            forged.put(int(address), word)
        try:
            kernel = open_kernel(image)
        except SavefmtError as error:
            return f"error: {error}"
        for answer in ("all", "timeline", "pages"):
            report = read_answer(kernel, answer)
        with contextlib.suppress(SavefmtError), tempfile.TemporaryDirectory() as folder:
            extract(kernel, "/tmp/evil", f"{folder}/evil")
        with contextlib.suppress(SavefmtError):
            memory, places = process_memory(image, [])
            for _ in search(image, [text("savefmt: a canary")], memory=memory, places=places):
                pass
        return " ".join({one.code for one in report.findings})


def peak() -> int:
    """Return the KiB of memory that this process took at most: of it alone, not of its parent."""
    with open("/proc/self/status", encoding="utf-8") as status:
        (line,) = (line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1])


if __name__ == "__main__":
    said = main(sys.argv[1], sys.stdin.read())
    print(json.dumps({"said": said, "seconds": time.process_time(), "peak": peak()}))
