"""Linux guests of the benchmarks: what they do, and QEMU's own images of them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import peers
from lab import GIB, MIB, Lab

NEEDS = ("qemu-system-x86_64", "setpriv", "cpio")
MOST_DATA = GIB

COUNTING, READING = "counting", "reading"
"""One counts; the other ticks a few times, and then reads all that fills its memory."""

_READING_INIT = """\
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
exec </dev/ttyS0 >/dev/ttyS0 2>&1
/bin/busybox stty -echo -onlcr
[ "$(/bin/busybox stat -c %s /bulk)" = LENGTH ] || { echo "no memory for the bulk"; read -r end; }
for n in 0 1 2 3; do
    echo "tick $n"
    /bin/busybox sleep 0.3
done
/bin/busybox cat /bulk >/dev/null
echo "all read"
while :; do /bin/busybox sleep 1; done
"""


def bulk_length(ram: int) -> int:
    """Return how much fills a guest: what is unpacked must fit in half of what the rest leaves."""
    return min(ram // 5, MOST_DATA) // MIB * MIB


def obstacle(ram: int = 0, count: int = 1) -> str | None:
    """Why no such guests can be run, None if they can."""
    from interop import linux

    for path in (linux.KERNEL, linux.BUSYBOX):
        if not path.exists():
            return f"no {path}"
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if whole < max(ram, count * MOST_DATA * 5 // 4) + 2 * MOST_DATA:
        return f"this host has {whole // GIB} GiB of memory"
    return peers.missing(*NEEDS)


@contextmanager
def guest_folder(lab: Lab) -> Iterator[str]:
    folder = lab.folder / f"guest-{os.urandom(4).hex()}"
    folder.mkdir()
    yield str(folder)
    shutil.rmtree(folder)


def guest_arguments(lab: Lab, ram: int, kind: str = COUNTING) -> list[str]:
    """Return QEMU's arguments."""
    from interop import linux

    return [
        *("-machine", "q35", "-cpu", "qemu64", "-smp", "1", "-m", f"{ram // MIB}M"),
        *("-kernel", str(linux.KERNEL), "-initrd", str(initramfs(lab, ram, kind))),
        *("-append", linux.APPEND),
    ]


def mapping(arguments: list[str], image: Path) -> list[str]:
    """Return the arguments of a guest whose memory is mapped from its image."""
    from savefmt.image import SaveImage
    from savefmt.instant import mappable
    from savefmt.instant.startcommand import backend

    with SaveImage(image) as opened:
        (main,) = mappable(opened)
    words = list(arguments)
    words[1] += f",memory-backend={main.idstr}"
    return ["-object", backend(main, str(image)), *words]


def initramfs(lab: Lab, ram: int, kind: str = COUNTING) -> Path:
    """Make the guest's initramfs, with bulk that fills a part of its memory."""
    from interop import linux

    folder = lab.folder / f"{kind}-{ram // MIB}"
    target = folder / "initramfs.cpio"
    if not target.exists():
        folder.mkdir(exist_ok=True)
        linux.build_initramfs(folder)
        length = bulk_length(ram)
        with (folder / "bulk").open("wb") as file:
            for _ in range(length // MIB):
                file.write(os.urandom(MIB))
        added = ["bulk"]
        if kind == READING:
            (folder / "init").write_text(_READING_INIT.replace("LENGTH", str(length)))
            (folder / "init").chmod(0o755)
            added.insert(0, "init")  # Linux unpacks in order, and nothing behind what does not fit
        subprocess.run(
            ["cpio", "--quiet", "-o", "-H", "newc", "-A", "-F", str(target)],
            input="\n".join(added).encode(),
            cwd=folder,
            check=True,
        )
        (folder / "bulk").unlink()
    return target


def guest_image(lab: Lab, ram: int, kind: str = COUNTING) -> Path:
    """Return QEMU's own sparse image of the guest after three ticks."""
    from interop.live import LiveGuest

    image = lab.folder / f"{kind}-{ram // MIB}.sparse"
    if not image.exists():
        with LiveGuest(lab.folder, guest_arguments(lab, ram, kind)) as guest:
            guest.cont()
            guest.wait_console("tick 3\n", timeout=300)
            guest.stop()
            guest.migrate_to(f"file:{image}", capabilities={"mapped-ram": True})
    return image
