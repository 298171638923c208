"""The stream's constants: marks of items, flags of RAM words, names, limits."""

from __future__ import annotations

import enum
from typing import Literal

PAGE_SIZES = (4 << 10, 8 << 10, 16 << 10, 64 << 10, 1 << 10, 2 << 10, 32 << 10, 512, 256)
"""Target page sizes of all guests that QEMU has had, most common first; AVR had the smallest."""

MIN_PAGE_SIZE, MAX_PAGE_SIZE = min(PAGE_SIZES), max(PAGE_SIZES)

ByteOrder = Literal["little", "big"]
BYTE_ORDERS: tuple[ByteOrder, ...] = ("little", "big")


class ItemType(enum.IntEnum):
    """The byte that an item begins with (format.md 3.3)."""

    EOF = 0x00
    START = 0x01
    PART = 0x02
    END = 0x03
    FULL = 0x04
    SUBSECTION = 0x05
    VMDESCRIPTION = 0x06
    CONFIGURATION = 0x07
    COMMAND = 0x08
    FOOTER = 0x7E


class RamFlag(enum.IntFlag):
    """What the low bits of a word say (format.md 4.1)."""

    FULL = 0x01
    ZERO = 0x02
    MEM_SIZE = 0x04
    PAGE = 0x08
    EOS = 0x10
    CONTINUE = 0x20
    XBZRLE = 0x40
    HOOK = 0x80
    COMPRESS_PAGE = 0x100
    MULTIFD_FLUSH = 0x200


def decode_name(name: bytes) -> str:
    """Return an idstr or another name from the wire; `encode_name` restores it exactly."""
    return name.decode("utf-8", "surrogateescape")


def encode_name(name: str) -> bytes:
    """Return the bytes that `decode_name` was given."""
    return name.encode("utf-8", "surrogateescape")


def pack_counted(text: bytes) -> bytes:
    """Return a counted string: one length byte, then the bytes."""
    return len(text).to_bytes(1, "big") + text
