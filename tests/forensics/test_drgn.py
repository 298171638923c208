"""drgn sees one guest, whether it reads an export, a dump of makedumpfile, or the image itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import savefmt
from forensics import workload
from forensics.conftest import FORMS, Export, Saved, need_module, need_program, run
from savefmt.model import IOOptions

pytestmark = pytest.mark.forensics


@dataclass(frozen=True)
class Findings:
    """What drgn tells of a guest."""

    tasks: tuple[tuple[int, str], ...]
    log: str
    stacks: tuple[str, ...]


def look(program: Any, vmlinux: Path) -> Findings:
    """List tasks, kernel log, and what each vCPU was at."""
    from drgn.helpers.linux.pid import for_each_task
    from drgn.helpers.linux.printk import get_dmesg
    from drgn.helpers.linux.sched import cpu_curr

    program.load_debug_info([vmlinux], main=True)
    return Findings(
        tuple((task.pid.value_(), task.comm.string_().decode()) for task in for_each_task(program)),
        get_dmesg(program).decode(),
        tuple(str(program.stack_trace(cpu_curr(program, cpu))) for cpu in (0, 1)),
    )


def look_at_image(image: Path, vmlinux: Path) -> Findings:
    """Look through the image as it is."""
    from savefmt.drgn import program

    with savefmt.open(image, io=IOOptions(direct=False)) as opened:
        return look(program(opened), vmlinux)


def look_at_core(core: Path, vmlinux: Path) -> Findings:
    """Look through a core dump."""
    import drgn

    program = drgn.Program()
    program.set_core_dump(core)
    return look(program, vmlinux)


@pytest.fixture(autouse=True)
def installed() -> None:
    """Drgn is there."""
    need_module("drgn")


@pytest.mark.parametrize("form", FORMS)
def test_without_conversion(
    form: str, guests: dict[str, tuple[Path, Saved]], vmlinux: Path
) -> None:
    found = look_at_image(guests[form][0], vmlinux)

    names = [name for _, name in found.tasks]
    assert len(names) > 40
    assert set(workload.TASKS) < set(names)
    assert (1, "init") in found.tasks
    assert workload.KERNEL_LOG in found.log
    # Debian's kernel counts on in user space as well as in its idle loop.
    assert all("#0" in stack for stack in found.stacks)
    assert any("default_idle" in stack for stack in found.stacks)


@pytest.mark.parametrize("form", ["sequential", "raw", "sparse", "zstd", "nodes"])
def test_the_export_is_the_same(
    form: str, guests: dict[str, tuple[Path, Saved]], export: Export, vmlinux: Path
) -> None:
    core = export(form, "--format", "elf")

    assert look_at_core(core, vmlinux) == look_at_image(guests[form][0], vmlinux)


def test_all_forms_of_one_guest_are_the_same(domain: Saved, vmlinux: Path) -> None:
    raw, *others = (look_at_image(image, vmlinux) for image in domain.images.values())

    assert others == [raw, raw]


@pytest.mark.parametrize("form", ["zstd", "nodes"])
def test_a_dump_of_makedumpfile(form: str, export: Export, vmlinux: Path, tmp_path: Path) -> None:
    """Makedumpfile leaves out what is free or cached; the kernel stays legible."""
    core, small = export(form, "--format", "elf"), tmp_path / "small.kdump"

    run(need_program("makedumpfile"), "-l", "-d", "31", core, small)

    assert small.stat().st_size < 64 << 20
    assert look_at_core(small, vmlinux) == look_at_core(core, vmlinux)


def test_an_export_by_makedumpfile(export: Export, vmlinux: Path) -> None:
    need_program("makedumpfile")

    small = export("sparse", "--format", "kdump")

    assert look_at_core(small, vmlinux) == look_at_core(
        export("sparse", "--format", "elf"), vmlinux
    )
