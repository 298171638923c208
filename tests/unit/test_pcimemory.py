"""Memory of PCI devices, by their registers and the bridges above them."""

from __future__ import annotations

import struct as wire

import pytest
from fakeguest import DAMAGED, GIB, MIB, FakeGuest, Tree, clock, pci, struct
from memorymaps import made, spans

from savefmt.format.devicetree import Struct
from savefmt.guest.memorymap import build_map

CLOCK = clock(16 * MIB, 0)


VRAM = "0000:00:02.0/vga.vram"


def vga(bar: int, *, command: int = 2, device_class: int = 0x300, rom: int = 0) -> Struct:
    config = bytearray(256)
    config[4] = command
    config[0x0A:0x0C] = device_class.to_bytes(2, "little")
    config[0x10:0x18] = bar.to_bytes(8, "little")
    config[0x30:0x34] = rom.to_bytes(4, "little")
    return pci(bytes(config))


@pytest.mark.parametrize(
    ("config", "place"),
    [
        (vga(0xFD000008), 0xFD000000),
        (vga(0x80_0000_000C), 0x80_0000_0000),
        (vga(0xFD000008, command=0), "switched off"),
        (vga(0), "no address"),
        (vga(0xC001), "I/O"),
        (struct(), "no device section"),
        (DAMAGED, "no device section"),
    ],
)
def test_video_memory_by_its_register(config: Tree, place: int | str) -> None:
    trees = {"mc146818rtc": CLOCK, "0000:00:02.0/vga": config}

    memory_map = made({"pc.ram": 16 * MIB, VRAM: MIB}, trees=trees)

    if isinstance(place, int):
        assert spans(memory_map, "vram") == [(place, place + MIB, "vga.vram", 0)]
    else:
        assert place in memory_map.unplaced[VRAM]


def bridge(window: tuple[int, int], prefetchable: tuple[int, int], *, command: int = 2) -> Struct:
    config = bytearray(256)
    config[4] = command
    config[0x20:0x24] = wire.pack("<HH", *(each >> 16 for each in window))
    low = [each >> 16 & 0xFFF0 | 1 for each in prefetchable]
    config[0x24:0x30] = wire.pack("<HHII", *low, *(each >> 32 for each in prefetchable))
    return pci(bytes(config))


OPEN, CLOSED = (0xFD000000, 0xFD000000), (0xFFF00000, 0)


@pytest.mark.parametrize(
    ("above", "bar"),
    [
        ([bridge(OPEN, CLOSED)], 0xFD000008),
        ([bridge(CLOSED, OPEN)], 0xFD000008),
        ([bridge(CLOSED, (0x80_0000_0000, 0x80_0000_0000))], 0x80_0000_000C),
        ([bridge(OPEN, CLOSED), bridge(OPEN, CLOSED)], 0xFD000008),
    ],
)
def test_memory_behind_bridges(above: list[Tree], bar: int) -> None:
    """Each bridge must pass it on; a missing one is no proof."""
    paths = ["0000:00:02.0" + ":00.0" * depth for depth in range(len(above))]
    path = f"{paths[-1]}:03.0"
    trees = {f"{each}/port": tree for each, tree in zip(paths, above, strict=True)}
    block = f"{path}/vga.vram"
    start = bar & ~15

    def placed(**bridges: Tree) -> bool:
        found = made(
            {"pc.ram": 16 * MIB, block: MIB},
            trees={"mc146818rtc": CLOCK, f"{path}/vga": vga(bar), **trees, **bridges},
        )
        assert spans(found, "vram") in ([], [(start, start + MIB, "vga.vram", 0)])
        return bool(spans(found, "vram"))

    assert placed()
    for each in trees:
        for closed in (bridge(CLOSED, CLOSED), bridge(OPEN, OPEN, command=0), DAMAGED):
            assert not placed(**{each: closed})


@pytest.mark.parametrize(
    ("machine", "main"), [("pseries-10.0", "ppc_spapr.ram"), ("s390-ccw-virtio", "s390.ram")]
)
def test_a_bridge_that_translates_addresses(machine: str, main: str) -> None:
    blocks = {main: GIB, "pci@800000020000000:02.0/vga.vram": MIB}
    trees = {"pci@800000020000000:02.0/vga": vga(0x81000008)}

    memory_map = build_map(FakeGuest(blocks, machine=machine, trees=trees))

    assert spans(memory_map) == [(0, GIB, main, 0)]
    assert memory_map.unknown == ("pci@800000020000000:02.0/vga.vram",)


def test_the_video_window_hides_ram_for_vga_only() -> None:
    for device_class, hidden in ((0x300, True), (0x380, False)):
        trees = {"mc146818rtc": CLOCK, "0000:00:02.0/vga": vga(0, device_class=device_class)}
        memory_map = made({"pc.ram": 16 * MIB, VRAM: MIB}, trees=trees)
        assert (spans(memory_map)[0] == (0, 0xA0000, "pc.ram", 0)) is hidden


def test_video_memory_that_is_not_on_the_pci_bus_is_somewhere() -> None:
    memory_map = made({"pc.ram": 16 * MIB, "vga.vram": MIB}, trees={"mc146818rtc": CLOCK})

    assert memory_map.unknown == ("vga.vram",)
    assert not spans(memory_map, "vram")


def test_option_roms_and_what_nobody_knows() -> None:
    blocks = {"pc.ram": 16 * MIB, "0000:00:02.0/vga.rom": 65536, "0000:00:05.0/odd": 4096}
    trees = {"mc146818rtc": CLOCK, "0000:00:02.0/vga": vga(0, rom=0xFEBE0001)}

    memory_map = made(blocks, trees=trees)

    assert spans(memory_map, "rom") == [(0xFEBE0000, 0xFEBF0000, "vga.rom", 0)]
    assert "not known" in memory_map.unplaced["0000:00:05.0/odd"]


def test_opaque_virtio_devices_begin_with_their_registers() -> None:
    config = bytearray(256)
    config[4], config[0x10:0x14] = 2, (0xFD000008).to_bytes(4, "little")
    opaque = struct(virtio=b"\0\0\0\2" + bytes(config))
    (field,) = opaque.fields
    tree = type(opaque)("", 1, (type(field)("virtio", "virtio", 0, 260, field.value),))

    memory_map = made(
        {"pc.ram": 16 * MIB, VRAM: MIB}, trees={"mc146818rtc": CLOCK, "0000:00:02.0/gpu": tree}
    )

    assert spans(memory_map, "vram")[0][0] == 0xFD000000


def test_the_fifo_of_vmware_svga_by_its_register() -> None:
    config = bytearray(256)
    config[4] = 2
    config[0x10:0x1C] = b"".join(n.to_bytes(4, "little") for n in (0xC001, 0xFD000008, 0xFE000008))
    trees = {"mc146818rtc": CLOCK, "0000:00:02.0/vmware_vga": pci(bytes(config))}

    memory_map = made({"pc.ram": 16 * MIB, VRAM: MIB, "vmsvga.fifo": 65536}, trees=trees)

    assert spans(memory_map, "vram") == [
        (0xFD000000, 0xFD000000 + MIB, "vga.vram", 0),
        (0xFE000000, 0xFE010000, "vmsvga.fifo", 0),
    ]
