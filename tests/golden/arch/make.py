"""Make the images of this folder anew: ``python tests/golden/arch/make.py``.

Needs QEMU of each architecture.  Of each guest there are the stream, what QEMU's monitor said of
it, and the SHA-256 of QEMU's own core.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parents[2] / "src")]

from archguests import ARRIVED, GUESTS, ArchGuest  # noqa: E402
from interop.qemu import Guest, wait_for  # noqa: E402


def make(arch: ArchGuest, folder: Path) -> str:
    """Save a guest, and return the hash of its core."""
    with Guest(folder, arch.arguments(folder), program=arch.program) as guest:
        guest.cont()
        wait_for(lambda: ARRIVED[arch.name] in guest.hmp("info registers"), "end of the code", 30)
        guest.stop()
        (HERE / f"{arch.name}.regs").write_text(guest.registers().replace("\r", ""))
        (HERE / f"{arch.name}.mtree").write_text(guest.hmp("info mtree -f").replace("\r", ""))
        guest.qmp("dump-guest-memory", paging=False, protocol=f"file:{folder}/core")
        guest.migrate_to(f"file:{folder}/image")
    image = (folder / "image").read_bytes()
    (HERE / f"{arch.name}.qemu.xz").write_bytes(
        lzma.compress(image, preset=9 | lzma.PRESET_EXTREME)
    )
    with (folder / "core").open("rb") as core:
        return hashlib.file_digest(core, "sha256").hexdigest()


def main() -> None:
    """Make all of them."""
    cores = {}
    for arch in GUESTS.values():
        with tempfile.TemporaryDirectory() as folder:
            cores[arch.name] = make(arch, Path(folder))
    (HERE / "cores.json").write_text(json.dumps(cores, indent=1) + "\n")


if __name__ == "__main__":
    main()
