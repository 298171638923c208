"""The slow, obvious oracle: what a whole image given as bytes holds.

Written from the format's description alone and sharing no code with the package, so that
a fault would have to be made twice to go unnoticed.  It trusts its input.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

EOF, START, PART, END, FULL, SUBSECTION, VMDESCRIPTION, CONFIGURATION, COMMAND = range(9)
FOOTER = 0x7E

ZERO, MEM_SIZE, PAGE, EOS, CONTINUE, XBZRLE = 0x02, 0x04, 0x08, 0x10, 0x20, 0x40
IGNORABLE = 0x80 | 0x200  # HOOK and MULTIFD_FLUSH carry nothing in a file


@dataclass
class Block:
    """A RAM block: `present` pages have content in the image, `zero` ones are known to be zero."""

    content: bytearray
    present: set[int] = field(default_factory=set)
    zero: set[int] = field(default_factory=set)
    guest_address: int | None = None
    pages_offset: int | None = None
    ignored: bool = False


@dataclass
class Device:
    """A section other than `ram`, with the place of its payload."""

    kind: int
    idstr: str
    instance_id: int
    version: int
    section_id: int
    offset: int
    payload: bytes


@dataclass
class Image:
    """All that a stream holds."""

    machine: str = ""
    capabilities: list[str] = field(default_factory=list)
    uuid: bytes | None = None
    page_size: int = 4096
    stream_offset: int = 0
    commands: list[tuple[int, bytes]] = field(default_factory=list)
    blocks: dict[str, Block] = field(default_factory=dict)
    devices: list[Device] = field(default_factory=list)
    description: dict[str, Any] | None = None
    end: int = 0

    @property
    def layout(self) -> str:
        """As the package names it."""
        return "mapped-ram" if "mapped-ram" in self.capabilities else "sequential"


def read_image(data: bytes, *, bitmap_order: str = "little", page_size: int = 4096) -> Image:
    """Read an image, bare or enveloped, of either layout, not compressed."""
    return _Reader(data, bitmap_order, page_size).image()


def apply_xbzrle(page: bytes, delta: bytes) -> bytes:
    """Return the page that the delta makes of `page`."""
    result = bytearray(page)
    position = 0
    while delta:
        keep, delta = _uleb(delta)
        change, delta = _uleb(delta)
        position += keep
        for byte in delta[:change]:
            result[position] = byte
            position += 1
        delta = delta[change:]
    return bytes(result)


def _uleb(data: bytes) -> tuple[int, bytes]:
    if data[0] < 0x80:
        return data[0], data[1:]
    return (data[0] - 0x80) + data[1] * 128, data[2:]


class _Reader:
    def __init__(self, data: bytes, bitmap_order: str, page_size: int) -> None:
        self.data = data
        self.at = 0
        self.bitmap_order = bitmap_order
        self.result = Image(page_size=page_size)
        self.lengths: dict[tuple[str, int], int] = {}
        self.current = ""

    # Taking bytes.

    def take(self, count: int) -> bytes:
        assert self.at + count <= len(self.data), f"cut short at {len(self.data)}"
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "big")

    def name(self) -> str:
        return self.take(self.number(1)).decode()

    def next_is(self, byte: int) -> bool:
        return self.data[self.at : self.at + 1] == bytes([byte])

    # The stream from its first byte to its last.

    def image(self) -> Image:
        if self.data.startswith((b"LibvirtQemudSave", b"LibvirtQemudPart")):
            order = "little" if self.data[16] else "big"
            length = self.data[20:24] if order == "little" else self.data[23:19:-1]
            self.at = 92 + int.from_bytes(length, "little")
        self.result.stream_offset = self.at
        assert self.take(8) == b"QEVM\0\0\0\3"
        if self.next_is(CONFIGURATION):
            self.configuration()
        self.lengths = self.described_lengths()
        self.sections()
        if self.next_is(VMDESCRIPTION):
            self.take(1)
            self.result.description = json.loads(self.take(self.number(4)))
        self.result.end = self.at
        return self.result

    def configuration(self) -> None:
        self.take(1)
        self.result.machine = self.take(self.number(4)).decode()
        while self.next_is(SUBSECTION):
            self.take(1)
            name = self.name()
            assert self.number(4) == 1
            if name == "configuration/target-page-bits":
                self.result.page_size = 1 << self.number(4)
            elif name == "configuration/capabilities":
                self.result.capabilities = [self.name() for _ in range(self.number(4))]
            else:
                assert name == "configuration/uuid"
                self.result.uuid = self.take(16)

    def sections(self) -> None:
        started: dict[int, tuple[str, int, int]] = {}
        while (kind := self.number(1)) != EOF:
            if kind == COMMAND:
                number, length = self.number(2), self.number(2)
                self.result.commands.append((number, self.take(length)))
                continue
            assert kind in (START, PART, END, FULL), f"item {kind} at {self.at - 1}"
            section_id = self.number(4)
            if kind in (START, FULL):
                started[section_id] = self.name(), self.number(4), self.number(4)
            idstr, instance_id, version = started[section_id]
            if idstr == "ram":
                self.ram()
            else:
                offset = self.at
                payload = self.payload(kind, idstr, instance_id, section_id)
                self.result.devices.append(
                    Device(kind, idstr, instance_id, version, section_id, offset, payload)
                )
            if self.next_is(FOOTER):
                self.take(1)
                assert self.number(4) == section_id

    # Devices.

    def described_lengths(self) -> dict[tuple[str, int], int]:
        for start in range(len(self.data) - 5, -1, -1):
            if self.data[start] != VMDESCRIPTION or self.data[start + 5 : start + 6] != b"{":
                continue
            length = int.from_bytes(self.data[start + 1 : start + 5], "big")
            if start + 5 + length == len(self.data):
                devices = json.loads(self.data[start + 5 :])["devices"]
                return {(dev["name"], dev["instance_id"]): wire_length(dev) for dev in devices}
        return {}

    def payload(self, kind: int, idstr: str, instance_id: int, section_id: int) -> bytes:
        start = self.at
        if idstr == "dirty-bitmap":
            while self.dirty_bitmap_chunk():
                pass
            return self.data[start : self.at]
        if kind == FULL and (idstr, instance_id) in self.lengths:
            return self.take(self.lengths[idstr, instance_id])
        # Nothing tells: up to its footer, if EOF or another item follows that.
        footer = bytes([FOOTER]) + section_id.to_bytes(4, "big")
        end = self.data.index(footer, start)
        while self.data[end + 5] not in (EOF, START, PART, END, FULL, COMMAND):
            end = self.data.index(footer, end + 1)
        return self.take(end - start)

    def dirty_bitmap_chunk(self) -> bool:
        flags = self.number(1)
        if flags & 0x80:
            flags = self.number(1)
        if flags & 0x01:
            return False
        if flags & 0x08:
            self.name()
        if flags & 0x04:
            self.name()
        if flags & 0x10:
            self.take(4 + 1)
        if flags & 0x40:
            self.take(8 + 4)
            if not flags & 0x02:
                self.take(self.number(8))
        return True

    # RAM.

    def ram(self) -> None:
        while True:
            word = self.number(8)
            mask = min(self.result.page_size, 0x400) - 1
            address, flags = word & ~mask, word & mask
            if flags == EOS:
                return
            if flags == MEM_SIZE:
                self.block_list(address)
            elif not flags & IGNORABLE:
                self.record(address, flags)

    def block_list(self, total: int) -> None:
        while total > 0:
            name, length = self.name(), self.number(8)
            total -= length
            block = self.result.blocks[name] = Block(bytearray(length))
            if "x-ignore-shared" in self.result.capabilities:
                block.guest_address = self.number(8)
            if "mapped-ram" in self.result.capabilities:
                self.mapped_block(block)

    def mapped_block(self, block: Block) -> None:
        assert self.number(4) == 1
        size = self.result.page_size = self.number(8)
        bitmap, pages = self.number(8), self.number(8)
        block.ignored = bitmap == pages == 0
        if block.ignored:
            return
        block.pages_offset = pages
        for page in range(len(block.content) // size):
            byte, bit = divmod(page, 8)
            if self.bitmap_order == "big":  # the bytes of each 8-byte word the other way round
                byte = byte // 8 * 8 + 7 - byte % 8
            if self.data[bitmap + byte] >> bit & 1:
                block.present.add(page)
                place = pages + page * size
                content = self.data[place : place + size]
                assert len(content) == size
                block.content[page * size : (page + 1) * size] = content
            else:
                block.zero.add(page)
        self.at = pages + len(block.content)

    def record(self, address: int, flags: int) -> None:
        size = self.result.page_size
        if not flags & CONTINUE:
            self.current = self.name()
        block = self.result.blocks[self.current]
        old = bytes(block.content[address : address + size])
        assert len(old) == size, "beyond the block"
        match flags & ~CONTINUE:
            case 0x02:
                assert self.number(1) == 0
                new = bytes(size)
            case 0x08:
                new = self.take(size)
            case 0x40:
                assert self.number(1) == 1
                new = apply_xbzrle(old, self.take(self.number(2)))
            case _:
                raise AssertionError(f"word {address | flags:#x} before {self.at}")
        block.content[address : address + size] = new
        page = address // size
        block.present.discard(page)
        block.zero.discard(page)
        (block.zero if flags & ZERO else block.present).add(page)


def wire_length(described: dict[str, Any]) -> int:
    """Return the bytes that a device or subsection takes by its description."""
    if "vmsd_name" not in described:
        return int(described["size"])
    fields = sum(entry["size"] * entry.get("array_len", 1) for entry in described["fields"])
    return int(fields) + sum(
        1 + 1 + len(subsection["vmsd_name"]) + 4 + wire_length(subsection)
        for subsection in described.get("subsections", [])
    )
