"""Builds tiny, valid images of either layout, byte by byte and without the package."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PAGE_SIZE = 4096
MIB = 1 << 20

RAM_ID = 2

DOMAIN_XML = b"""<domain type='qemu'>
  <name>tiny</name>
  <uuid>00112233-4455-6677-8899-aabbccddeeff</uuid>
  <memory unit='KiB'>16</memory>
  <os><type arch='x86_64' machine='pc-q35-10.0'>hvm</type></os>
  <devices><emulator>/usr/bin/qemu-system-x86_64</emulator></devices>
</domain>
"""


def page(seed: int, length: int = PAGE_SIZE) -> bytes:
    """Return a page that differs from that of every other seed below 2**32, and is not zero."""
    return struct.pack(">I", seed + 1) * (length // 4)


DEFAULT_BLOCKS: Mapping[str, bytes] = {
    "pc.ram": page(0) + bytes(PAGE_SIZE) + page(2) + page(3) + bytes(4 * PAGE_SIZE),
    "pc.bios": page(16) + bytes(PAGE_SIZE),
    "/rom@etc/acpi/rsdp": page(32),
}


# Envelope.


def make_envelope(
    *,
    magic: bytes = b"LibvirtQemudSave",
    version: int = 2,
    was_running: int = 1,
    format: int = 0,
    xml: bytes = DOMAIN_XML,
    cookie: bytes | None = None,
    padding: int = 1024,
    order: str = "little",
    unused: bytes = bytes(56),
) -> bytes:
    """Return a libvirt header with what follows it, up to where the stream begins."""
    data = xml + b"\0"
    cookie_offset = len(data) if cookie is not None else 0
    if cookie is not None:
        data += cookie + b"\0"
    data += bytes(padding)
    numbers = (version, len(data), was_running, format, cookie_offset)
    header = struct.pack("<5I" if order == "little" else ">5I", *numbers)
    return magic + header + unused + data


# Devices.


@dataclass(frozen=True)
class Fields:
    """Described content: fields of (name, type, bytes), then subsections."""

    vmsd_name: str
    version: int = 1
    fields: Sequence[tuple[str, str, bytes]] = ()
    subsections: Sequence[Fields] = ()

    def wire(self) -> bytes:
        """Return the content as sent."""
        wire = b"".join(data for _, _, data in self.fields)
        for sub in self.subsections:
            wire += b"\x05" + counted(sub.vmsd_name) + struct.pack(">I", sub.version) + sub.wire()
        return wire

    def described(self) -> dict[str, Any]:
        """Return the JSON that describes it."""
        described: dict[str, Any] = {
            "vmsd_name": self.vmsd_name,
            "version": self.version,
            "fields": [{"name": n, "type": t, "size": len(d)} for n, t, d in self.fields],
        }
        if self.subsections:
            described["subsections"] = [sub.described() for sub in self.subsections]
        return described


@dataclass(frozen=True)
class Device:
    """A FULL section."""

    idstr: str
    content: Fields
    instance_id: int = 0

    def described(self) -> dict[str, Any]:
        """Return the JSON that describes it."""
        who = {"name": self.idstr, "instance_id": self.instance_id}
        return who | self.content.described()


def simple_device(idstr: str, payload: bytes, instance_id: int = 0, version: int = 1) -> Device:
    """Return a device with one opaque field."""
    return Device(idstr, Fields(idstr, version, [("data", "buffer", payload)]), instance_id)


DEFAULT_DEVICES = (
    simple_device("timer", struct.pack(">QQQ", 1, 0, 2), version=2),
    simple_device("cpu_common", bytes(8)),
    Device(
        "0000:00:02.0/virtio-rng",
        Fields(
            "virtio-rng",
            fields=[("status", "uint8", b"\x0f"), ("virtio", "virtio", b"\x7e\0\0\0\x09" * 9)],
            subsections=[Fields("virtio-rng/extra", 1, [("state", "uint32", b"\0\0\0\x05")])],
        ),
    ),
)

VIRTIO_MEM_EARLY = Device(
    "0000:00:03.0/virtio-mem-device-early",
    Fields(
        "virtio-mem-device-early",
        fields=[
            ("tmp", "tmp", struct.pack(">QQQI", 1 << 32, 256 * MIB, 2 * MIB, 0)),
            ("size", "uint64", struct.pack(">Q", 4 * MIB)),
            ("bitmap", "bitmap", struct.pack(">QQ", 0b11, 0)),
        ],
    ),
)


DIRTY_BITMAPS = (
    b"\x1c" + b"\x02n0" + b"\x03bmB" + b"\x00\x01\x00\x00" + b"\x01"  # start, with node and name
    b"\x14" + b"\x03bm0" + b"\x00\x01\x00\x00" + b"\x01"  # start, another of that node
    b"\x40" + struct.pack(">QIQ", 0, 2048, 8) + b"\x7e\0\0\0\x01\0\0\0"  # bits
    b"\x42"
    + struct.pack(">QI", 2048, 2048)  # bits, all zero
    + b"\x80\x24"
    + b"\x03bmB"  # complete, in the long form of the flags
    b"\x01"  # end of the section
)
"""A section of every kind of chunk, the bits looking like the section's own footer."""


# RAM.


@dataclass(frozen=True)
class Record:
    """One page of one round: `data`, or `delta`, or neither for a page of zeros."""

    block: str
    page: int
    data: bytes | None = None
    delta: bytes | None = None


def all_records(blocks: Mapping[str, bytes], page_size: int = PAGE_SIZE) -> list[Record]:
    """Return a record for every page, as the first round of a save sends them."""
    records = []
    for name, content in blocks.items():
        for index in range(len(content) // page_size):
            data = content[index * page_size : (index + 1) * page_size]
            records.append(Record(name, index, data if any(data) else None))
    return records


def counted(text: str) -> bytes:
    """Return a counted string."""
    return bytes([len(text.encode())]) + text.encode()


def word(address: int, flags: int) -> bytes:
    """Return a RAM word."""
    return struct.pack(">Q", address | flags)


EOS = word(0, 0x10)


def pack_records(
    records: Iterable[Record], page_size: int = PAGE_SIZE, previous: str = ""
) -> bytes:
    """Return records as sent, each naming its block only where it changes."""
    wire = bytearray()
    for record in records:
        again = record.block == previous
        name = b"" if again else counted(record.block)
        previous = record.block
        address, go_on = record.page * page_size, 0x20 if again else 0
        if record.delta is not None:
            body = struct.pack(">BH", 1, len(record.delta)) + record.delta
            wire += word(address, 0x40 | go_on) + name + body
        elif record.data is not None:
            wire += word(address, 0x08 | go_on) + name + record.data
        else:
            wire += word(address, 0x02 | go_on) + name + b"\0"
    return bytes(wire)


@dataclass(frozen=True)
class Stream:
    """What `make_stream` shall build; every field has a default that QEMU might write.

    Sequential: `rounds` holds one list of records per PART, and `last_round` those of the
    END; without them each page of `blocks` is sent once, split over `parts`.  With
    `names_survive` a PART continues the block of the PART before.
    Mapped-ram: `blocks` is the content, bits are set for the pages that are not zero and
    for `explicit_zeros`; `stale` puts data under clear bits; `ignored` blocks have none.
    `unit` is the page size where no `page_bits` tell it.
    """

    layout: str = "sequential"
    prefix: bytes = b""
    machine: str = "pc-q35-10.0"
    configuration: bool = True
    page_bits: int | None = None
    unit: int = PAGE_SIZE
    uuid: bytes | None = None
    blocks: Mapping[str, bytes] = field(default_factory=lambda: DEFAULT_BLOCKS)
    guest_addresses: Mapping[str, int] | None = None
    rounds: Sequence[Sequence[Record]] | None = None
    last_round: Sequence[Record] = ()
    parts: int = 1
    names_survive: bool = False
    ram_end: bool = True
    stale: Mapping[tuple[str, int], bytes] = field(default_factory=dict)
    explicit_zeros: frozenset[tuple[str, int]] = frozenset()
    ignored: frozenset[str] = frozenset()
    align: int = MIB
    bitmap_order: str = "little"
    commands: Sequence[tuple[int, bytes]] = ()
    switchover: bool = True
    dirty_bitmaps: bool = False
    early: Sequence[Device] = ()
    devices: Sequence[Device] = DEFAULT_DEVICES
    footers: bool = True
    description: bool = True
    trailing: bytes = b""

    @property
    def page_size(self) -> int:
        """Target page size."""
        return 1 << self.page_bits if self.page_bits is not None else self.unit

    @property
    def mapped(self) -> bool:
        """Whether the layout is mapped-ram."""
        return self.layout == "mapped-ram"

    @property
    def capabilities(self) -> list[str]:
        """In QEMU's order."""
        on = {"x-ignore-shared": self.guest_addresses is not None, "mapped-ram": self.mapped}
        return [name for name in on if on[name]]

    def build(self) -> bytes:
        """Return the image."""
        out = bytearray(self.prefix + b"QEVM\0\0\0\3")
        if self.configuration:
            out += self._configuration()
        for number, data in self.commands:
            out += struct.pack(">BHH", 8, number, len(data)) + data
        section_id = RAM_ID
        out += section_head(1, section_id, "ram", 0, 4)
        self._block_list(out)
        out += EOS + self._footer(section_id)
        if self.dirty_bitmaps:
            out += section_head(1, 1, "dirty-bitmap", 0, 1) + b"\x01" + self._footer(1)
        next_id = 10
        for device in self.early:
            out += self._device(next_id, device)
            next_id += 1
        previous = ""
        for records in self._rounds():
            out += struct.pack(">BI", 2, section_id)
            out += pack_records(records, self.page_size, previous) + EOS + self._footer(section_id)
            if self.names_survive and records:
                previous = records[-1].block
        if self.dirty_bitmaps:
            out += struct.pack(">BI", 2, 1) + DIRTY_BITMAPS + self._footer(1)
        if self.switchover:
            out += struct.pack(">BHH", 8, 11, 0)
        if self.dirty_bitmaps:
            out += struct.pack(">BI", 3, 1) + b"\x01" + self._footer(1)
        if self.ram_end:
            records = [] if self.mapped else self.last_round
            last = pack_records(records, self.page_size, previous)
            out += struct.pack(">BI", 3, section_id) + last + EOS + self._footer(section_id)
        for device in self.devices:
            out += self._device(next_id, device)
            next_id += 1
        out += b"\0"
        if self.description:
            text = self._description()
            out += struct.pack(">BI", 6, len(text)) + text
        return bytes(out + self.trailing)

    def _configuration(self) -> bytes:
        wire = struct.pack(">BI", 7, len(self.machine)) + self.machine.encode()
        if self.page_bits is not None:
            wire += subsection("configuration/target-page-bits") + struct.pack(">I", self.page_bits)
        if names := self.capabilities:
            wire += subsection("configuration/capabilities") + struct.pack(">I", len(names))
            wire += b"".join(map(counted, names))
        if self.uuid is not None:
            wire += subsection("configuration/uuid") + self.uuid
        return wire

    def _block_list(self, out: bytearray) -> None:
        out += word(sum(map(len, self.blocks.values())), 0x04)
        for name, content in self.blocks.items():
            out += counted(name) + struct.pack(">Q", len(content))
            if self.guest_addresses is not None:
                out += struct.pack(">Q", self.guest_addresses.get(name, 0))
            if self.mapped:
                self._mapped_block(out, name, content)

    def _mapped_block(self, out: bytearray, name: str, content: bytes) -> None:
        size = self.page_size
        if name in self.ignored:
            out += struct.pack(">IQQQ", 1, size, 0, 0)
            return
        count = len(content) // size
        area = bytearray(content)
        words = [0] * (-(-count // 64))
        for index in range(count):
            data = content[index * size : (index + 1) * size]
            if any(data) or (name, index) in self.explicit_zeros:
                words[index // 64] |= 1 << index % 64
            elif (name, index) in self.stale:
                area[index * size : (index + 1) * size] = self.stale[name, index]
        order = "<" if self.bitmap_order == "little" else ">"
        bitmap = struct.pack(f"{order}{len(words)}Q", *words)
        bitmap_offset = len(out) + 28
        pages_offset = -(-(bitmap_offset + len(bitmap)) // self.align) * self.align
        out += struct.pack(">IQQQ", 1, size, bitmap_offset, pages_offset) + bitmap
        out += bytes(pages_offset - len(out)) + area

    def _rounds(self) -> Sequence[Sequence[Record]]:
        if self.mapped:
            return [[]] * self.parts
        if self.rounds is not None:
            return self.rounds
        records = all_records(self.blocks, self.page_size)
        share = -(-len(records) // self.parts) or 1
        return [records[at * share : (at + 1) * share] for at in range(self.parts)]

    def _device(self, section_id: int, device: Device) -> bytes:
        content = device.content
        head = section_head(4, section_id, device.idstr, device.instance_id, content.version)
        return head + content.wire() + self._footer(section_id)

    def _footer(self, section_id: int) -> bytes:
        return struct.pack(">BI", 0x7E, section_id) if self.footers else b""

    def _description(self) -> bytes:
        described: dict[str, Any] = {}
        if self.configuration:
            described["configuration"] = self._described_configuration()
        described["page_size"] = self.page_size
        described["devices"] = [device.described() for device in (*self.early, *self.devices)]
        return json.dumps(described).encode()

    def _described_configuration(self) -> dict[str, Any]:
        subsections = []
        if self.page_bits is not None:
            bits = {"name": "target_page_bits", "type": "uint32", "size": 4}
            subsections.append(described_subsection("configuration/target-page-bits", [bits]))
        if names := self.capabilities:
            count = {"name": "caps_count", "type": "uint32", "size": 4}
            array = {"array_len": len(names)} if len(names) > 1 else {}
            listed = {"name": "capabilities", **array, "type": "capability"}
            listed["size"] = 1 + len(names[0])
            subsections.append(described_subsection("configuration/capabilities", [count, listed]))
        if self.uuid is not None:
            uuid = {"name": "uuid.data", "array_len": 16, "type": "uint8", "size": 1}
            subsections.append(described_subsection("configuration/uuid", [uuid]))
        length = {"name": "len", "type": "uint32", "size": 4}
        name = {"name": "name", "type": "buffer", "size": len(self.machine)}
        described = described_subsection("configuration", [length, name])
        return described | ({"subsections": subsections} if subsections else {})


def make_stream(**options: Any) -> bytes:
    """Return the image that `Stream` with these options describes."""
    return Stream(**options).build()


def section_head(kind: int, section_id: int, idstr: str, instance_id: int, version: int) -> bytes:
    """Return what stands before the payload of a START or FULL section."""
    head = struct.pack(">BI", kind, section_id) + counted(idstr)
    return head + struct.pack(">II", instance_id, version)


def subsection(name: str) -> bytes:
    """Return what stands before the payload of a subsection of version 1."""
    return b"\x05" + counted(name) + struct.pack(">I", 1)


def described_subsection(name: str, fields: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the JSON of a subsection of version 1."""
    return {"vmsd_name": name, "version": 1, "fields": fields}
