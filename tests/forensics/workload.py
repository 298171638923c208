"""The guest that is analysed: Debian's kernel, busybox, and marks to look for."""

from __future__ import annotations

import subprocess
from pathlib import Path

BUSYBOX = Path("/usr/bin/busybox")
TASKS = ("canary-one", "canary-two", "canary-three")
"""Names of processes, besides the kernel's own threads."""
KERNEL_LOG = "savefmt: canary 7c1f in the kernel log"
SECRET = "SAVEFMT_SECRET=canary-4e20"
READY = "all canaries sing"
APPEND = "console=ttyS0 loglevel=3 tsc=unstable"

_INIT = f"""\
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
exec </dev/ttyS0 >/dev/ttyS0 2>&1
/bin/busybox stty -echo -onlcr
echo "{KERNEL_LOG}" >/dev/kmsg
echo "volatility3 leaves out the last line" >/dev/kmsg
export {SECRET}
for name in {" ".join(TASKS)}; do
    /$name &
done
/bin/busybox sleep 1
echo "{READY}"
while :; do /bin/busybox sleep 1000; done
"""
_CANARY = """\
#!/bin/busybox sh
while :; do /bin/busybox sleep 1000; done
"""


def build_initramfs(target: Path) -> None:
    """Write the guest's root file system.

    Parameters
    ----------
    target : Path
        The archive to make.
    """
    tree = target.with_suffix(".tree")
    for name in ("bin", "dev", "proc"):
        (tree / name).mkdir(parents=True)
    (tree / "bin/busybox").write_bytes(BUSYBOX.read_bytes())
    scripts = {"init": _INIT} | dict.fromkeys(TASKS, _CANARY)
    for name, text in scripts.items():
        (tree / name).write_text(text)
    for path in (tree / "bin/busybox", *(tree / name for name in scripts)):
        path.chmod(0o755)
    names = sorted(str(path.relative_to(tree)) for path in tree.rglob("*"))
    done = subprocess.run(
        ["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0"],
        input="\n".join(names).encode(),
        cwd=tree,
        capture_output=True,
        check=True,
    )
    target.write_bytes(done.stdout)
