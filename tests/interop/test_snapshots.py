"""What real `savevm` wrote into a disk image is read, taken out, and loaded by QEMU."""

from __future__ import annotations

import hashlib
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from golden import load

import savefmt
from interop.conftest import need_machine, version_of
from interop.qemu import EMULATOR, Guest

pytestmark = [pytest.mark.interop, pytest.mark.usefixtures("qemu")]

FORMS = {
    "plain": "cluster_size=64k",
    "extended": "cluster_size=64k,extended_l2=on",
    "old": "compat=0.10,cluster_size=4k",
}
# QEMU before 10.2 writes no mapped-ram into a disk image; `make test-newest-qemu` has a newer.
LAYOUTS = list(savefmt.Layout) if (version_of(EMULATOR) or (0,)) >= (10, 2) else ["sequential"]

Held = tuple[dict[str, str], str]
"""Hashes of all blocks, and the registers."""


def golden_arguments(directory: Path) -> list[str]:
    facts = load.manifest()["i440fx"]
    need_machine(facts["machine"])
    firmware = load.firmware(facts["firmware"], directory)
    return [argument.format(firmware=firmware) for argument in facts["arguments"]]


def with_disk(directory: Path, disk: Path, name: str) -> Guest:
    drive = ["-drive", f"if=none,id=disk,format=qcow2,file={disk}"]
    return Guest(directory, [*golden_arguments(directory), *drive], name=name)


def save_twice(directory: Path, disk: Path, capabilities: Mapping[str, bool]) -> dict[str, Held]:
    """Save a guest that runs in between; return what it held each time."""
    held: dict[str, Held] = {}
    with with_disk(directory, disk, "saved") as guest:
        guest.configure(capabilities, None)
        for name in ("first", "second: later"):
            guest.cont()
            time.sleep(0.3)
            guest.stop()
            assert guest.hmp(f'savevm "{name}"') == ""
            held[name] = guest.block_hashes(), guest.registers()
    return held


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", FORMS)
def test_a_snapshot_taken_out_is_the_same_guest(form: str, layout: str, tmp_path: Path) -> None:
    mapped = layout == savefmt.Layout.MAPPED_RAM
    disk = tmp_path / "disk.qcow2"
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", FORMS[form], str(disk), "8M"]
    subprocess.run(create, check=True)
    held = save_twice(tmp_path, disk, {"mapped-ram": True} if mapped else {})
    before = hashlib.sha256(disk.read_bytes()).digest()

    listed = savefmt.list_snapshots(disk)
    assert [one.name for one in listed] == list(held)
    assert all(one.complete for one in listed)
    for name, (blocks, registers) in held.items():
        source = f"{disk}:{name}"
        assert savefmt.check(source, level=savefmt.CheckLevel.FULL).ok
        with savefmt.open(source) as image:
            assert (image.layout is savefmt.Layout.MAPPED_RAM) == mapped
        for other in savefmt.Layout:
            target = tmp_path / f"taken-{other}"
            savefmt.convert(source, target, layout=other, overwrite=True, verify=True)
            with Guest(tmp_path, golden_arguments(tmp_path), incoming=True) as guest:
                guest.load(f"file:{target}", {"mapped-ram": other is savefmt.Layout.MAPPED_RAM})
                assert guest.block_hashes() == blocks
                assert guest.registers() == registers

    assert hashlib.sha256(disk.read_bytes()).digest() == before
    with with_disk(tmp_path, disk, "again") as guest:
        guest.configure({"mapped-ram": mapped} if mapped else {}, None)
        for name, (blocks, _) in held.items():
            assert guest.hmp(f'loadvm "{name}"') == ""
            assert guest.block_hashes() == blocks


def test_a_stream_behind_something_else_is_the_same_guest(tmp_path: Path) -> None:
    """As QMP `migrate file:PATH,offset=N` writes it, in either layout."""
    arguments = golden_arguments(tmp_path)
    held: dict[str, Held] = {}
    for name, mapped in (("mapped", True), ("plain", False)):
        (tmp_path / name).write_bytes(b"\x5a" * 65536)
        with Guest(tmp_path, arguments) as guest:
            guest.cont()
            time.sleep(0.2)
            guest.stop()
            held[name] = guest.block_hashes(), guest.registers()
            guest.migrate_to(f"file:{tmp_path / name},offset=65536", {"mapped-ram": mapped})
    for name, (blocks, registers) in held.items():
        source = savefmt.Source(tmp_path / name, offset=65536)
        for layout in savefmt.Layout:
            target = tmp_path / "taken"
            savefmt.convert(source, target, layout=layout, overwrite=True, verify=True)
            with Guest(tmp_path, arguments, incoming=True) as guest:
                guest.load(f"file:{target}", {"mapped-ram": layout is savefmt.Layout.MAPPED_RAM})
                assert guest.block_hashes() == blocks
                assert guest.registers() == registers
