"""What `savefmt linux` tells of a real guest is what the guest said of itself."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import savefmt
from interop import planted, planted_facts
from interop.planted import Report
from savefmt.drgn import program
from savefmt.image import SaveImage
from savefmt.linux.answers import ask

pytestmark = [pytest.mark.interop, pytest.mark.usefixtures("qemu")]

BUFFERED = savefmt.IOOptions(direct=False)


@dataclass(frozen=True)
class Planted:
    """A guest whose processes, files and sockets are known, and what it said of them."""

    mapped: Path
    sequential: Path
    packed: Path
    report: Report


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory, qemu: None) -> Planted:
    """Boot it once, and save it in three forms."""
    if planted.lack_of_kernel("6.1"):
        pytest.skip(planted.lack_of_kernel("6.1"))
    folder = tmp_path_factory.mktemp("planted")
    with planted.boot("6.1", folder) as machine:
        mapped = folder / "mapped"
        machine.migrate_to(f"file:{mapped}", {"mapped-ram": True})
        report = Report(machine.console.read_bytes())
    sequential, packed = folder / "sequential", folder / "packed"
    savefmt.convert(mapped, sequential, layout=savefmt.Layout.SEQUENTIAL)
    subprocess.run(["zstd", "-q", "-1", "-o", str(packed), str(sequential)], check=True)
    return Planted(mapped, sequential, packed, report)


@pytest.fixture(params=["mapped", "sequential", "packed"])
def image(request: pytest.FixtureRequest, guest: Planted) -> Iterator[SaveImage]:
    """The guest in each form."""
    with savefmt.open(getattr(guest, request.param), io=BUFFERED) as image:
        yield image


def test_every_answer_is_the_guests_own(image: SaveImage, guest: Planted) -> None:
    planted_facts.check_all(image, guest.report)


def test_one_process_alone(guest: Planted) -> None:
    with savefmt.open(guest.mapped, io=BUFFERED) as image:
        (lurker,) = [
            one for one in ask(image, "ps").processes or () if "lurker" in one.command_line
        ]
        found = ask(image, "all", [lurker.pid])

    assert found.processes == (lurker,)
    assert {one.pid for one in found.files or ()} == {lurker.pid}
    assert {one.pid for one in found.areas or ()} == {lurker.pid}
    assert [one.pid for one in found.environments or ()] == [lurker.pid]
    assert found.sockets == ()


def test_scripts_of_drgn_need_no_debug_package(guest: Planted) -> None:
    from drgn.helpers.linux.fs import d_path, for_each_file
    from drgn.helpers.linux.pid import find_task, for_each_task
    from drgn.helpers.linux.printk import get_dmesg

    with savefmt.open(guest.mapped, io=BUFFERED) as image:
        kernel = program(image, symbols="memory")
        told = {one.pid for one in ask(image, "ps").processes or ()}
        shell = find_task(kernel, 1)
        paths = [d_path(file.f_path) for _, file in for_each_file(shell)]
        log = get_dmesg(kernel).decode()
        module_type = kernel.type("struct loop_device")

        assert {task.tgid.value_() for task in for_each_task(kernel)} == told
        assert b"/init" in paths
        assert planted.KERNEL_LOG in log
        assert module_type.size is not None
        assert module_type.size > 0
        assert kernel.symbol("dummy_setup").name == "dummy_setup"


def test_each_symbol_lies_where_the_guest_saw_it(guest: Planted) -> None:
    from savefmt.linux.kernel import open_kernel

    with savefmt.open(guest.mapped, io=BUFFERED) as image:
        symbols = open_kernel(image).symbols

    told = {(address, name) for address, _, name in symbols}
    assert len(guest.report.symbols) > 1000
    assert set(guest.report.symbols) <= told


def test_the_command(guest: Planted) -> None:
    def run(*words: str) -> str:
        command = [sys.executable, "-m", "savefmt", "linux", str(guest.mapped), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    summary = run()
    document = json.loads(run("net", "-j"))["linux"]
    rows = [json.loads(line) for line in run("all", "--output", "jsonl").splitlines()]

    assert planted.HOST in summary
    assert "writable code:" in summary
    assert len(summary.splitlines()) <= 40
    assert {one["local_port"] for one in document["sockets"]} > {4711, 4712, 5353}
    assert document["processes"] is None
    assert {row["row"] for row in rows} == {
        *("host", "processes", "log", "files", "sockets", "interfaces", "mounts", "modules"),
        *("areas", "environments"),
    }
