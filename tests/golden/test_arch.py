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


def test_the_system_registers_of_arm(tmp_path: Path) -> None:
    """One of QEMU 10.0.2, which knew 0x200e0298; the right number of that is 0x200e0280."""
    from savefmt.compat.releases import Reader
    from savefmt.compat.verdict import compatibility
    from savefmt.qemu.hosted import HostedGuest
    from savefmt.qemu.preflight import compare
    from savefmt.qemu.target import Target

    path = tmp_path / "image"
    path.write_bytes(lzma.decompress((CODE / "arm.qemu.xz").read_bytes()))
    releases = [Reader.parse(f"qemu={release}") for release in ("10.0.2", "10.0.13", "7.2.22")]

    same, later, older = compatibility(path, releases).verdicts
    assert not any("registers" in reason for reason in same.reasons)
    assert later.reasons == ("it does not know the system registers 0x200e0298",)
    assert "registers 0x10138002, 0x10138010" in " ".join(older.reasons)
    with savefmt.open(path) as image:
        guest = HostedGuest("guest", image.machine, "inmigrate", running=False)
        for reader, told in zip(releases, (False, True, True), strict=True):
            found = compare(image, Target(guest, {}, release=reader.release))
            assert any("registers" in finding.message for finding in found) is told
