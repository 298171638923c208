"""A Linux guest on its image's own pages, from the command to its first tick, and its memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import peers
from lab import MIB, Lab
from turns import Side, Turn

if TYPE_CHECKING:
    from interop.live import LiveGuest

NEEDS = ("qemu-system-x86_64", "setpriv", "cpio")
CLONES = 4
CHANNELS = 4
_LEAST_RAM = 160 * MIB


def obstacle() -> str | None:
    """Why no such guest can be run, None if it can."""
    from interop import linux

    for path in (linux.KERNEL, linux.BUSYBOX):
        if not path.exists():
            return f"no {path}"
    return peers.missing(*NEEDS)


def sides(lab: Lab) -> tuple[Side, Side]:
    """One guest until its first tick: ours runs on the image, theirs is loaded by QEMU."""
    image = _image(lab)
    return Side(lambda: _started(lab, image, 1, _on_image), [image]), Side(
        lambda: _started(lab, image, 1, _by_qemu), [image]
    )


def memory_sides(lab: Lab) -> tuple[Side, Side]:
    """Several guests at their first tick; the peak of a turn is the sum of their PSS."""
    image = _image(lab)
    return Side(lambda: _started(lab, image, CLONES, _on_image), [image]), Side(
        lambda: _started(lab, image, CLONES, _by_qemu), [image]
    )


def _on_image(guest: LiveGuest, image: Path) -> None:
    from savefmt.instant import restore_on_image

    restore_on_image(image, qmp=guest.socket, running=True)


def _by_qemu(guest: LiveGuest, image: Path) -> None:
    capabilities = {"mapped-ram": True, "multifd": True}
    guest.load(f"file:{image}", capabilities, {"multifd-channels": CHANNELS, "direct-io": True})
    guest.cont()


def _started(lab: Lab, image: Path, count: int, load: Callable[[LiveGuest, Path], None]) -> Turn:
    """Start guests one after the other and wait until all have ticked."""
    from interop.live import LiveGuest
    from interop.qemu import wait_for

    arguments = _arguments(lab)
    mapped = load is _on_image
    if mapped:
        arguments = _mapping(arguments, image)
    with ExitStack() as stack:
        folders = [Path(stack.enter_context(_folder(lab))) for _ in range(count)]
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
    way = "savefmt restore --instant" if mapped else f"mapped-ram, {CHANNELS} channels, direct-io"
    command = f"{count} x qemu-system-x86_64 -m {_ram(lab) // MIB}M, {way}"
    return Turn(seconds, 0.0, pss, command)


def _ticks(guest: LiveGuest) -> bool:
    return "tick" in guest.console_text()


def _ram(lab: Lab) -> int:
    return max(lab.scale.ram, _LEAST_RAM)  # Linux wants more than a tiny lab has


@contextmanager
def _folder(lab: Lab) -> Iterator[str]:
    folder = lab.folder / f"guest-{os.urandom(4).hex()}"
    folder.mkdir()
    yield str(folder)
    shutil.rmtree(folder)


def _arguments(lab: Lab) -> list[str]:
    from interop import linux

    return [
        *("-machine", "q35", "-cpu", "qemu64", "-smp", "1", "-m", f"{_ram(lab) // MIB}M"),
        *("-kernel", str(linux.KERNEL), "-initrd", str(_initramfs(lab))),
        *("-append", linux.APPEND),
    ]


def _mapping(arguments: list[str], image: Path) -> list[str]:
    from savefmt.image import SaveImage
    from savefmt.instant import mappable
    from savefmt.instant.startcommand import backend

    with SaveImage(image) as opened:
        (main,) = mappable(opened)
    words = list(arguments)
    words[1] += f",memory-backend={main.idstr}"
    return ["-object", backend(main, str(image)), *words]


def _initramfs(lab: Lab) -> Path:
    """The counting guest, with bulk that fills a third of its memory."""
    from interop import linux

    folder = lab.folder / "linux"
    target = folder / "initramfs.cpio"
    if not target.exists():
        folder.mkdir(exist_ok=True)
        linux.build_initramfs(folder)
        bulk = folder / "bulk"
        with bulk.open("wb") as file:
            for _ in range(_ram(lab) // 3 // MIB):
                file.write(os.urandom(MIB))
        subprocess.run(
            ["cpio", "--quiet", "-o", "-H", "newc", "-A", "-F", str(target)],
            input=b"bulk",
            cwd=folder,
            check=True,
        )
        bulk.unlink()
    return target


def _image(lab: Lab) -> Path:
    """QEMU's own sparse image of the guest after three ticks."""
    from interop.live import LiveGuest

    image = lab.folder / "linux.sparse"
    if not image.exists():
        with LiveGuest(lab.folder, _arguments(lab)) as guest:
            guest.cont()
            guest.wait_console("tick 3\n", timeout=300)
            guest.stop()
            guest.migrate_to(f"file:{image}", capabilities={"mapped-ram": True})
    return image


def _pss(pid: int) -> int:
    """KiB of memory that a process uses, what it shares divided by its users."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Pss:")).split()[1])
