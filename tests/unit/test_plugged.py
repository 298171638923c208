"""Memory that is plugged: DIMMs, NVDIMMs and virtio-mem, by what proves their places."""

from __future__ import annotations

import struct as wire

import pytest
from fakeguest import DAMAGED, GIB, MIB, Tree, clock, struct
from memorymaps import (
    BRIDGE,
    DIMM,
    LABEL,
    TABLES,
    codes,
    domain,
    hotplug,
    made,
    nfit,
    spans,
    tables,
    virtio_mem,
)

from savefmt.model import Severity

SOMEWHERE = "a DIMM, and nothing tells where it is plugged"
NOBODYS = "nothing tells whose memory it is"


@pytest.mark.parametrize(
    ("filled", "reason"),
    [
        ((), NOBODYS),
        ((False, False), NOBODYS),
        ((True, False), NOBODYS),
        ((True, True), SOMEWHERE),
    ],
)
def test_a_filled_slot_tells_no_address(filled: tuple[bool, ...], reason: str) -> None:
    """The first free place is likely, and no proof: what was there may have been unplugged."""
    blocks = {"pc.ram": 2 * GIB, "memdimm0": 64 * MIB, "erst": 64 * MIB}
    trees = {"mc146818rtc": clock(2 * GIB, 0), BRIDGE: hotplug(*filled)}

    memory_map = made(blocks, trees=trees)

    assert spans(memory_map, "dimm") == []
    assert memory_map.unplaced == {"memdimm0": reason, "erst": reason}
    assert memory_map.unknown == ("memdimm0", "erst")
    assert ("memmap.dimm" in codes(memory_map)) is any(filled)


def test_a_dimm_that_the_caller_places_leaves_no_doubt() -> None:
    blocks = {"pc.ram": 2 * GIB, "memdimm0": 64 * MIB, "erst": 64 * MIB}
    trees = {"mc146818rtc": clock(2 * GIB, 0), BRIDGE: hotplug(True)}

    memory_map = made(blocks, trees=trees, places={"memdimm0": 5 * GIB})

    assert codes(memory_map) == {"memmap.said"}
    assert memory_map.unplaced == {"erst": NOBODYS}


def test_a_dimm_of_the_xml_leaves_no_slot_for_others() -> None:
    xml = domain(DIMM.format(model="dimm", size=64, slot=0, base="0x160000000", label=""))
    blocks = {"pc.ram": 2 * GIB, "memdimm0": 64 * MIB, "erst": 64 * MIB}
    trees = {"mc146818rtc": clock(2 * GIB, 0), BRIDGE: hotplug(True)}

    memory_map = made(blocks, xml=xml, trees=trees)

    assert spans(memory_map, "dimm") == [(0x160000000, 0x160000000 + 64 * MIB, "memdimm0", 0)]
    assert memory_map.unplaced == {"erst": NOBODYS}


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


@pytest.mark.parametrize("filled", [2, 1])
def test_dimms_by_the_block_list(filled: int) -> None:
    """Every block of such a list has an address; only of a DIMM it counts from device memory."""
    memory_map = made(
        {"pc.ram": 2 * GIB, "d1": 64 * MIB, "d0": 64 * MIB},
        guest_addresses={"pc.ram": 0, "d1": 0, "d0": 64 * MIB},
        trees={"mc146818rtc": clock(2 * GIB, 0), BRIDGE: hotplug(*[True] * filled)},
    )

    if filled < 2:
        assert memory_map.unknown == ("d1", "d0")
        return
    assert spans(memory_map, "dimm") == [
        (4 * GIB, 4 * GIB + 64 * MIB, "d1", 0),
        (4 * GIB + 64 * MIB, 4 * GIB + 128 * MIB, "d0", 0),
    ]
    assert not memory_map.findings


@pytest.mark.parametrize(
    ("lengths", "placed"),
    [
        ({"n0": 130, "n1": 66}, {"n0": 6 * GIB, "n1": 5 * GIB}),  # with label areas
        ({"n0": 64, "n1": 128}, {"n0": 5 * GIB, "n1": 6 * GIB}),
        ({"n0": 64, "n1": 128, "erst": 1}, {"n0": 5 * GIB, "n1": 6 * GIB}),
        ({"n0": 64, "n1": 128, "dimm": 64}, {"n1": 6 * GIB}),
        ({"n0": 64, "n1": 128, "dimm": 256}, {}),
        ({"dimm": 16}, {}),
    ],
)
def test_nvdimms_by_the_firmwares_table(lengths: dict[str, int], placed: dict[str, int]) -> None:
    """A range has a block that is long enough; it is placed where there is but one."""
    acpi = tables(nfit((5 * GIB, 64 * MIB), (6 * GIB, 128 * MIB)))
    blocks = {"pc.ram": 2 * GIB} | {name: length * MIB for name, length in lengths.items()}

    memory_map = made(
        {**blocks, TABLES: len(acpi)},
        trees={"mc146818rtc": clock(2 * GIB, 0)},
        contents={TABLES: acpi},
    )

    dimms = [item for item in memory_map.ranges if item.kind == "dimm"]
    assert {item.block: item.start for item in dimms} == placed
    assert {item.detail for item in dimms} <= {"NFIT of the firmware"}
    assert {item.start: item.length for item in dimms}.items() <= {
        5 * GIB: 64 * MIB,
        6 * GIB: 128 * MIB,
    }.items()


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
