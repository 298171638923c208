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

COMMANDS = {
    "search": ("search", "--regex", "[A-Za-z]{8}", "--max-count", "20", "--virtual"),
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
