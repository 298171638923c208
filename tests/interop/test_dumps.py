"""QEMU's own dumps of a guest's memory, against its image of the same moment."""

from __future__ import annotations

from pathlib import Path

import pytest
from golden import load
from unit.test_dumps import need_library

import savefmt
from interop.conftest import need_machine
from interop.qemu import Guest
from savefmt.guest.arch.x86 import X86Registers

pytestmark = [pytest.mark.interop, pytest.mark.usefixtures("qemu")]

MACHINE = "pc-q35-10.0"


def test_each_format_holds_what_the_image_holds(tmp_path: Path) -> None:
    """Range by range; kdump files where libkdumpfile is installed."""
    need_machine(MACHINE)
    words = ["-machine", MACHINE, "-m", "8M", "-bios", str(load.firmware("halt", tmp_path))]
    with Guest(tmp_path, words) as guest:
        guest.cont()
        guest.wait_console("R")
        guest.stop()
        formats = guest.qmp("query-dump-guest-memory-capability")["formats"]
        wanted = {name: name for name in formats if name != "win-dmp"} | {"paging": "elf"}
        for name, format in wanted.items():
            guest.qmp(
                "dump-guest-memory",
                paging=name == "paging",
                protocol=f"file:{tmp_path / name}",
                format=format,
            )
        guest.migrate_to(f"file:{tmp_path / 'image'}")
    assert {"elf", "kdump-zlib"} <= wanted.keys()
    if any("kdump" in name for name in wanted):
        need_library()

    with savefmt.open(tmp_path / "image") as image:
        there = image.guest.physical
        for name in wanted:
            with savefmt.open(tmp_path / name) as dump:
                for item in there.map.ranges:
                    found = dump.guest.physical.read(item.start, item.length)
                    assert found == there.read(item.start, item.length), (name, item)
        for name, form in wanted.items():
            if form == "elf":
                with savefmt.open(tmp_path / name) as dump:
                    for mine, its in zip(image.guest.cpus, dump.guest.cpus, strict=True):
                        assert isinstance(mine, X86Registers)
                        assert isinstance(its, X86Registers)
                        assert (its.general, its.rip) == (mine.general, mine.rip)
                        assert its.segments == mine.segments
                        assert its.control["cr3"] == mine.control["cr3"]
                        assert its.long_mode == mine.long_mode
