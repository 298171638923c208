"""Readers that show other files as images: any damage is an error of ours, or harmless."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from builder import PAGE_SIZE, Record, all_records, make_stream, page
from dumpfiles import make_core
from hypothesis import given
from hypothesis import strategies as st
from qcow2disk import Disk

import savefmt
from savefmt import SavefmtError, Source
from savefmt.guest.mappings import Walk
from savefmt.scan.patterns import literal
from savefmt.scan.search import search

ROOT = struct.pack("<512Q", *(number << 12 | 3 for number in range(512)))
"""A table whose entries lead into memory, to itself and to where none is."""

VCPU = struct.pack("<II53Q", 1, 440, *[0] * 48, 0x80000001, 0, 0, 4096, 0x20) + bytes(8)
LOW = page(0) + ROOT + b"".join(map(page, range(2, 8)))
HIGH = page(20) + bytes(PAGE_SIZE) + page(21)
CORE = make_core([(0, LOW), (32 * PAGE_SIZE, HIGH)], vcpus=[VCPU, VCPU])
HEAD = len(CORE) - len(LOW) - len(HIGH)

RAM = b"".join(page(number) + bytes(PAGE_SIZE) for number in range(8))
BLOCKS = {"pc.ram": RAM, "pc.bios": page(90) + bytes(PAGE_SIZE) + page(91)}
SENT: list[list[Record]] = [all_records({"pc.bios": BLOCKS["pc.bios"]})]
ADDRESSES = dict.fromkeys(BLOCKS, 0)
STATES = {
    "sequential": make_stream(blocks=BLOCKS, guest_addresses=ADDRESSES, rounds=SENT),
    "mapped": make_stream(
        layout="mapped-ram",
        blocks=BLOCKS,
        guest_addresses=ADDRESSES,
        ignored=frozenset({"pc.ram"}),
        align=PAGE_SIZE,
    ),
}
STATES["snapshot"] = Disk().build({"one": STATES["sequential"]})

Damage = Callable[[bytes], bytes]


@st.composite
def damages(draw: st.DrawFn, *, most: int = 4) -> Damage:
    """Draw what changes bytes, the first ones above all, and cuts the end off."""
    changes = draw(
        st.lists(st.tuples(st.floats(0, 1), st.booleans(), st.integers(0, 255)), max_size=most)
    )
    left = draw(st.one_of(st.just(1.0), st.floats(0, 1)))

    def damage(data: bytes) -> bytes:
        damaged = bytearray(data)
        for where, early, value in changes:
            damaged[int(where * (min(HEAD, len(data)) if early else len(data) - 1))] = value
        return bytes(damaged[: int(len(data) * left)])

    return damage


@given(damage=damages())
def test_any_damage_to_an_elf_core_is_an_error_or_harmless(damage: Damage) -> None:
    content = damage(CORE)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "core"
        path.write_bytes(content)
        with suppress(SavefmtError), savefmt.open(path) as image:
            blocks = image.head.blocks.blocks
            assert sum(block.used_length for block in blocks) <= len(content)
            for hit in search(image, [literal(b"\0\0\0\x15")]):
                assert hit.data == b"\0\0\0\x15"
            with suppress(SavefmtError):
                for cpu in image.guest.cpus:
                    space = image.guest.space(cpu.cpu)
                    mapped = list(Walk(space.tables).mappings())
                    with suppress(SavefmtError):
                        space.read(mapped[0].virtual if mapped else 0, 16)


def test_the_core_itself_is_sound(tmp_path: Path) -> None:
    path = tmp_path / "core"
    path.write_bytes(CORE)
    with savefmt.open(path) as image:
        assert len(image.guest.cpus) == 2
        assert list(Walk(image.guest.space().tables).mappings())
        assert len(list(search(image, [literal(b"\0\0\0\x15")]))) == PAGE_SIZE // 4


@pytest.mark.parametrize("kind", STATES)
@given(damage=damages(most=3), length=st.one_of(st.just(len(RAM)), st.integers(0, len(RAM))))
def test_any_damage_to_what_is_filled_in_is_an_error_or_harmless(
    kind: str, damage: Damage, length: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, memory = Path(folder) / "image", Path(folder) / "ram"
        path.write_bytes(damage(STATES[kind]))
        memory.write_bytes(RAM[:length])
        snapshot = "one" if kind == "snapshot" else None
        source = Source(path, snapshot, 0, (("pc.ram", memory),))
        with suppress(SavefmtError), savefmt.open(source) as image:
            for name, block in image.blocks.items():
                with suppress(SavefmtError):
                    data = image.memory.read(name, 0, min(block.used_length, 1 << 20))
                    assert name != "pc.ram" or RAM.startswith(data[: len(RAM)])
