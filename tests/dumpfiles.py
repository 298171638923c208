"""Memory dumps in the forms of `virsh dump --memory-only`, byte by byte."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping, Sequence

from builder import PAGE_SIZE

Segment = tuple[int, bytes]
"""Guest-physical address and content."""


def make_core(
    segments: Sequence[Segment],
    *,
    order: str = "<",
    bits: int = 64,
    kind: int = 4,
    vcpus: Sequence[bytes] = (),
) -> bytes:
    """Return an ELF core as QEMU writes it: notes, then a PT_LOAD for each segment.

    Each of `vcpus` is the content of a note that QEMU has of a vCPU.
    """
    note = struct.pack(f"{order}III", 5, 4, 0) + b"CORE\0\0\0\0" + bytes(4)
    for content in vcpus:
        note += struct.pack(f"{order}III", 5, len(content), 0) + b"QEMU\0\0\0\0" + content
    wide = bits == 64
    head_length, entry_length = (64, 56) if wide else (52, 32)
    at = head_length + entry_length * (len(segments) + 1)
    machine = 62 if wide else 3
    ident = b"\x7fELF" + bytes([2 if wide else 1, 1 if order == "<" else 2, 1]) + bytes(9)
    word = "Q" if wide else "I"
    head = ident + struct.pack(f"{order}HHI{word * 3}I", kind, machine, 1, 0, head_length, 0, 0)
    head += struct.pack(f"{order}6H", head_length, entry_length, len(segments) + 1, 0, 0, 0)
    entries, contents = [], [note]
    places = [(4, 0, note), *((1, address, content) for address, content in segments)]
    for number, (what, address, content) in enumerate(places):
        length = len(content)
        if wide:
            entries.append(struct.pack(f"{order}II6Q", what, 0, at, 0, address, length, length, 0))
        else:
            entries.append(struct.pack(f"{order}8I", what, at, 0, address, length, length, 0, 0))
        at += length
        if number:
            contents.append(content)
    return head + b"".join(entries) + b"".join(contents)


def _snappy(page: bytes) -> bytes:
    """Return a page as snappy has it that compresses nothing."""
    length = bytes([len(page) & 0x7F | 0x80, len(page) >> 7])
    return length + b"\xf4" + struct.pack("<H", len(page) - 1) + page


def _lzo(page: bytes) -> bytes:
    from lzallright import LZOCompressor

    return bytes(LZOCompressor().compress(page))


PACKERS: Mapping[str, tuple[int, Callable[[bytes], bytes]]] = {
    "raw": (0, bytes),
    "zlib": (1, zlib.compress),
    "lzo": (2, _lzo),
    "snappy": (4, _snappy),
}


def make_kdump(pages: Mapping[int, bytes], packer: str, *, last: int = 64) -> bytes:
    """Return a kdump file of an x86_64 guest; `pages` go by their numbers."""
    flag, pack = PACKERS[packer]
    names = b"".join(name.ljust(65, b"\0") for name in (b"Linux", b"", b"", b"", b"x86_64", b""))
    head = b"KDUMP   " + struct.pack("<i", 6) + names
    head = head.ljust(424, b"\0")
    head += struct.pack("<IiiIIIIIIi", 1, PAGE_SIZE, 1, 2, last, 0, 0, 0, 0, 1)
    sub = struct.pack("<Qii", 0, 1, 0) + struct.pack("<8Q", *[0] * 8)
    sub += struct.pack("<3Q", 0, last, last)
    bitmap = bytearray(PAGE_SIZE)
    for number in pages:
        bitmap[number // 8] |= 1 << number % 8
    place = PAGE_SIZE * 4 + 24 * len(pages)
    descriptions, data = [], []
    for number in sorted(pages):
        packed = pack(pages[number])
        descriptions.append(struct.pack("<qIIQ", place, len(packed), flag, 0))
        data.append(packed)
        place += len(packed)
    blocks = [head, sub, bytes(bitmap), bytes(bitmap)]
    return b"".join([*(block.ljust(PAGE_SIZE, b"\0") for block in blocks), *descriptions, *data])


def flatten(dump: bytes, *, piece: int = 5000) -> bytes:
    """Return a dump as it goes through a pipe, in pieces of which the last come first."""
    flat = b"makedumpfile".ljust(16, b"\0") + struct.pack(">qq", 1, 1)
    flat = flat.ljust(4096, b"\0")
    for at in reversed(range(0, len(dump), piece)):
        part = dump[at : at + piece]
        flat += struct.pack(">qq", at, len(part)) + part
    return flat + struct.pack(">qq", -1, -1)
