"""What crash, gdb, makedumpfile, readelf, pyelftools and LeechCore find in exported cores."""

from __future__ import annotations

import filecmp
import re
from pathlib import Path
from typing import Any

import pytest
from monitor import register_blocks

import savefmt
from forensics import workload
from forensics.conftest import (
    FOLDER,
    FORMS,
    HINT,
    PHYSICAL_LENGTH,
    Export,
    Saved,
    need_module,
    need_program,
    run,
)
from savefmt.model import PhysicalRange

pytestmark = pytest.mark.forensics

ELF = ("--format", "elf")
KERNEL_TEXT = 0x1000000


def memory_map(image: Path) -> list[tuple[int, int]]:
    """Return start and end of each span of memory in an image."""
    spans: list[tuple[int, int]] = []
    with savefmt.open(image) as opened:
        item: PhysicalRange
        for item in opened.guest.physical.map.ranges:
            spans.append((item.start, item.end))
    return spans


@pytest.mark.parametrize("form", FORMS)
def test_identical_to_qemus_own_dump(
    form: str, guests: dict[str, tuple[Path, Saved]], export: Export
) -> None:
    core = export(form, *ELF, "--compat", "qemu")

    assert filecmp.cmp(core, guests[form][1].dump, shallow=False)


@pytest.mark.parametrize("form", ["sequential", "mapped"])
def test_raw_is_what_pmemsave_wrote(form: str, bare: Saved, export: Export) -> None:
    assert bare.physical is not None
    raw = export(form, "--format", "raw")

    with raw.open("rb") as ours, bare.physical.open("rb") as theirs:
        for _ in range(0, PHYSICAL_LENGTH, 16 << 20):
            assert ours.read(16 << 20) == theirs.read(16 << 20)


@pytest.mark.parametrize("form", FORMS)
def test_kernel_log_by_makedumpfile(form: str, export: Export, tmp_path: Path) -> None:
    log = tmp_path / "dmesg.txt"

    run(need_program("makedumpfile"), "--dump-dmesg", export(form, *ELF), log)

    text = log.read_text()
    assert "Linux version" in text
    assert workload.KERNEL_LOG in text


def test_segments_and_notes_by_readelf(
    guests: dict[str, tuple[Path, Saved]], export: Export
) -> None:
    text = run(need_program("readelf"), "-lnW", export("nodes", *ELF))

    loads = re.findall(r"LOAD\s+0x\w+ 0x\w+ 0x(\w+) 0x(\w+) 0x(\w+)", text)
    found = [(int(start, 16), int(start, 16) + int(size, 16)) for start, size, _ in loads]
    assert found == memory_map(guests["nodes"][0])
    assert all(stored == size for _, stored, size in loads)
    notes = re.findall(r"^\s+(CORE|QEMU|VMCOREINFO)\s", text, re.MULTILINE)
    assert notes == ["CORE", "CORE", "QEMU", "QEMU", "VMCOREINFO"]


def test_segments_and_notes_by_pyelftools(domain: Saved, export: Export) -> None:
    need_module("elftools")
    from elftools.elf.elffile import ELFFile

    with export("zstd", *ELF).open("rb") as file:
        segments: list[Any] = list(ELFFile(file).iter_segments())
        kinds = [segment["p_type"] for segment in segments]
        notes = list(segments[0].iter_notes())

    assert kinds == ["PT_NOTE"] + ["PT_LOAD"] * (len(kinds) - 1)
    assert [note["n_name"] for note in notes] == ["CORE"] * 2 + ["QEMU"] * 2 + ["VMCOREINFO"]
    assert [note["n_descsz"] for note in notes[:4]] == [336, 336, 440, 440]


def gdb(core: Path, *commands: str) -> str:
    """Ask gdb about a core."""
    words = [word for command in ("set pagination off", *commands) for word in ("-ex", command)]
    return run(
        *(need_program("gdb"), "-nx", "-batch", "-ex", "set architecture i386:x86-64"),
        *("-ex", f"core-file {core}", *words),
    )


@pytest.mark.parametrize("form", ["sequential", "zstd", "nodes"])
def test_registers_by_gdb(form: str, guests: dict[str, tuple[Path, Saved]], export: Export) -> None:
    blocks = register_blocks(guests[form][1].registers)
    assert len(blocks) == 2
    for number, lines in enumerate(blocks, 1):
        expected = dict(re.findall(r"\b(R\w\w|R\d+ ?)=([0-9a-f]{16})", "\n".join(lines)))
        text = gdb(export(form, *ELF), f"thread {number}", "info registers")
        found = dict(re.findall(r"^(r\w+)\s+0x([0-9a-f]+)", text, re.MULTILINE))
        names = {name.strip().lower(): int(value, 16) for name, value in expected.items()}
        assert len(names) >= 17
        assert {name: int(found[name], 16) for name in names if name in found} == {
            name: value for name, value in names.items() if name in found
        }
        assert {"rip", "rsp", "r15"} <= set(found)


@pytest.mark.parametrize("form", ["sparse", "nodes"])
def test_memory_by_gdb(
    form: str, guests: dict[str, tuple[Path, Saved]], export: Export, tmp_path: Path
) -> None:
    end = memory_map(guests[form][0])[-1][1]
    for start, length in ((KERNEL_TEXT, 1 << 20), (end - 65536, 65536)):
        target = tmp_path / f"{start:x}"
        gdb(export(form, *ELF), f"dump binary memory {target} {start:#x} {start + length:#x}")
        with savefmt.open(guests[form][0]) as image:
            assert target.read_bytes() == image.guest.physical.read(start, length)


@pytest.mark.parametrize("form", ["sequential", "zstd"])
def test_symbols_by_gdb(form: str, export: Export, vmlinux: Path) -> None:
    """With the kernel's virtual addresses in the core, gdb knows it as it knows programs."""
    text = export(form, "--format", "vmcoreinfo").read_text()
    offset = re.search(r"^KERNELOFFSET=(\w+)$", text, re.MULTILINE)
    assert offset is not None
    core = export(form, *ELF, "--kernel-va")

    text = run(
        *(need_program("gdb"), "-nx", "-batch", "-ex", f"symbol-file -o 0x{offset[1]} {vmlinux}"),
        *("-ex", f"core-file {core}", "-ex", "bt", "-ex", "p init_task.comm"),
    )

    assert "default_idle" in text
    assert '"swapper/0' in text


COMMANDS_8 = "list task_struct.tasks -s task_struct.pid,comm -h init_task\nlog\nquit\n"
COMMANDS_9 = "ps\nlog\nbt 1\nset -c 0\nbt\nset -c 1\nbt\nquit\n"
# QEMU's own dump has no VMCOREINFO unless the guest has told it.
LACKS_VMCOREINFO = "crash: cannot read vmcoreinfo_data\n"


def need_crash(version: int) -> str:
    """Return a crash of this major version, or skip."""
    for program in (FOLDER / "crash", Path(need_program("crash"))):
        if program.exists() and f"crash {version}." in run(program, "--version"):
            return str(program)
    pytest.skip(f"no crash {version}; {HINT}")


def ask_crash(program: str, vmlinux: Path, core: Path, commands: Path) -> str:
    """Let crash run commands, and return what it printed."""
    return run(program, "-s", vmlinux, core, "-i", commands)


@pytest.mark.parametrize("form", FORMS)
def test_crash_9(
    form: str,
    guests: dict[str, tuple[Path, Saved]],
    export: Export,
    vmlinux: Path,
    tmp_path: Path,
) -> None:
    """Tasks, log and stacks, with registers, are those of QEMU's own dump."""
    program = need_crash(9)
    commands = tmp_path / "commands"
    commands.write_text(COMMANDS_9)

    text = ask_crash(program, vmlinux, export(form, *ELF), commands)

    assert all(re.search(rf" IN .* {task}$", text, re.MULTILINE) for task in workload.TASKS)
    assert workload.KERNEL_LOG in text
    assert re.search(r"PID: 1 .*\n #0 \[\w+\] __schedule", text)
    assert "[exception RIP: native_safe_halt" in text
    theirs = ask_crash(program, vmlinux, guests[form][1].dump, commands)
    assert text == theirs.removeprefix(LACKS_VMCOREINFO)


def test_crash_8(domain: Saved, export: Export, vmlinux: Path, tmp_path: Path) -> None:
    """Debian 12's crash lists tasks of this kernel only by their list (docs/forensics.md)."""
    program = need_crash(8)
    commands = tmp_path / "commands"
    commands.write_text(COMMANDS_8)

    text = ask_crash(program, vmlinux, export("zstd", *ELF), commands)

    assert all(f'comm = "{task}' in text for task in workload.TASKS)
    assert workload.KERNEL_LOG in text
    theirs = ask_crash(program, vmlinux, domain.dump, commands)
    assert text == theirs.removeprefix(LACKS_VMCOREINFO)


def test_vmcoreinfo_by_crash(export: Export) -> None:
    release = run(need_program("crash"), "--osrelease", export("raw", *ELF)).strip()

    assert re.fullmatch(r"\d+\.\d+\.\d+-\d+-cloud-amd64", release)


@pytest.mark.parametrize("form", ["sparse", "nodes"])
def test_leechcore(form: str, guests: dict[str, tuple[Path, Saved]], export: Export) -> None:
    need_module("leechcorepyc")
    import leechcorepyc

    device = leechcorepyc.LeechCore(f"file://file={export(form, *ELF)}")
    try:
        spans = [(item["base"], item["base"] + item["size"]) for item in device.memmap]
        assert spans == memory_map(guests[form][0])
        with savefmt.open(guests[form][0]) as image:
            for start, end in spans:
                for address in (start, end - 4096):
                    expected = image.guest.physical.read(address, 4096)
                    assert device.read(address, 4096) == expected
    finally:
        device.close()
