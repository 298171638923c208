"""A small Linux guest that counts on its console and watches over its own memory."""

from __future__ import annotations

import functools
import hashlib
import os
import random
import shutil
import subprocess
from pathlib import Path

KERNEL = Path("/var/lib/savefmt-kernel/vmlinuz")
BUSYBOX = Path("/usr/bin/busybox")
NOISE_LENGTH = 2 << 20
APPEND = "console=ttyS0 loglevel=3 tsc=unstable"

# Counts five times a second and hashes the noise now and then: a page lost or
# mixed up by a conversion shows as another digest, or as silence.  The loop in the
# background dirties enough pages that a live save takes several rounds.
INIT = """\
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
exec </dev/ttyS0 >/dev/ttyS0 2>&1
/bin/busybox stty -echo -onlcr
while :; do /bin/busybox usleep 5000; done &
n=0
while :; do
    if [ $((n % 5)) -eq 0 ]; then
        set -- $(/bin/busybox sha256sum /noise)
        echo "noise $1"
    fi
    echo "tick $n"
    n=$((n + 1))
    /bin/busybox sleep 0.2
done
"""


@functools.cache
def noise() -> bytes:
    """Return the data that the guest keeps in its memory."""
    return random.Random("savefmt").randbytes(NOISE_LENGTH)


@functools.cache
def noise_line() -> str:
    """Return what the guest prints while its memory is in order."""
    return f"noise {hashlib.sha256(noise()).hexdigest()}"


def build_initramfs(directory: Path) -> Path:
    """Make the guest's initramfs in `directory`, unless it is there."""
    target = directory / "initramfs.cpio"
    if target.exists():
        return target
    tree = directory / "tree"
    for name in ("bin", "dev", "proc"):
        (tree / name).mkdir(parents=True, exist_ok=True)
    shutil.copy(BUSYBOX, tree / "bin/busybox")
    (tree / "noise").write_bytes(noise())
    (tree / "init").write_text(INIT)
    (tree / "init").chmod(0o755)
    names = sorted(str(path.relative_to(tree)) for path in tree.rglob("*"))
    done = subprocess.run(
        ["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0", "--reproducible"],
        input="\n".join(names).encode(),
        cwd=tree,
        capture_output=True,
        check=True,
    )
    shutil.rmtree(tree)
    part = target.with_suffix(".part")
    part.write_bytes(done.stdout)
    os.replace(part, target)
    return target


@functools.cache
def transcript(count: int) -> str:
    """Return all that the guest writes on its console while it counts up to `count`."""
    lines = (f"{noise_line()}\n" * (n % 5 == 0) + f"tick {n}\n" for n in range(count))
    return "".join(lines)


def goes_on(before: str, after: str) -> bool:
    """Tell whether the guest has counted on for a while and found its memory in order.

    `before` is the console up to the save, `after` that of the restored guest; any
    gap, repetition or wrong report raises `AssertionError`.
    """
    text = before + after
    assert transcript(1000).startswith(text), f"the guest went astray: {text[-300:]}"
    return noise_line() in after and after.count("tick") >= 3
