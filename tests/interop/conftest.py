"""What the interop tests share, and precise reasons for leaving them out."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from interop import linux
from interop.libvirt import LIBVIRTD, Libvirt, namespace_command
from interop.qemu import EMULATOR, OLDER

HINT = "tools/install-interop gets it on Debian"


def version_of(program: str) -> tuple[int, ...] | None:
    """Return the version that ``PROGRAM --version`` tells of, None without the program."""
    if shutil.which(program) is None:
        return None
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"\d+(\.\d+)+", done.stdout)
    return tuple(map(int, found[0].split("."))) if found else (0,)


@cache
def lack_of_qemu() -> str:
    """Say why no QEMU can be run, or nothing."""
    version = version_of(EMULATOR)
    if version is None:
        return f"no {EMULATOR}; {HINT}"
    if version < (9, 1):
        return f"{EMULATOR} is {'.'.join(map(str, version))}, the tests need 9.1; {HINT}"
    return "" if shutil.which("setpriv") else "no setpriv (util-linux) to tie guests to the tests"


@cache
def lack_of_older_qemu() -> str:
    """Say why no QEMU 7.2 can be run beside the other, or nothing."""
    if lack_of_qemu():
        return lack_of_qemu()
    version = version_of(OLDER)
    if version is None or version[:2] != (7, 2):
        return f"no QEMU 7.2 at {OLDER}; `tools/install-qemu-beside 7.2` gets it on Debian"
    return ""


@cache
def lack_of_libvirt() -> str:
    """Say why no libvirtd can be run, or nothing."""
    if lack_of_qemu():
        return lack_of_qemu()
    if LIBVIRTD is None:
        return f"no libvirtd; {HINT}"
    version = version_of("virsh")
    if version is None:
        return f"no virsh; {HINT}"
    if version < (11, 2):
        return f"virsh is {'.'.join(map(str, version))}, the tests need 11.2; {HINT}"
    if os.geteuid() != 0:
        return "not root, and a system libvirtd of our own needs that"
    done = subprocess.run(
        [*namespace_command(), "mount", "-t", "tmpfs", "none", "/mnt"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return f"no private namespaces for a libvirtd of our own: {done.stderr.strip()}"
    return ""


@cache
def lack_of_linux() -> str:
    """Say why no Linux guest can be made, or nothing."""
    if not linux.KERNEL.exists():
        return f"no kernel at {linux.KERNEL}; {HINT}"
    if not linux.BUSYBOX.exists():
        return f"no static busybox at {linux.BUSYBOX}; {HINT}"
    return "" if shutil.which("cpio") else f"no cpio; {HINT}"


@cache
def machines() -> frozenset[str]:
    """Return the machine types that this QEMU has."""
    command = [EMULATOR, "-machine", "help"]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return frozenset(line.split()[0] for line in listing.splitlines()[1:])


@pytest.fixture(scope="session")
def qemu() -> None:
    """QEMU is there and new enough."""
    if lack_of_qemu():
        pytest.skip(lack_of_qemu())


@pytest.fixture(scope="session")
def older_qemu(qemu: None) -> None:
    """QEMU 7.2 is there, too."""
    if lack_of_older_qemu():
        pytest.skip(lack_of_older_qemu())


@pytest.fixture(scope="session")
def linux_guest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``vmlinuz`` and ``initramfs.cpio``."""
    if lack_of_linux():
        pytest.skip(lack_of_linux())
    directory = tmp_path_factory.mktemp("linux")
    (directory / "vmlinuz").symlink_to(linux.KERNEL)
    linux.build_initramfs(directory)
    return directory


@pytest.fixture(scope="session")
def libvirt() -> Iterator[Libvirt]:
    """A libvirtd for all tests; snapshots are mislabelled as sparse (libvirt's defect)."""
    if lack_of_libvirt():
        pytest.skip(lack_of_libvirt())
    with Libvirt(['snapshot_image_format = "sparse"']) as daemon:
        yield daemon


def need_machine(machine: str) -> None:
    """Skip where QEMU lacks a machine type."""
    if machine not in machines():
        pytest.skip(f"this {EMULATOR} has no machine {machine}")


def need_direct_io(directory: Path) -> None:
    """Skip where the file system refuses O_DIRECT."""
    probe = directory / "direct"
    probe.touch()
    try:
        os.close(os.open(probe, os.O_RDONLY | os.O_DIRECT))
    except OSError as error:
        pytest.skip(f"no direct I/O in {directory}: {error.strerror}")
    finally:
        probe.unlink()
