"""The memory map: every source of every fact, and what is said when they disagree."""

from __future__ import annotations

import struct as struct_module
import struct as wire
from typing import Any

import pytest
from fakeguest import DAMAGED, GIB, MIB, FakeGuest, Tree, clock, pci, struct
from monitor import Span, map_spans

from savefmt.errors import AddressError, UnsupportedError
from savefmt.format.devicetree import Struct
from savefmt.format.hardware import Hardware, MemoryDevice, parse_hardware
from savefmt.guest.arch.machinerules import has_amd_hole, is_amd
from savefmt.guest.layers import flatten
from savefmt.guest.memorymap import MemoryMap, build_map
from savefmt.guest.physical import PhysicalMemory
from savefmt.model import PhysicalRange, Severity


def hotplug(*filled: bool) -> Struct:
    """Return a bridge whose controller of memory slots has these filled."""
    slots = tuple(struct(is_enabled=each) for each in filled)
    return struct(pm=struct(acpi_memory_hotplug=struct(devs=slots)))


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


@pytest.mark.parametrize(
    ("machine", "length", "low"),
    [
        ("pc-q35-10.0", 0xAFF00000, 0xAFF00000),
        ("pc-q35-10.0", 0xB0000000, 0x80000000),
        ("pc-q35-rhel9.4.0", 8 * GIB, 0x80000000),
        ("pc-i440fx-10.0", 0xDFF00000, 0xDFF00000),
        ("pc-i440fx-10.0", 0xE0000000, 0xC0000000),
        ("pc-i440fx-1.7", 5 * GIB, 0xE0000000),
        ("pc-1.3", 5 * GIB, 0xE0000000),
        ("pc", 5 * GIB, 0xC0000000),
    ],
)
def test_the_rule_of_the_machine(machine: str, length: int, low: int) -> None:
    memory_map = made({"pc.ram": length}, machine=machine)

    expected = [(0, low, "pc.ram", 0)]
    if low < length:
        expected.append((4 * GIB, 4 * GIB + length - low, "pc.ram", low))
    assert spans(memory_map, "ram") == expected
    assert {item.source for item in memory_map.ranges} == {"rule"}
    assert "memmap.no-cmos" in codes(memory_map)


@pytest.mark.parametrize(("low", "high"), [(8 * MIB, 0), (GIB, 3 * GIB), (3 * GIB, GIB)])
def test_the_cmos_proves_the_split(low: int, high: int) -> None:
    memory_map = made({"pc.ram": low + high}, trees={"mc146818rtc": clock(low, high)})

    assert spans(memory_map, "ram")[0] == (0, low, "pc.ram", 0)
    assert {(item.source, item.detail) for item in memory_map.ranges} == {("stream", "CMOS")}
    assert not memory_map.findings


def test_a_forged_cmos_is_not_believed() -> None:
    memory_map = made({"pc.ram": 4 * GIB}, trees={"mc146818rtc": clock(GIB, 2 * GIB)})

    assert spans(memory_map, "ram")[0] == (0, 2 * GIB, "pc.ram", 0)
    assert codes(memory_map) == {"memmap.cmos"}


@pytest.mark.parametrize("tree", [DAMAGED, struct(cmos_data=b"short"), struct()])
def test_a_damaged_clock_is_none(tree: Tree) -> None:
    assert "memmap.no-cmos" in codes(made({"pc.ram": GIB}, trees={"mc146818rtc": tree}))


def test_numa_nodes_by_libvirts_names() -> None:
    blocks = {"ram-node10": GIB, "ram-node9": 2 * GIB, "memdimm0": 64 * MIB}
    trees = {"mc146818rtc": clock(2 * GIB, GIB), BRIDGE: hotplug(True, False)}

    memory_map = made(blocks, trees=trees)

    assert spans(memory_map) == [
        (0, 2 * GIB, "ram-node9", 0),
        (4 * GIB, 5 * GIB, "ram-node10", 0),
        (5 * GIB, 5 * GIB + 64 * MIB, "memdimm0", 0),
    ]
    assert codes(memory_map) == {"memmap.dimm"}


def test_other_backends_are_chosen_by_the_cmos() -> None:
    blocks = {"b": GIB, "a": GIB, "plugged": 256 * MIB}

    trees = {"mc146818rtc": clock(2 * GIB, 0), BRIDGE: hotplug(True)}

    memory_map = made(blocks, trees=trees)

    assert spans(memory_map)[:2] == [(0, GIB, "a", 0), (GIB, 2 * GIB, "b", 0)]
    assert spans(memory_map, "dimm")[0][2] == "plugged"
    assert codes(memory_map) == {"memmap.dimm", "memmap.numa-order"}


@pytest.mark.parametrize("trees", [{}, {"mc146818rtc": clock(64 * MIB, 0)}])
def test_backends_that_nothing_tells_apart_are_not_main_memory(trees: dict[str, Tree]) -> None:
    with pytest.raises(UnsupportedError, match="may be among 'm0', 'm1'.*--place"):
        made({f"m{number}": MIB for number in range(20)}, trees=trees)


def test_one_backend_alone_is_main_memory() -> None:
    assert spans(made({"anything": GIB}), "ram") == [(0, GIB, "anything", 0)]


@pytest.mark.parametrize(
    ("filled", "placed"), [((), 0), ((False, False), 0), ((True, False), 0), ((True, True), 2)]
)
def test_blocks_are_dimms_as_far_as_slots_are_filled(filled: tuple[bool, ...], placed: int) -> None:
    """What nobody proves to be a DIMM may be a device's: it is not placed, nor moves others."""
    blocks = {"pc.ram": 2 * GIB, "memdimm0": 64 * MIB, "erst": 64 * MIB}
    trees = {"mc146818rtc": clock(2 * GIB, 0), BRIDGE: hotplug(*filled)}

    memory_map = made(blocks, trees=trees)

    assert len(spans(memory_map, "dimm")) == placed
    assert len(memory_map.unplaced) == 2 - placed
    assert ("memmap.dimm" in codes(memory_map)) is any(filled)


def test_a_dimm_of_the_xml_leaves_no_slot_for_others() -> None:
    xml = domain(DIMM.format(model="dimm", size=64, slot=0, base="0x160000000", label=""))
    blocks = {"pc.ram": 2 * GIB, "memdimm0": 64 * MIB, "erst": 64 * MIB}
    trees = {"mc146818rtc": clock(2 * GIB, 0), BRIDGE: hotplug(True)}

    memory_map = made(blocks, xml=xml, trees=trees)

    assert spans(memory_map, "dimm") == [(0x160000000, 0x160000000 + 64 * MIB, "memdimm0", 0)]
    assert memory_map.unplaced == {"erst": "nothing tells whose memory it is"}


def test_no_main_memory_at_all() -> None:
    with pytest.raises(UnsupportedError, match="main memory"):
        made({"pc.bios": 65536})


XML = """<domain type='kvm'><maxMemory slots='{slots}' unit='GiB'>{most}</maxMemory>
<os><type arch='x86_64' machine='pc-q35-10.0'>hvm</type></os>
<cpu><model>{model}</model></cpu><devices>{devices}</devices></domain>"""
DIMM = """<memory model='{model}'><target><size unit='MiB'>{size}</size>{label}</target>
<address type='dimm' slot='{slot}' base='{base}'/></memory>"""
LABEL = "<label><size unit='MiB'>2</size></label>"


def domain(*devices: str, slots: int = 4, most: int = 8, model: str = "Skylake-Server") -> bytes:
    joined = "".join(devices)
    return XML.format(slots=slots, most=most, model=model, devices=joined).encode()


def test_dimms_by_the_xml() -> None:
    xml = domain(
        DIMM.format(model="dimm", size=128, slot=1, base="0x160000000", label=""),
        DIMM.format(model="nvdimm", size=130, slot=0, base="0x180000000", label=LABEL),
        "<memory model='virtio-mem'><address type='pci'/></memory>",
    )
    blocks = {"pc.ram": 2 * GIB, "memnvdimm0": 130 * MIB, "memdimm1": 128 * MIB}

    memory_map = made(blocks, xml=xml, trees={"mc146818rtc": clock(2 * GIB, 0)})

    assert spans(memory_map, "dimm") == [
        (0x160000000, 0x160000000 + 128 * MIB, "memdimm1", 0),
        (0x180000000, 0x180000000 + 128 * MIB, "memnvdimm0", 0),
    ]
    assert {item.source for item in memory_map.ranges if item.kind == "dimm"} == {"xml"}


def test_dimms_by_the_block_list() -> None:
    memory_map = made(
        {"pc.ram": 2 * GIB, "d1": 64 * MIB, "d0": 64 * MIB},
        guest_addresses={"pc.ram": 0, "d1": 0, "d0": 64 * MIB},
        trees={"mc146818rtc": clock(2 * GIB, 0)},
    )

    assert spans(memory_map, "dimm") == [
        (4 * GIB, 4 * GIB + 64 * MIB, "d1", 0),
        (4 * GIB + 64 * MIB, 4 * GIB + 128 * MIB, "d0", 0),
    ]
    assert not memory_map.findings


def virtio_mem(address: int, bitmap: bytes, *, unit: int = 2 * MIB, size: int = GIB) -> Struct:
    facts = struct(addr=address, region_size=size, block_size=unit, node=0)
    return struct(tmp=facts, size=0, bitmap=bitmap)


def test_dimms_by_rule_keep_off_other_memory() -> None:
    memory_map = made(
        {"pc.ram": 2 * GIB, "d0": 64 * MIB, "d1": 65 * MIB, "0000:00:03.0/vm": GIB},
        trees={
            "mc146818rtc": clock(2 * GIB, 0),
            BRIDGE: hotplug(True, True),
            "0000:00:03.0/virtio-mem-device-early": virtio_mem(4 * GIB, b"\1\0\0\0\0\0\0\0"),
        },
    )

    assert spans(memory_map) == [
        (0, 2 * GIB, "pc.ram", 0),
        (4 * GIB, 4 * GIB + 2 * MIB, "vm", 0),
        (5 * GIB, 5 * GIB + 64 * MIB, "d0", 0),
        (5 * GIB + 64 * MIB, 5 * GIB + 129 * MIB, "d1", 0),
    ]
    assert codes(memory_map) == {"memmap.dimm"}


def test_virtio_mem_shows_what_is_plugged() -> None:
    bitmap = wire.pack("<Q", 0b11010) + bytes(56) + b"\xff"  # the end is beyond the block
    trees = {
        "mc146818rtc": clock(2 * GIB, 0),
        "0000:00:03.0/virtio-mem-device-early": virtio_mem(4 * GIB, bitmap),
    }

    memory_map = made({"pc.ram": 2 * GIB, "0000:00:03.0/vm": GIB}, trees=trees)

    assert spans(memory_map, "virtio-mem") == [
        (4 * GIB + 2 * MIB, 4 * GIB + 4 * MIB, "vm", 2 * MIB),
        (4 * GIB + 6 * MIB, 4 * GIB + 10 * MIB, "vm", 6 * MIB),
    ]


@pytest.mark.parametrize(
    ("tree", "code"),
    [
        (virtio_mem(4 * GIB, b"", unit=0), "memmap.virtio-mem"),
        (struct(tmp=struct()), "memmap.virtio-mem"),
        (DAMAGED, "devices.damaged"),
        (virtio_mem((1 << 52) - 4096, b"\1"), "memmap.address"),
        (virtio_mem(GIB, b"\1"), "memmap.overlap"),
        (virtio_mem(4 * GIB, b"\x55" * 20_000, unit=4096), "memmap.virtio-mem"),
    ],
)
def test_hostile_virtio_mem(tree: Tree, code: str) -> None:
    path = "0000:00:03.0"
    trees = {"mc146818rtc": clock(2 * GIB, 0), f"{path}/virtio-mem-device-early": tree}

    memory_map = made({"pc.ram": 2 * GIB, f"{path}/vm": GIB}, trees=trees)

    assert code in codes(memory_map)
    assert len(memory_map.ranges) < 10
    assert memory_map.ranges[0].block == "pc.ram"


def test_overlapping_dimms_are_an_error() -> None:
    both = [
        DIMM.format(model="dimm", size=128, slot=slot, base="0x140000000", label="")
        for slot in (0, 1)
    ]
    blocks = {"pc.ram": 2 * GIB, "memdimm0": 128 * MIB, "memdimm1": 128 * MIB}

    memory_map = made(blocks, xml=domain(*both), trees={"mc146818rtc": clock(2 * GIB, 0)})

    (finding,) = memory_map.findings
    assert finding.code == "memmap.overlap"
    assert finding.severity is Severity.ERROR


@pytest.mark.parametrize(
    ("machine", "model", "high"),
    [
        ("pc-q35-10.0", "EPYC-Rome", 1 << 40),
        ("pc-q35-7.0", "EPYC-Rome", 4 * GIB),
        ("pc-q35-10.0", "Skylake-Server", 4 * GIB),
        ("pc-i440fx-10.0", "Opteron_G5", 1 << 40),
    ],
)
def test_relocation_above_1_tib(machine: str, model: str, high: int) -> None:
    trees = {"mc146818rtc": clock(2 * GIB, 6 * GIB)}

    memory_map = made(
        {"pc.ram": 8 * GIB}, machine=machine, trees=trees, xml=domain(most=1100, model=model)
    )

    assert spans(memory_map, "ram")[1] == (high, high + 6 * GIB, "pc.ram", 2 * GIB)
    assert not [code for code in codes(memory_map) if code == "memmap.relocation"]


TABLES = "/rom@etc/acpi/tables"


def acpi(*starts: int, flags: int = 1) -> bytes:
    """Tables as QEMU lays them, with memory of 1 GiB at each start."""
    entries = b"".join(
        struct_module.pack("<BBIHQQII8x", 1, 40, 0, 0, start, GIB, 0, flags) for start in starts
    )
    srat = b"SRAT" + struct_module.pack("<I", 48 + len(entries)) + bytes(40) + entries
    return (b"FACS" + struct_module.pack("<I", 64) + bytes(56) + srat).ljust(0x20000, b"\0")


@pytest.mark.parametrize(
    ("tables", "high"),
    [
        (acpi(0, 1 << 40), 1 << 40),
        (acpi(0, 4 * GIB), 4 * GIB),
        (acpi(0, 1 << 40, flags=0), 4 * GIB),
        (acpi(0, 1 << 40)[:100], 4 * GIB),
        (acpi(0, 1 << 40).replace(b"SRAT", b"DSDT"), 4 * GIB),
        (b"FACS" + bytes(60), 4 * GIB),
        (acpi(1 << 40)[:-5].replace(b"\x01\x28", b"\x01\x01"), 4 * GIB),
    ],
)
def test_the_table_of_affinities_tells_of_1_tib(tables: bytes, high: int) -> None:
    """The stream says nothing of what the guest could grow to, nor of its processor."""
    blocks = {"pc.ram": 8 * GIB, TABLES: len(tables)}

    memory_map = made(
        blocks, trees={"mc146818rtc": clock(2 * GIB, 6 * GIB)}, contents={TABLES: tables}
    )

    assert spans(memory_map, "ram")[1] == (high, high + 6 * GIB, "pc.ram", 2 * GIB)


def test_an_unknown_vendor_is_said_where_it_matters() -> None:
    trees = {"mc146818rtc": clock(2 * GIB, 6 * GIB)}
    large = made({"pc.ram": 8 * GIB}, trees=trees, xml=domain(most=1100, model="host"))
    small = made({"pc.ram": 8 * GIB}, trees=trees, xml=domain(most=16, model="host"))

    assert codes(large) == {"memmap.relocation"}
    assert not small.findings


def test_the_cookie_tells_the_processor() -> None:
    cookie = b"<cookie><cpu><model>EPYC</model><vendor>AMD</vendor></cpu></cookie>"

    facts = parse_hardware(domain(model="host"), cookie)

    assert (facts.cpu_model, facts.cpu_vendor) == ("EPYC", "AMD")


def test_hardware_in_the_xml() -> None:
    dimm = DIMM.format(model="nvdimm", size=130, slot=3, base="0x140000000", label=LABEL)
    bare = "<memory model='dimm'/>"

    facts = parse_hardware(domain(dimm, bare))

    assert facts == Hardware(
        architecture="x86_64",
        machine="pc-q35-10.0",
        cpu_model="Skylake-Server",
        max_memory=8 * GIB,
        slots=4,
        devices=(
            MemoryDevice("nvdimm", 3, 0x140000000, 130 * MIB, 2 * MIB),
            MemoryDevice("dimm", None, None, None),
        ),
    )


def test_an_illegible_xml_is_a_finding() -> None:
    assert "envelope.xml" in codes(made({"pc.ram": GIB}, xml=b"<domain>"))


BIOS = {"pc.ram": 16 * MIB, "pc.bios": 256 << 10, "pc.rom": 128 << 10}
CLOCK = clock(16 * MIB, 0)


def test_roms_show_until_they_are_shadowed() -> None:
    trees = {"mc146818rtc": CLOCK, "0000:00:00.0/mch": UNSHADOWED}

    assert spans(made(BIOS, trees=trees)) == [
        (0, 0xC0000, "pc.ram", 0),
        (0xC0000, 0xE0000, "pc.rom", 0),
        (0xE0000, 0x100000, "pc.bios", 128 << 10),
        (0x100000, 16 * MIB, "pc.ram", 0x100000),
        (4 * GIB - (256 << 10), 4 * GIB, "pc.bios", 0),
    ]


def test_each_step_is_shadowed_by_itself() -> None:
    # RAM from 0xc4000 to 0xc7fff and from 0xf0000 on.
    config = pci(bytes(0x90) + bytes([0x10, 0x10]))
    trees = {"mc146818rtc": CLOCK, "0000:00:00.0/mch": config}

    assert spans(made(BIOS, trees=trees))[:6] == [
        (0, 0xC0000, "pc.ram", 0),
        (0xC0000, 0xC4000, "pc.rom", 0),
        (0xC4000, 0xC8000, "pc.ram", 0xC4000),
        (0xC8000, 0xE0000, "pc.rom", 0x8000),
        (0xE0000, 0xF0000, "pc.bios", 128 << 10),
        (0xF0000, 16 * MIB, "pc.ram", 0xF0000),
    ]


def test_without_a_bridge_ram_is_taken() -> None:
    memory_map = build_map(FakeGuest(BIOS, trees={"mc146818rtc": CLOCK}))

    assert spans(memory_map)[0] == (0, 16 * MIB, "pc.ram", 0)
    assert codes(memory_map) == {"memmap.shadow"}


def test_flash_ends_at_4_gib() -> None:
    blocks = {"pc.ram": 16 * MIB, "system.flash1": 512 << 10, "system.flash0": 3 * MIB}

    assert spans(made(blocks, trees={"mc146818rtc": CLOCK}), "rom") == [
        (4 * GIB - 3 * MIB - (512 << 10), 4 * GIB - 3 * MIB, "system.flash1", 0),
        (4 * GIB - 3 * MIB, 4 * GIB, "system.flash0", 0),
    ]


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


def test_blocks_are_placed_where_the_caller_says() -> None:
    blocks = {"pc.ram": 2 * GIB, "erst": MIB}
    trees: dict[str, Tree] = {"mc146818rtc": clock(2 * GIB, 0)}

    memory_map = made(blocks, trees=trees, places={"erst": 0xFE000000})

    (said,) = (item for item in memory_map.ranges if item.source == "said")
    assert (said.block, said.start, said.length) == ("erst", 0xFE000000, MIB)
    assert "memmap.said" in codes(memory_map)
    assert not memory_map.unplaced


def test_a_place_overrules_the_image_and_may_contradict_it() -> None:
    trees: dict[str, Tree] = {"mc146818rtc": clock(2 * GIB, GIB)}

    moved = made({"pc.ram": 3 * GIB}, trees=trees, places={"pc.ram": GIB})
    both = made({"pc.ram": 3 * GIB, "erst": MIB}, trees=trees, places={"erst": GIB})

    assert spans(moved, "ram") == [(GIB, 4 * GIB, "pc.ram", 0)]
    assert "memmap.overlap" in codes(both)


def test_an_unknown_machine_has_what_the_caller_places_and_no_more() -> None:
    guest = FakeGuest({"a": GIB, "b": MIB}, machine="mystery", places={"a": 0x1000})

    memory_map = build_map(guest)

    assert spans(memory_map) == [(0x1000, GIB + 0x1000, "a", 0)]
    assert set(memory_map.unplaced) == {"b"}
    assert "memmap.unknown" in codes(memory_map)
    with pytest.raises(UnsupportedError, match="no block 'c' to place, only a, b"):
        build_map(FakeGuest({"a": GIB, "b": MIB}, places={"c": 0}))


@pytest.mark.parametrize("block", ["xen.ram", "mach-virt.tag"])
def test_blocks_that_are_no_memory_of_the_machine(block: str) -> None:
    memory_map = made({"pc.ram": GIB, block: GIB}, trees={"mc146818rtc": clock(GIB, 0)})

    assert block in memory_map.unplaced


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


@pytest.mark.parametrize(
    ("machine", "hole"),
    [
        ("pc-q35-7.0", False),
        ("pc-q35-7.1", True),
        ("pc-q35-10.0", True),
        ("pc-q35-rhel9.0.0", False),
        ("pc-q35-rhel9.2.0", True),
        ("pc-q35-noble", True),
    ],
)
def test_which_machines_relocate(machine: str, hole: bool) -> None:
    assert has_amd_hole(machine) is hole


def test_vendors() -> None:
    assert is_amd("AMD", "host") is True
    assert is_amd("Intel", "EPYC") is False
    assert is_amd(None, "EPYC-Milan-v2") is True
    assert is_amd(None, "Skylake-Server") is False
    assert is_amd(None, "host-passthrough") is None
    assert is_amd(None, None) is None


def test_reading_across_ranges() -> None:
    trees = {"mc146818rtc": CLOCK, "0000:00:00.0/mch": UNSHADOWED}
    memory = PhysicalMemory(FakeGuest(BIOS, trees=trees))

    assert memory.read(0xBFFF0, 0x20) == b"pc.ram+0xbfff0..pc.rom+0x0......"
    assert memory.read(16 * MIB, 0) == b""
    with pytest.raises(AddressError, match="0x1000000"):
        memory.read(16 * MIB - 4, 8)
    with pytest.raises(ValueError, match="-1"):
        memory.read(0, -1)
    assert memory.find(-1) is None
    assert memory.find(1 << 60) is None


def test_layers_with_no_length_do_not_count() -> None:
    empty = PhysicalRange(0, 0, "x", 0, "ram", "rule")

    assert flatten([(0, empty)]) == []
