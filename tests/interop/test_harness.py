"""No guest outlives its test, however that ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from interop.libvirt import Libvirt
from interop.qemu import Guest, QmpError, wait_for

pytestmark = [pytest.mark.interop, pytest.mark.usefixtures("qemu")]

TESTS = Path(__file__).parents[1]
SMALL = ["-machine", "pc", "-m", "8M"]
DOMAIN = """\
<domain type='qemu'>
  <name>idle</name>
  <memory unit='MiB'>8</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices><emulator>/usr/bin/qemu-system-x86_64</emulator></devices>
</domain>
"""


def lives(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return b") Z " not in Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def child() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes to be killed at the end."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def first_line_of(program: str, child: list[subprocess.Popen[str]], *words: str) -> int:
    """Run a Python program in the background and return the number that it prints first."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *words],
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        stdout=subprocess.PIPE,
        text=True,
    )
    child.append(process)
    assert process.stdout is not None
    return int(process.stdout.readline())


def test_a_guest_ends_with_its_block(tmp_path: Path) -> None:
    with suppress(ZeroDivisionError), Guest(tmp_path, SMALL) as guest:
        guest.cont()
        assert lives(guest.process.pid)
        _ = 1 / 0

    assert not lives(guest.process.pid)


def test_a_guest_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(QmpError, match="unsupported machine type"):
        Guest(tmp_path, ["-machine", "toaster"])


def test_a_guest_dies_with_a_killed_test(
    child: list[subprocess.Popen[str]], tmp_path: Path
) -> None:
    program = """
import sys, time
from pathlib import Path
from interop.qemu import Guest
guest = Guest(Path(sys.argv[1]), sys.argv[2:])
print(guest.process.pid, flush=True)
time.sleep(60)
"""
    pid = first_line_of(program, child, str(tmp_path), *SMALL)
    assert lives(pid)

    child[0].kill()

    wait_for(lambda: not lives(pid), "end of the guest")


@pytest.mark.usefixtures("libvirt")
def test_the_guests_of_libvirt_end_with_it() -> None:
    with Libvirt() as daemon:
        daemon.start(DOMAIN)
        pid, root = daemon.pid("idle"), daemon.root
        assert lives(pid)

    wait_for(lambda: not lives(pid), "end of the guest")
    assert not root.exists()


@pytest.mark.usefixtures("libvirt")
def test_the_guests_of_libvirt_die_with_a_killed_test(
    child: list[subprocess.Popen[str]], tmp_path: Path
) -> None:
    program = """
import sys, tempfile, time
from interop.libvirt import Libvirt
tempfile.tempdir = sys.argv[1]
daemon = Libvirt()
daemon.start(sys.argv[2])
print(daemon.pid("idle"), flush=True)
time.sleep(60)
"""
    short = tmp_path.parent / "d"  # names of sockets must be
    short.mkdir()
    pid = first_line_of(program, child, str(short), DOMAIN)
    assert lives(pid)

    child[0].kill()

    wait_for(lambda: not lives(pid), "end of the guest")
