"""`savefmt check --host` and its kin ask the real libvirt and the real QEMU."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from golden import load

from interop.conftest import need_machine, version_of
from interop.qemu import EMULATOR, OLDER, Guest, wait_for
from savefmt.needs import needs

pytestmark = [pytest.mark.interop, pytest.mark.usefixtures("qemu")]

IMAGES = load.names(lambda facts: facts["kind"] == "libvirt")


def check(*words: str | Path) -> tuple[int, dict[str, Any], list[str]]:
    """Run ``savefmt check -j``; return its code, what it says of the host, and codes."""
    command = [sys.executable, "-m", "savefmt", "check", "-j", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    document = json.loads(done.stdout)
    (report,) = document["reports"]
    (host,) = document.get("hosts", [{}])
    return done.returncode, host, [f["code"] for f in report.get("findings", ())]


def dotted(program: str) -> str:
    version = version_of(program)
    assert version is not None
    return ".".join(map(str, version)).removesuffix(".0")


@pytest.mark.usefixtures("libvirt")
@pytest.mark.parametrize("name", IMAGES)
def test_this_host(name: str, tmp_path: Path) -> None:
    facts = load.manifest()[name]
    need_machine(facts["machine"])

    code, host, findings = check(load.unpack(name, tmp_path), "--host")

    mislabelled = name == "libvirt-mislabelled"
    assert (code == 0, "libvirt.label" in findings) == (not mislabelled, mislabelled)
    assert (host["libvirt"], host["qemu_release"]) == (dotted("virsh"), dotted(EMULATOR))
    assert (host["machine"], host["default_ram_id"]) == ("known", "pc.ram")
    assert (host["mapped_ram"], host["direct_io"], host["multifd"]) == (True, True, True)
    assert host["memory_available"] > host["memory_needed"] > 0
    assert (host["program"] is not None) is (facts["codec"] != "raw")


def test_a_processor_that_this_host_cannot_give(tmp_path: Path) -> None:
    """TCG has no pcid, which the guest is said to have had."""
    path = load.unpack("libvirt-devices", tmp_path)
    saved = path.read_bytes()
    had, said = (f"policy='{policy}' name='pcid'".encode() for policy in ("disable", "require"))
    assert saved.count(had) == 1
    path.write_bytes(saved.replace(had, said))

    code, _, findings = check(path, "--host")
    assert (code, "host.cpu" in findings) == (2, True)
    (cpu,) = [need for need in needs(path).needs if need.kind == "CPU"]
    assert (cpu.name, cpu.presence) == ("Haswell-noTSX", "missing")
    assert "pcid" in cpu.reason


@pytest.mark.usefixtures("older_qemu")
def test_an_older_program(tmp_path: Path) -> None:
    code, host, findings = check(load.unpack("libvirt-sparse", tmp_path), "--qemu-binary", OLDER)

    assert (code, host["qemu_release"], host["machine"]) == (2, dotted(OLDER), "absent")
    assert {"qemu.command", "host.machine", "host.mapped-ram"} <= set(findings)


def test_a_running_guest(tmp_path: Path) -> None:
    path = load.unpack("q35-smp", tmp_path)
    with tempfile.TemporaryDirectory(prefix="savefmt-") as folder:
        socket = f"{folder}/qmp"
        more = ["-qmp", f"unix:{socket},server=on,wait=off"]
        with Guest(tmp_path, ["-machine", "q35", "-m", "8M", *more]) as guest:
            wait_for(Path(socket).exists, "socket")
            code, host, _ = check(path, "--qmp", socket)

            assert (code, host["qemu"], host["machine"]) == (0, socket, "known")
            assert guest.status == "prelaunch"


@pytest.mark.usefixtures("older_qemu")
@pytest.mark.parametrize(
    ("program", "option", "code", "outcome"),
    [
        (OLDER, "--require", 1, "no-mapped-ram"),
        (OLDER, "--prefer", 0, "sequential"),
        (EMULATOR, "--require", 0, "mapped-ram"),
    ],
)
def test_plans_with_both(
    program: str, option: str, code: int, outcome: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "savefmt", "plan", "-j", str(tmp_path / "image"), option]
    command += ["--save-version", "3", "--parallel", "2", "--qemu-binary", program]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    document = json.loads(done.stdout)
    told = document["plan"]["layout"] if code == 0 else document["refusal"]["code"]
    assert (done.returncode, told) == (code, outcome)
