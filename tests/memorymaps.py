"""Guests of which the tests of the memory map ask where memory lies."""

from __future__ import annotations

import struct as wire
from typing import Any

from fakeguest import GIB, MIB, FakeGuest, Tree, pci, struct
from monitor import Span, map_spans

from savefmt.format.devicetree import Struct
from savefmt.guest.memorymap import MemoryMap, build_map


def hotplug(*filled: bool) -> Struct:
    """Return a bridge whose controller of memory slots has these filled."""
    slots = tuple(struct(is_enabled=each) for each in filled)
    return struct(pm=struct(acpi_memory_hotplug=struct(devs=slots)))


TABLES = "/rom@etc/acpi/tables"


def srat(*entries: tuple[int, int, int, int]) -> bytes:
    """Return the table of affinities with these nodes, addresses, lengths and flags."""
    parts = b"".join(
        wire.pack("<BBIHQQII8x", 1, 40, node, 0, start, length, 0, flags)
        for node, start, length, flags in entries
    )
    return b"SRAT" + wire.pack("<I", 48 + len(parts)) + bytes(40) + parts


def tables(*some: bytes) -> bytes:
    """Return tables as QEMU lays them."""
    first = b"FACS" + wire.pack("<I", 64) + bytes(56)
    return (first + b"".join(some)).ljust(0x20000, b"\0")


def acpi(*starts: int, flags: int = 1) -> bytes:
    """Tables with memory of 1 GiB at each start."""
    return tables(srat(*((0, start, GIB, flags) for start in starts)))


PAM = bytes([0x30] + [0x33] * 6)
BRIDGE = "0000:00:1f.0/ICH9LPC"
SHADOWED = pci(PAM.rjust(0x60, b"\0") + PAM.rjust(0x37, b"\0"))  # at 0x59 and at 0x90
UNSHADOWED = pci(b"")


def made(blocks: dict[str, int], **more: Any) -> MemoryMap:
    """Build the map of a guest that is shadowed and has no CMOS, unless it is told."""
    trees: dict[str, Tree] = {"0000:00:00.0/mch": SHADOWED, **more.pop("trees", {})}
    return build_map(FakeGuest(blocks, trees=trees, **more))


def spans(memory_map: MemoryMap, kind: str = "") -> list[Span]:
    return map_spans(item for item in memory_map.ranges if not kind or item.kind == kind)


def codes(memory_map: MemoryMap) -> set[str]:
    return {finding.code for finding in memory_map.findings}


def nodes(*lengths: int) -> bytes:
    """Tables of a guest with nodes of these lengths below the hole, and room for more."""
    entries, start = [(0, 0, 0xA0000, 1)], MIB
    for node, length in enumerate(lengths):
        length -= 0 if node else MIB
        entries.append((node, start, length, 1))
        start += length
    return tables(srat(*entries, (len(lengths) - 1, 4 * GIB, GIB, 3)))


XML = """<domain type='kvm'><maxMemory slots='{slots}' unit='GiB'>{most}</maxMemory>
<os><type arch='x86_64' machine='pc-q35-10.0'>hvm</type></os>
<cpu><model>{model}</model></cpu><devices>{devices}</devices></domain>"""
DIMM = """<memory model='{model}'><target><size unit='MiB'>{size}</size>{label}</target>
<address type='dimm' slot='{slot}' base='{base}'/></memory>"""
LABEL = "<label><size unit='MiB'>2</size></label>"


def domain(*devices: str, slots: int = 4, most: int = 8, model: str = "Skylake-Server") -> bytes:
    joined = "".join(devices)
    return XML.format(slots=slots, most=most, model=model, devices=joined).encode()


def nfit(*dimms: tuple[int, int]) -> bytes:
    """Return the table of NVDIMMs with these addresses and lengths."""
    kind = bytes.fromhex("79d3f066f3b47440ac430d3318b78cdb")
    parts = b"".join(
        wire.pack("<HHHHII16sQQQ", 0, 56, number, 0, 0, 0, kind, start, length, 0x8008)
        + wire.pack("<HH", 4, 80).ljust(80, b"\0")
        for number, (start, length) in enumerate(dimms)
    )
    return b"NFIT" + wire.pack("<I", 40 + len(parts)) + bytes(32) + parts


def virtio_mem(address: int, bitmap: bytes, *, unit: int = 2 * MIB, size: int = GIB) -> Struct:
    facts = struct(addr=address, region_size=size, block_size=unit, node=0)
    return struct(tmp=facts, size=0, bitmap=bitmap)
