"""Small guests for tests of what goes through memory."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import pytest
from builder import PAGE_SIZE, Record, all_records, make_stream, page

import savefmt
from savefmt.image import SaveImage

KERNEL_BASE = 0xFFFF_F801_2340_0000
PDB = (
    b"RSDS"
    + bytes.fromhex("67452301ab89efcd0123456789abcdef")
    + struct.pack("<I", 2)
    + b"ntkrnlmp.pdb\0"
)

HAS_RE2 = find_spec("re2") is not None
needs_re2 = pytest.mark.skipif(not HAS_RE2, reason="no google-re2 for this Python")

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


def header(base: int = KERNEL_BASE, length: int = 8 * PAGE_SIZE) -> bytes:
    """Return the first page of a 64-bit kernel that was loaded."""
    out = bytearray(PAGE_SIZE)
    out[:2] = b"MZ"
    struct.pack_into("<I", out, 0x3C, 0x110)
    struct.pack_into("<4sHHI", out, 0x110, b"PE\0\0", 0x8664, 20, 0x5F00_0000)
    struct.pack_into("<H", out, 0x110 + 24, 0x20B)
    struct.pack_into("<Q", out, 0x110 + 48, base)
    struct.pack_into("<I", out, 0x110 + 80, length)
    return bytes(out)


def start_block() -> bytes:
    """Return the page from which Windows starts a processor."""
    out = bytearray(PAGE_SIZE)
    struct.pack_into("<Q", out, 0, 0x0000_0001_0006_00E9)
    struct.pack_into("<Q", out, 0x70, KERNEL_BASE + 0x1234 * 4)
    struct.pack_into("<Q", out, 0xA0, 0x001A_D000)
    return bytes(out)
