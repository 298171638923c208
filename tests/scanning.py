"""Small guests for tests of what goes through memory."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from builder import PAGE_SIZE, Record, all_records, make_stream, page

import savefmt
from savefmt.image import SaveImage

FORMS = ("sequential", "mapped", "gzip", "repeated")


def padded(content: bytes) -> bytes:
    """Fill a block's last page with zeros."""
    return content + bytes(-len(content) % PAGE_SIZE)


def write_form(folder: Path, form: str, blocks: Mapping[str, bytes]) -> Path:
    """Write a guest's image in one of `FORMS`; ``repeated`` sends other pages first."""
    path = folder / f"{form}.save"
    if form == "mapped":
        data = make_stream(layout="mapped-ram", blocks=blocks)
    elif form == "repeated":
        first = [
            Record(record.block, record.page, page(7000 + number))
            for number, record in enumerate(all_records(blocks))
        ]
        data = make_stream(blocks=blocks, rounds=[first, all_records(blocks)[::-1]])
    else:
        data = make_stream(blocks=blocks)
    if form == "gzip":
        packer = zlib.compressobj(1, wbits=31)
        data = packer.compress(data) + packer.flush()
    path.write_bytes(data)
    return path


def opened(stack: ExitStack, folder: Path, form: str, blocks: Mapping[str, bytes]) -> SaveImage:
    """Open such an image."""
    return stack.enter_context(savefmt.open(write_form(folder, form, blocks)))
