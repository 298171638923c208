"""The memory map: every source of every fact, and what is said when they disagree."""

from __future__ import annotations

import pytest
from fakeguest import DAMAGED, GIB, MIB, FakeGuest, Tree, clock, pci, struct
from memorymaps import (
    DIMM,
    LABEL,
    TABLES,
    UNSHADOWED,
    acpi,
    codes,
    domain,
    made,
    nodes,
    spans,
)

from savefmt.errors import AddressError, UnsupportedError
from savefmt.format.hardware import Hardware, MemoryDevice, parse_hardware
from savefmt.guest.arch.machinerules import has_amd_hole, is_amd
from savefmt.guest.layers import flatten
from savefmt.guest.memorymap import build_map
from savefmt.guest.physical import PhysicalMemory
from savefmt.model import PhysicalRange


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


def test_the_cmos_counts_what_lies_above_4_gib_up_to_1_tib() -> None:
    """QEMU writes the lowest 24 bits of it; what lies below is told as ever."""
    length, low = 1100 * GIB, 3 * GIB
    trees = {"mc146818rtc": clock(low, (length - low) % (1 << 40))}

    memory_map = made({"pc.ram": length}, trees=trees, xml=domain(model="EPYC"))

    assert spans(memory_map) == [
        (0, low, "pc.ram", 0),
        (1 << 40, (1 << 40) + length - low, "pc.ram", low),
    ]
    assert not memory_map.findings


def test_a_forged_cmos_is_not_believed() -> None:
    memory_map = made({"pc.ram": 4 * GIB}, trees={"mc146818rtc": clock(GIB, 2 * GIB)})

    assert spans(memory_map, "ram")[0] == (0, 2 * GIB, "pc.ram", 0)
    assert codes(memory_map) == {"memmap.cmos"}


@pytest.mark.parametrize("tree", [DAMAGED, struct(cmos_data=b"short"), struct()])
def test_a_damaged_clock_is_none(tree: Tree) -> None:
    assert "memmap.no-cmos" in codes(made({"pc.ram": GIB}, trees={"mc146818rtc": tree}))


def test_numa_nodes_by_libvirts_names() -> None:
    blocks = {"ram-node10": GIB, "ram-node9": 2 * GIB}

    memory_map = made(blocks, trees={"mc146818rtc": clock(2 * GIB, GIB)})

    assert spans(memory_map) == [(0, 2 * GIB, "ram-node9", 0), (4 * GIB, 5 * GIB, "ram-node10", 0)]
    assert not memory_map.findings


@pytest.mark.parametrize("order", [("b", "a"), ("a", "b")])
def test_other_backends_are_chosen_by_the_table_of_affinities(order: tuple[str, str]) -> None:
    blocks = dict(zip(order, (GIB, 512 * MIB), strict=True)) | {"plugged": 256 * MIB}
    acpi = nodes(GIB, 512 * MIB)

    memory_map = made(
        {**blocks, TABLES: len(acpi)},
        trees={"mc146818rtc": clock(1536 * MIB, 0)},
        contents={TABLES: acpi},
    )

    assert spans(memory_map) == [(0, GIB, order[0], 0), (GIB, 1536 * MIB, order[1], 0)]
    assert memory_map.unknown == ("plugged",)


def test_backends_of_one_length_have_no_order() -> None:
    acpi = nodes(GIB, GIB)
    blocks = {"b": GIB, "a": GIB, TABLES: len(acpi)}

    for contents in ({TABLES: acpi}, {}):
        with pytest.raises(UnsupportedError, match="may be among 'b', 'a'.*--place"):
            made(blocks, trees={"mc146818rtc": clock(2 * GIB, 0)}, contents=contents)


def test_names_of_nodes_that_the_firmware_contradicts_prove_nothing() -> None:
    acpi = nodes(GIB, 512 * MIB)
    trees = {"mc146818rtc": clock(1536 * MIB, 0)}
    named = {"ram-node0": GIB, "ram-node1": 512 * MIB, TABLES: len(acpi)}
    swapped = {"ram-node1": GIB, "ram-node0": 512 * MIB, TABLES: len(acpi)}

    good = made(named, trees=trees, contents={TABLES: acpi})

    assert spans(good)[0] == (0, GIB, "ram-node0", 0)
    assert not good.findings
    with pytest.raises(UnsupportedError, match="may be among"):
        made(swapped, trees=trees, contents={TABLES: acpi})


@pytest.mark.parametrize("trees", [{}, {"mc146818rtc": clock(64 * MIB, 0)}])
def test_backends_that_nothing_tells_apart_are_not_main_memory(trees: dict[str, Tree]) -> None:
    with pytest.raises(UnsupportedError, match="may be among 'm0', 'm1'.*--place"):
        made({f"m{number}": MIB for number in range(20)}, trees=trees)


def test_one_backend_alone_is_main_memory() -> None:
    assert spans(made({"anything": GIB}), "ram") == [(0, GIB, "anything", 0)]


def test_no_main_memory_at_all() -> None:
    with pytest.raises(UnsupportedError, match="main memory"):
        made({"pc.bios": 65536})


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
    assert spans(large) == [(0, 2 * GIB, "pc.ram", 0)]  # the rest is at 4 GiB, or at 1 TiB
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


def test_without_a_bridge_nothing_is_placed_where_rom_or_ram_may_be() -> None:
    memory_map = build_map(FakeGuest(BIOS, trees={"mc146818rtc": CLOCK}))

    assert spans(memory_map)[:2] == [
        (0, 0xC0000, "pc.ram", 0),
        (0x100000, 16 * MIB, "pc.ram", 0x100000),
    ]
    assert codes(memory_map) == {"memmap.shadow"}


def test_flash_ends_at_4_gib() -> None:
    blocks = {"pc.ram": 16 * MIB, "system.flash1": 512 << 10, "system.flash0": 3 * MIB}

    assert spans(made(blocks, trees={"mc146818rtc": CLOCK}), "rom") == [
        (4 * GIB - 3 * MIB - (512 << 10), 4 * GIB - 3 * MIB, "system.flash1", 0),
        (4 * GIB - 3 * MIB, 4 * GIB, "system.flash0", 0),
    ]


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
