"""What a slow reading recovers of a damaged image, by where things lie in the sound one."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from builder import EOS, PAGE_SIZE

import savefmt
from savefmt.model import Salvage

Page = tuple[str, int]


@dataclass(frozen=True)
class Sent:
    """A page record: from its word to behind its content, which begins at `body`."""

    page: Page
    start: int
    body: int
    end: int
    content: bytes
    named: bool


def records_of(data: bytes, blocks: dict[str, int]) -> list[Sent]:
    """List the records of a sequential stream of `make_stream`, which names blocks at will."""
    found: list[Sent] = []
    at = data.index(b"\x03ram\0\0\0\0\0\0\0\x04") + 12
    at += 8 + sum(1 + len(name.encode()) + 8 for name in blocks)
    block = ""
    while True:
        word = struct.unpack_from(">Q", data, at)[0]
        if data[at : at + 8] == EOS:
            if data[at + 13 : at + 14] not in (b"\x02", b"\x03"):
                return found
            at += 8 + 5 + 5
            continue
        start, flags, address = at, word & 0xFFF, word & ~0xFFF
        at += 8
        if not flags & 0x20:
            block = data[at + 1 : at + 1 + data[at]].decode()
            at += 1 + data[at]
        body = at
        at += 1 if flags & 0x02 else PAGE_SIZE
        content = bytes(PAGE_SIZE) if flags & 0x02 else data[body:at]
        named = not flags & 0x20
        found.append(Sent((block, address // PAGE_SIZE), start, body, at, content, named))


def recovered(path: Path, data: bytes, **options: object) -> tuple[dict[Page, bytes], Salvage]:
    """Salvage an image; return the pages that it calls recovered, and its report."""
    path.write_bytes(data)
    with savefmt.open(path, salvage=True, **options) as image:  # type: ignore[arg-type]
        assert image.rescue is not None
        pages = {}
        for name, block in image.blocks.items():
            lost = image.rescue.lost(name)
            for number in range(block.page_count):
                if not lost.overlap(number, number + 1):
                    where = number * PAGE_SIZE
                    pages[name, number] = image.memory.read(name, where, PAGE_SIZE)
        return pages, image.rescue.report
