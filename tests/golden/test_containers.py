"""Whatever a guest's state lies in, every command that reads says the same of it."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from loopdevices import loop_device

import savefmt
from golden import load
from golden.test_fault_files import golden
from savefmt.cli.main import main
from savefmt.guest.arch.x86 import X86Registers
from savefmt.guest.mappings import Walk

COMMANDS = {
    "search": ("search", "IMAGE", "BIOS", "--max-count", "20", "--virtual"),
    "strings": ("strings", "--min-length", "12"),
    "stats": ("stats",),
    "os": ("os",),
    "read": ("read", "--physical", "IMAGE", "0x100000", "64"),
    "memmap": ("memmap",),
    "regs": ("regs",),
    "devices": ("devices",),
    "hash": ("hash",),
    "export": ("export", "-q", "-F", "-O", "raw", "IMAGE", "TARGET"),
    "null": ("convert", "-q", "IMAGE", "-O", "null"),
}
"""What reads; the image comes last where nothing else says so."""


def padded(state: bytes, folder: Path) -> Iterator[Path]:
    """A .vmstate file of Proxmox is as long as the guest's memory could have made it."""
    path = folder / "vm-100-state-suspend.raw"
    path.write_bytes(state + bytes(600_000))
    yield path


def on_a_volume(state: bytes, folder: Path) -> Iterator[Path]:
    """What the volume held before is behind it."""
    length = -(-(len(state) + 100_000) // 4096) * 4096
    with loop_device(folder / "backing", length) as volume:
        with volume.open("r+b") as device:
            device.write(state)
        yield volume


def compressed(state: bytes, folder: Path) -> Iterator[Path]:
    """LXD and Incus keep states so."""
    path = folder / "state.gz"
    path.write_bytes(gzip.compress(state, 1))
    yield path


def behind_something(state: bytes, folder: Path) -> Iterator[Path]:
    """Named by --offset."""
    path = folder / "evidence"
    path.write_bytes(b"\x5a" * 4096 + state)
    yield path


CONTAINERS: dict[str, Callable[[bytes, Path], Iterator[Path]]] = {
    "padded": padded,
    "volume": on_a_volume,
    "compressed": compressed,
    "offset": behind_something,
}


def answers(
    path: Path, folder: Path, capsys: pytest.CaptureFixture[str], *options: str
) -> dict[str, str | bytes]:
    """Return what each command says of an image."""
    found: dict[str, str | bytes] = {}
    target = folder / "target"
    for name, words in COMMANDS.items():
        command = [{"IMAGE": str(path), "TARGET": str(target)}.get(word, word) for word in words]
        if "IMAGE" not in words:
            command.append(str(path))
        code = main([*command, *options])
        found[name] = f"{code} {capsys.readouterr().out}".replace(str(path), "IMAGE")
        if name == "export":
            found["exported"] = target.read_bytes()
    return found


def test_a_state_of_proxmox(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Dirty bitmaps of a backup (`pbs-state`) stand among the sections of RAM."""
    state = golden("pbs.qemu")
    plain = tmp_path / "plain"
    plain.write_bytes(state)
    expected = answers(plain, tmp_path, capsys)
    failed = [name for name, said in expected.items() if str(said)[:2] not in ("0 ", "b'")]
    assert set(failed) <= {"os"}  # no system is there to be found

    for name, container in CONTAINERS.items():
        options = ("--offset=4096",) if name == "offset" else ()
        for path in container(state, tmp_path):
            assert answers(path, tmp_path, capsys, *options) == expected, name


def test_a_core_that_was_exported_is_read_again(tmp_path: Path) -> None:
    source = load.unpack("dimm", tmp_path)
    savefmt.export(source, tmp_path / "core", format="elf")
    with savefmt.open(source) as image, savefmt.open(tmp_path / "core") as core:
        there = image.guest.physical
        found = core.guest.physical
        held = sum(item.length for item in there.map.ranges)
        assert sum(item.length for item in found.map.ranges) == held
        for item in found.map.ranges:
            assert found.read(item.start, item.length) == there.read(item.start, item.length)


@pytest.mark.parametrize("name", ["guest/q35-16m-sequential", "q35-smp"])
@pytest.mark.parametrize("compat", ["universal", "qemu"])
def test_an_elf_core_tells_the_registers(name: str, compat: str, tmp_path: Path) -> None:
    pytest.importorskip("elftools")
    path, core, again = load.unpack(name, tmp_path), tmp_path / "core", tmp_path / "again"
    savefmt.export(path, core, compat=compat)
    with savefmt.open(path) as image, savefmt.open(core) as dump:
        for mine, its in zip(image.guest.cpus, dump.guest.cpus, strict=True):
            assert isinstance(mine, X86Registers)
            assert isinstance(its, X86Registers)
            told = {key: mine.control[key] for key in ("cr0", "cr2", "cr3", "cr4")}
            assert (its.general, its.rip, its.rflags) == (mine.general, mine.rip, mine.rflags)
            assert (its.segments, its.control) == (mine.segments, told)
            for mode in ("long_mode", "code_64", "privilege"):
                assert getattr(its, mode) == getattr(mine, mode)
            assert (its.fpu, its.a20, its.halted) == (None, None, None)  # nothing is made up
        first = image.guest.cpu()
        assert isinstance(first, X86Registers)
        if first.control["cr0"] >> 31:
            mappings = list(Walk(image.guest.space().tables).mappings())
            assert list(Walk(dump.guest.space().tables).mappings()) == mappings
            where = mappings[0].virtual
            assert main(["vtop", str(core), hex(where)]) == 0
        assert main(["regs", str(core)]) == 0
        assert main(["regs", "-j", str(core)]) == 0
    # What is exported from it has them, too.
    savefmt.export(core, again, compat=compat)
    with savefmt.open(core) as dump, savefmt.open(again) as other:
        assert other.guest.cpus == dump.guest.cpus


def test_notes_that_are_damaged_are_no_registers(tmp_path: Path) -> None:
    pytest.importorskip("elftools")
    path, core = load.unpack("guest/q35-16m-sequential", tmp_path), tmp_path / "core"
    savefmt.export(path, core, compat="qemu")
    data = core.read_bytes()
    note = data.index(b"QEMU\0")
    for at, value in ((note + 8, b"\2"), (note - 8, b"\0\0\0\0"), (note - 8, b"\xff\xff\xff\xff")):
        core.write_bytes(data[:at] + value + data[at + len(value) :])
        with savefmt.open(core) as dump:
            assert dump.guest.physical.read(0x100000, 8)
            with pytest.raises((savefmt.CorruptError, savefmt.UnsupportedError)):
                _ = dump.guest.cpus
