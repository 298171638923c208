"""The guests, made once a run, and precise reasons for leaving tests out."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from interop.conftest import lack_of_libvirt, lack_of_qemu
from interop.libvirt import Libvirt
from interop.qemu import Guest, wait_for

from forensics import workload

HINT = "tools/install-forensics gets it on Debian"
FOLDER = Path(os.environ.get("SAVEFMT_FORENSICS", "~/.cache/savefmt-forensics")).expanduser()
KERNEL = FOLDER / "vmlinuz"
VMLINUX = FOLDER / "vmlinux"

MAPPED = {"mapped-ram": True}
BOOT_TIMEOUT = 180.0
CALM = 1.0
"""Seconds after which nothing but the idle loop runs, as stacks shall show."""
PHYSICAL_LENGTH = 512 << 20
NODES = (
    *("-m", "3G"),
    *("-object", "memory-backend-ram,id=ram-node0,size=1G"),
    *("-object", "memory-backend-ram,id=ram-node1,size=2G"),
    *("-numa", "node,nodeid=0,cpus=0-1,memdev=ram-node0"),
    *("-numa", "node,nodeid=1,memdev=ram-node1"),
)
CONSOLE = "/var/lib/libvirt/console/canary.log"
DOMAIN = f"""\
<domain type='qemu'>
  <name>canary</name>
  <memory unit='MiB'>512</memory>
  <vcpu>2</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>/var/lib/libvirt/images/vmlinuz</kernel>
    <initrd>/var/lib/libvirt/images/initramfs.cpio</initrd>
    <cmdline>{workload.APPEND}</cmdline>
  </os>
  <features><acpi/><apic/></features>
  <cpu mode='custom' match='exact'><model>qemu64</model></cpu>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <serial type='file'><source path='{CONSOLE}'/><target port='0'/></serial>
    <memballoon model='none'/>
  </devices>
</domain>
"""


@dataclass(frozen=True)
class Saved:
    """One paused guest: what QEMU itself dumped of it, and its save images.

    Attributes
    ----------
    dump : Path
        ELF core by QEMU's ``dump-guest-memory``.
    images : mapping of str to Path
        Forms of the image.
    registers : str
        ``info registers -a``.
    physical : Path or None
        The first `PHYSICAL_LENGTH` bytes of guest-physical memory by QEMU's ``pmemsave``.
    """

    dump: Path
    images: Mapping[str, Path]
    registers: str
    physical: Path | None = None


def need_program(name: str) -> str:
    """Return where a program is, or skip."""
    here = Path(sys.executable).parent
    found = shutil.which(name, path=f"{here}:{os.environ.get('PATH', os.defpath)}")
    if found is None:
        pytest.skip(f"no {name}; {HINT}")
    return found


def need_module(name: str) -> None:
    """Skip where a Python package is not installed."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"no Python package {name}; `pip install --group forensics` gets it")


def run(*words: str | Path, cwd: Path | None = None) -> str:
    """Run a tool and return what it printed; it must end well."""
    command = list(map(str, words))
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=cwd, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


def savefmt(*words: str | Path) -> str:
    """Run our own command."""
    return run(sys.executable, "-m", "savefmt", *words)


@cache
def lack_of_kernel() -> str:
    """Say why the guest cannot be made, or nothing."""
    if not KERNEL.exists():
        return f"no kernel at {KERNEL}; {HINT}"
    if not workload.BUSYBOX.exists():
        return f"no static busybox at {workload.BUSYBOX}; tools/install-interop gets it"
    return "" if shutil.which("cpio") else "no cpio; tools/install-interop gets it"


class Volatility:
    """volatility3 with symbols that pakunoda takes from a guest; skips where they are missing.

    Parameters
    ----------
    directory : Path
        For symbols and caches.
    """

    def __init__(self, directory: Path) -> None:
        need_module("volatility3")
        need_module("pakunoda")
        self._symbols, cached = directory / "symbols", directory / "cache"
        self._symbols.mkdir()
        cached.mkdir()
        self._words = ("-q", "--offline", "--cache-path", cached, "-s", self._symbols)
        self._folder = savefmt("plugins", "volatility").strip()

    def take_symbols(self, core: Path) -> None:
        """Let pakunoda read a core."""
        words = (core, "-o", f"{self._symbols}/", "--no-donor")
        run(need_program("pakunoda"), "extract", *words)

    def run(self, image: Path, *plugin: str, ours: bool = True) -> str:
        """Return what a plugin prints of an image, read with our layer or without."""
        mine = ("-p", self._folder) if ours else ()
        return run(need_program("vol"), *self._words, *mine, "-f", image, *plugin)


@pytest.fixture(scope="session")
def vmlinux() -> Path:
    """The kernel with its debugging information."""
    if not VMLINUX.exists():
        pytest.skip(f"no {VMLINUX}; {HINT}")
    return VMLINUX


@pytest.fixture(scope="session")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``vmlinuz`` and ``initramfs.cpio``."""
    if lack_of_qemu() or lack_of_kernel():
        pytest.skip(lack_of_qemu() or lack_of_kernel())
    directory = tmp_path_factory.mktemp("kernel")
    shutil.copy(KERNEL, directory / "vmlinuz")
    workload.build_initramfs(directory / "initramfs.cpio")
    return directory


def save_both_ways(directory: Path, kernel: Path, arguments: tuple[str, ...]) -> Saved:
    """Boot the guest, stop it, and save it in both layouts: the second after a restore."""
    machine = (
        *("-machine", "pc-q35-10.0", "-smp", "2", *arguments),
        *("-kernel", str(kernel / "vmlinuz"), "-initrd", str(kernel / "initramfs.cpio")),
        *("-append", workload.APPEND),
    )
    dump = directory / "qemu.elf"
    images = {name: directory / name for name in ("sequential", "mapped")}
    with Guest(directory, machine) as guest:
        guest.cont()
        guest.wait_console(workload.READY, BOOT_TIMEOUT)
        time.sleep(CALM)
        guest.stop()
        guest.qmp("dump-guest-memory", paging=False, protocol=f"file:{dump}")
        physical = directory / "physical"
        guest.qmp("pmemsave", val=0, size=PHYSICAL_LENGTH, filename=str(physical))
        registers = guest.registers()
        guest.migrate_to(f"file:{images['sequential']}")
    with Guest(directory, machine, incoming=True, name="again") as guest:
        guest.load(f"file:{images['sequential']}")
        guest.migrate_to(f"file:{images['mapped']}", MAPPED)
    return Saved(dump, images, registers, physical)


@pytest.fixture(scope="session")
def bare(kernel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Saved]:
    """A guest of 512 MiB, saved by QEMU."""
    directory = tmp_path_factory.mktemp("bare")
    yield save_both_ways(directory, kernel, ("-m", "512M"))
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def nodes(kernel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Saved]:
    """A guest with two NUMA nodes and a hole below 4 GiB, saved by QEMU."""
    directory = tmp_path_factory.mktemp("nodes")
    yield save_both_ways(directory, kernel, NODES)
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def domain(kernel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Saved]:
    """A guest saved by ``virsh save``, paused all the time."""
    if lack_of_libvirt():
        pytest.skip(lack_of_libvirt())
    directory = tmp_path_factory.mktemp("domain")
    images = {name: directory / name for name in ("raw", "sparse", "zstd")}
    dump = directory / "qemu.elf"
    with Libvirt() as libvirt:
        for name in ("vmlinuz", "initramfs.cpio"):
            shutil.copy(kernel / name, libvirt.path(f"/var/lib/libvirt/images/{name}"))
        libvirt.start(DOMAIN)
        console = libvirt.path(CONSOLE)
        wait_for(lambda: workload.READY in console.read_text(), "ready guest", BOOT_TIMEOUT)
        time.sleep(CALM)
        libvirt.virsh("suspend", "canary")
        libvirt.virsh("dump", "canary", dump, "--memory-only", "--live")
        registers = libvirt.hmp("canary", "info registers -a")
        for number, (name, image) in enumerate(images.items()):
            if number:
                libvirt.restore(images["raw"], "--paused")
            libvirt.save("canary", image, name, "--paused")
    yield Saved(dump, images, registers)
    shutil.rmtree(directory)


FORMS = ("sequential", "mapped", "raw", "sparse", "zstd", "nodes")
"""Every form of image that the tools are tried on."""


@pytest.fixture(scope="session")
def guests(bare: Saved, domain: Saved, nodes: Saved) -> dict[str, tuple[Path, Saved]]:
    """Image and guest of each of `FORMS`."""
    found = {name: (path, saved) for saved in (bare, domain) for name, path in saved.images.items()}
    found["nodes"] = nodes.images["sequential"], nodes
    assert set(found) == set(FORMS)
    return found


Export = Callable[..., Path]


@pytest.fixture(scope="session")
def export(
    guests: dict[str, tuple[Path, Saved]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Export]:
    """A function that exports the image of a form once and returns the file."""
    directory = tmp_path_factory.mktemp("exports")

    @cache
    def export_form(form: str, *options: str) -> Path:
        target = directory / "-".join((form, *(word.strip("-") for word in options)))
        savefmt("export", guests[form][0], target, *options)
        return target

    yield export_form
    shutil.rmtree(directory)
