"""Guests whose memory lies in a file that their image leaves out (x-ignore-shared)."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
from golden import load

import savefmt
from interop.conftest import need_machine, version_of
from interop.qemu import EMULATOR, Guest, MigrationFailed
from interop.test_qemu_loads import Evidence
from savefmt.model import CheckLevel, Layout

pytestmark = [pytest.mark.interop, pytest.mark.usefixtures("qemu")]

MACHINE = "pc-q35-10.0"
IGNORE = {"x-ignore-shared": True}
MAPPED = {"mapped-ram": True}


def saved_guest(directory: Path, *, mapped: bool) -> tuple[Path, Path, Evidence, list[str]]:
    """Save a guest; return the state, the file of its memory, and how it stood."""
    need_machine(MACHINE)
    memory, state = directory / "memory", directory / "state"
    firmware = load.firmware("halt", directory)
    words = ["-m", "8M", "-bios", str(firmware)]
    backend = f"memory-backend-file,id=pc.ram,size=8M,mem-path={memory},share=on"
    shared = ["-object", backend, "-machine", f"{MACHINE},memory-backend=pc.ram", *words]
    with Guest(directory, shared) as guest:
        guest.cont()
        guest.wait_console("R")
        guest.stop()
        guest.migrate_to(f"file:{state}", IGNORE | (MAPPED if mapped else {}))
        evidence = Evidence.of(guest)
        kept = directory / "kept"
        shutil.copy(memory, kept)
    return state, kept, evidence, ["-machine", MACHINE, *words]


@pytest.mark.parametrize("mapped", [False, True], ids=["sequential", "mapped-ram"])
def test_what_was_left_out_comes_from_its_file(mapped: bool, tmp_path: Path) -> None:
    """QEMU's own hashes, and QEMU's own verdict on what the two are converted into."""
    if mapped and (version_of(EMULATOR) or ()) < (11,):
        with pytest.raises(MigrationFailed):  # it cannot write such an image
            saved_guest(tmp_path, mapped=True)
        return
    state, memory, evidence, words = saved_guest(tmp_path, mapped=mapped)
    source = savefmt.Source(state, shared=(("pc.ram", memory),))

    with savefmt.open(source) as image:
        for name, sha256 in evidence.blocks.items():
            content = image.memory.read(name, 0, image.blocks[name].used_length)
            assert hashlib.sha256(content).hexdigest() == sha256, name
    assert savefmt.check(source, level=CheckLevel.FULL).ok
    for layout in Layout:
        target = tmp_path / f"whole-{layout}"
        savefmt.convert(source, target, layout=layout, codec="raw", verify=True)
        with Guest(tmp_path, words, name=str(layout), incoming=True) as guest:
            guest.load(f"file:{target}", MAPPED if layout is Layout.MAPPED_RAM else {})
            assert Evidence.of(guest) == evidence
