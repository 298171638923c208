"""Small guests of five architectures: map, registers, core, as QEMU has them."""

from __future__ import annotations

import hashlib
import json
import lzma
from pathlib import Path

import pytest
from archguests import CODE, GUESTS, check_registers
from monitor import map_spans, memory_spans

import savefmt

CORES = json.loads((CODE / "cores.json").read_text())


@pytest.fixture(params=GUESTS)
def name(request: pytest.FixtureRequest) -> str:
    """An architecture."""
    chosen: str = request.param
    return chosen


@pytest.fixture
def image(name: str, tmp_path: Path) -> Path:
    """Its image, unpacked."""
    path = tmp_path / name
    path.write_bytes(lzma.decompress((CODE / f"{name}.qemu.xz").read_bytes()))
    return path


def test_map_and_registers(name: str, image: Path) -> None:
    with savefmt.open(image) as opened:
        memory_map, cpus = opened.guest.physical.map, opened.guest.cpus
        assert opened.guest.arch.name == name
    assert map_spans(memory_map.ranges) == memory_spans((CODE / f"{name}.mtree").read_text())
    assert not memory_map.findings
    check_registers(GUESTS[name], cpus, (CODE / f"{name}.regs").read_text())


def test_core_is_qemus(name: str, image: Path, tmp_path: Path) -> None:
    savefmt.export(image, tmp_path / "core", format="elf", compat="qemu")

    with (tmp_path / "core").open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == CORES[name]


def test_command_line_names_the_emulator(name: str, image: Path) -> None:
    from savefmt.qemu import command_line

    with savefmt.open(image) as opened:
        words = command_line(opened).words
    assert words[0] == (f"qemu-system-{name}",)
