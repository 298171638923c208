"""Linux guests on their image's own pages: from the command to the first tick, and their memory."""

from __future__ import annotations

import ctypes
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from guests import guest_arguments, guest_folder, guest_image, initramfs, mapping, obstacle
from lab import GIB, MIB, Lab
from turns import Pair, Side, Turn, savefmt, shown

if TYPE_CHECKING:
    from interop.live import LiveGuest

CLONES = (1, 4, 8)
CHANNELS = 4
_NO_HUGE_PAGES = 41  # PR_SET_THP_DISABLE; a program hands it on to those that it starts

Load = Callable[["LiveGuest", Path], None]
"""Loads an image into a guest that waits, and lets it run."""

BY_QEMU = f"QEMU loading mapped-ram, {CHANNELS} channels, direct"


@dataclass(frozen=True)
class GuestRow:
    """One row: our guests against those of a peer.

    Attributes
    ----------
    key, work, against : str
        Short name, and what both sides do, in words.
    sides : callable
        Makes both sides of a lab, ours first.
    ready : callable
        Why it cannot be measured here, None if it can.
    kind : str
        What is compared, a key of `GOALS`.
    """

    key: str
    work: str
    against: str
    sides: Callable[[Lab], tuple[Side, Side]]
    ready: Callable[[], str | None]
    kind: str = "time"

    @property
    def goal(self) -> str:
        """The goal in words."""
        limit, words, _ = GOALS[self.kind]
        return words.format(limit)

    @property
    def group(self) -> str:
        """The group of `report.GROUPS`."""
        return GOALS[self.kind][2]

    def judge(self, pair: Pair) -> tuple[float, bool]:
        """Return what is compared, and whether the goal is met."""
        value = _VALUES[self.kind](pair)
        return value, value <= GOALS[self.kind][0]


GOALS = {
    "time": (0.5, "≤ {:g} of its time", "time"),
    "same": (1.1, "≤ {:g} of its time", "time"),
    "load": (0.1, "≤ {:g} s", "load"),
    "memory": (0.1, "≤ {:g} of its memory", "memory"),
    "touched": (1.1, "≤ {:g} of its memory", "memory"),
}
"""By kind of row: the limit, the goal in words, and the group of `report.GROUPS`.

``load`` is the load alone, as savefmt reports it; ``memory`` the sum of all guests' PSS;
``touched`` what a guest on its image has of its memory for itself, against what one with a
memory of its own has touched.
"""


def _memory(pair: Pair) -> float:
    return peak(pair.ours) / peak(pair.theirs)


_VALUES: dict[str, Callable[[Pair], float]] = {
    "time": lambda pair: pair.ratio,
    "same": lambda pair: pair.ratio,
    "load": lambda pair: statistics.median(turn.seconds for turn in pair.ours),
    "memory": _memory,
    "touched": _memory,
}


def peak(turns: list[Turn]) -> int:
    """Return the most memory that a turn took, in KiB."""
    return max(turn.peak_kib for turn in turns)


def rows(guests: tuple[int, ...]) -> list[GuestRow]:
    """Return the rows for guests of some sizes."""
    found = []
    for ram in guests:
        size = f"{ram // GIB}G" if ram >= GIB else f"{ram // MIB}M"
        work, ready = f"{size} guest on its image, to the first tick", partial(obstacle, ram)
        peers_of_it = (
            ("", BY_QEMU, by_qemu),
            ("-restore", "savefmt restore", _by_savefmt),
        )
        for suffix, against, load in peers_of_it:
            sides = partial(_sides, ram=ram, load=load)
            found.append(GuestRow(f"instant-{size}{suffix}", work, against, sides, ready))
        virsh = partial(_virsh_sides, ram=ram)
        found.append(
            GuestRow(
                f"instant-{size}-virsh",
                f"{size} guest, virsh restore of a clone by savefmt, to the first tick",
                "virsh restore",
                virsh,
                partial(virsh_obstacle, ram),
            )
        )
        found.append(
            GuestRow(
                f"instant-{size}-load",
                f"{size} guest on its image, only the load",
                BY_QEMU,
                partial(_load_sides, ram=ram),
                ready,
                "load",
            )
        )
    ram = guests[len(guests) // 2]
    for count in CLONES:
        sides = partial(_sides, ram=ram, load=by_qemu, count=count)
        ready = partial(obstacle, ram, count)
        key = f"instant-memory-{count}"
        work = f"memory of {count} guests of {ram // MIB} MiB at the first tick"
        found.append(GuestRow(key, work, BY_QEMU, sides, ready, "memory"))
    work = f"pages of its own that a {ram // MIB}M guest on its image has at the first tick"
    peer = "pages that it uses until then, loaded by QEMU"
    sides, ready = partial(_touching_sides, ram=ram), partial(obstacle, ram)
    found.append(GuestRow("instant-touched", work, peer, sides, ready, "touched"))
    return found


def virsh_obstacle(ram: int = 0) -> str | None:
    """Why libvirt cannot run one, None if it can."""
    from interop.conftest import lack_of_libvirt

    return obstacle(ram) or lack_of_libvirt() or None


# QEMU alone.


def _sides(lab: Lab, *, ram: int, load: Load, count: int = 1) -> tuple[Side, Side]:
    image = guest_image(lab, ram)
    return (
        Side(lambda: _started(lab, ram, image, count, _on_image), [image]),
        Side(lambda: _started(lab, ram, image, count, load), [image]),
    )


def _on_image(guest: LiveGuest, image: Path) -> None:
    _savefmt(guest, image, "--instant")


def _by_savefmt(guest: LiveGuest, image: Path) -> None:
    _savefmt(guest, image, "--parallel", str(CHANNELS), "--bypass-cache")


def _savefmt(guest: LiveGuest, image: Path, *words: str) -> None:
    subprocess.run(restoring(guest, image, *words), check=True)


def restoring(guest: LiveGuest, image: Path, *words: str) -> list[str]:
    """Return the command that restores an image into a guest that waits."""
    command = [sys.executable, "-m", "savefmt", "-q", "restore", "--qmp", guest.socket]
    return [*command, "--running", *words, os.fspath(image)]


def by_qemu(guest: LiveGuest, image: Path) -> None:
    """Have QEMU load an image in parallel."""
    capabilities = {"mapped-ram": True, "multifd": True}
    guest.load(f"file:{image}", capabilities, {"multifd-channels": CHANNELS, "direct-io": True})
    guest.cont()


_WAYS: dict[Load, str] = {
    _on_image: "savefmt restore --instant",
    _by_savefmt: f"savefmt restore --parallel {CHANNELS} --bypass-cache",
    by_qemu: f"mapped-ram, {CHANNELS} channels, direct-io",
}


def _started(lab: Lab, ram: int, image: Path, count: int, load: Load) -> Turn:
    """Start guests one after the other and wait until all have ticked."""
    from interop.live import LiveGuest
    from interop.qemu import wait_for

    arguments = guest_arguments(lab, ram)
    if load is _on_image:
        arguments = mapping(arguments, image)
    with ExitStack() as stack:
        folders = [Path(stack.enter_context(guest_folder(lab))) for _ in range(count)]
        began = time.perf_counter()
        guests = []
        for folder in folders:
            guest = stack.enter_context(LiveGuest(folder, arguments, incoming=True))
            load(guest, image)
            guests.append(guest)
        for guest in guests:
            wait_for(partial(_ticks, guest), "tick", step=0.002)
        seconds = time.perf_counter() - began
        pss = sum(_pss(guest.process.pid) for guest in guests)
    command = f"{count} x qemu-system-x86_64 -m {ram // MIB}M, {_WAYS[load]}"
    return Turn(seconds, 0.0, pss, command)


def _load_sides(lab: Lab, *, ram: int) -> tuple[Side, Side]:
    """Both sides tell the load alone, without the start of QEMU and of Python."""
    image = guest_image(lab, ram)
    return (
        Side(lambda: _loaded(lab, ram, image, _reported), [image]),
        Side(lambda: _loaded(lab, ram, image, _by_qemu_alone), [image]),
    )


def _loaded(lab: Lab, ram: int, image: Path, load: Callable[[LiveGuest, Path], float]) -> Turn:
    from interop.live import LiveGuest

    arguments = guest_arguments(lab, ram)
    if load is _reported:
        arguments = mapping(arguments, image)
    with guest_folder(lab) as folder, LiveGuest(Path(folder), arguments, incoming=True) as guest:
        return Turn(load(guest, image))


def _reported(guest: LiveGuest, image: Path) -> float:
    """Restore as the command does, in a program of its own, and return what it reports."""
    words = [sys.executable, "-c", _REPORT, guest.socket, os.fspath(image)]
    return float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


_REPORT = (
    "import sys; from savefmt.instant import restore_on_image; "
    "print(restore_on_image(sys.argv[2], qmp=sys.argv[1], running=True).seconds)"
)


def _by_qemu_alone(guest: LiveGuest, image: Path) -> float:
    began = time.perf_counter()
    by_qemu(guest, image)
    return time.perf_counter() - began


def _touching_sides(lab: Lab, *, ram: int) -> tuple[Side, Side]:
    image = guest_image(lab, ram)
    return (
        Side(lambda: _touched(lab, ram, image, _on_image, "Anonymous"), [image]),
        Side(lambda: _touched(lab, ram, image, by_qemu, "Referenced"), [image]),
    )


def _touched(lab: Lab, ram: int, image: Path, load: Load, told: str) -> Turn:
    """Return what the kernel tells of a guest's memory at the first tick after its load."""
    from interop.live import LiveGuest
    from interop.qemu import wait_for

    arguments = guest_arguments(lab, ram)
    if load is _on_image:
        arguments = mapping(arguments, image)
    with (
        guest_folder(lab) as folder,
        _small_pages(),
        LiveGuest(Path(folder), arguments, incoming=True) as guest,
    ):
        began = time.perf_counter()
        load(guest, image)
        process = Path(f"/proc/{guest.process.pid}")
        (process / "clear_refs").write_text("1")
        wait_for(partial(_ticks, guest), "tick", step=0.002)
        seconds = time.perf_counter() - began
        return Turn(seconds, 0.0, _of_memory(process, ram, told))


@contextmanager
def _small_pages() -> Iterator[None]:
    """No huge pages for what is started meanwhile: a touch would count as 2 MiB."""
    libc = ctypes.CDLL(None)
    libc.prctl(_NO_HUGE_PAGES, 1, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(_NO_HUGE_PAGES, 0, 0, 0, 0)


def _of_memory(process: Path, ram: int, told: str) -> int:
    """Sum up one number of smaps over the mappings as long as the guest's memory, in KiB."""
    total, counts = 0, False
    for line in (process / "smaps").read_text().splitlines():
        name, _, rest = line.partition(" ")
        if not name.endswith(":"):
            start, end = (int(word, 16) for word in name.split("-"))
            counts = ram <= end - start < ram + 64 * MIB
        elif counts and name == f"{told}:":
            total += int(rest.split()[0])
    return total


def _ticks(guest: LiveGuest) -> bool:
    return "tick" in guest.console_text()


def _pss(pid: int) -> int:
    """KiB of memory that a process uses, what it shares divided by its users."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Pss:")).split()[1])


# libvirt.

_CONSOLE = "/var/lib/libvirt/console/ticker"
_DOMAIN = """\
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>{ram}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{kernel}</kernel>
    <initrd>{initrd}</initrd>
    <cmdline>{append}</cmdline>
  </os>
  <features><acpi/><apic/></features>
  <cpu mode='custom' match='exact'><model>qemu64</model></cpu>
  <devices>
    <emulator>{emulator}</emulator>
    <controller type='usb' model='none'/>
    <serial type='file'><source path='{console}'/><target port='0'/></serial>
    <memballoon model='none'/>
  </devices>
</domain>
"""


def _virsh_sides(lab: Lab, *, ram: int) -> tuple[Side, Side]:
    """Both sides run virsh restore: ours of a clone, theirs of the image that it runs on."""
    from interop import linux
    from interop.libvirt import Libvirt
    from interop.qemu import wait_for

    daemon = lab.keep("libvirtd", Libvirt)
    domain = f"bench-{ram // MIB}"
    console = daemon.path(_CONSOLE)
    image = lab.folder / f"virsh-{ram // MIB}.save"
    if not image.exists():
        xml = _DOMAIN.format(
            name=domain,
            ram=ram // MIB,
            kernel=linux.KERNEL,
            initrd=initramfs(lab, ram),
            append=linux.APPEND,
            emulator=shutil.which("qemu-system-x86_64"),
            console=_CONSOLE,
        )
        daemon.start(xml)
        wait_for(lambda: _has(console, "tick 3\n"), "tick", timeout=300)
        daemon.save(domain, image, "sparse")
    clones = lab.folder / f"virsh-{ram // MIB}-clones"
    clone = clones / f"{domain}-clone.save"
    if not clone.exists():
        savefmt("clone", image, clones, "--libvirt")

    def turn(saved: Path, name: str, *options: str) -> Turn:
        console.unlink(missing_ok=True)
        began = time.perf_counter()
        daemon.virsh("restore", saved, *options)
        wait_for(lambda: _has(console, "tick"), "tick", step=0.002)
        seconds = time.perf_counter() - began
        pss = _pss(daemon.pid(name))
        daemon.destroy(name)
        return Turn(seconds, 0.0, pss, shown(["virsh", "restore", saved, *options]))

    return (
        Side(lambda: turn(clone, f"{domain}-clone"), [image, clone]),
        Side(lambda: turn(image, domain), [image]),
    )


def _has(console: Path, text: str) -> bool:
    return console.exists() and text in console.read_text(errors="replace")
