"""What a user does without us: QEMU loads the sequential image and saves it as mapped-ram."""

from __future__ import annotations

import os
import time
from pathlib import Path

import peers
from lab import MIB, Lab
from turns import Side, Turn, savefmt

NEEDS = ("qemu-system-x86_64", "setpriv")
CHANNELS = 2


def obstacle() -> str | None:
    """Why QEMU cannot take part, None if it can."""
    return peers.missing(*NEEDS)


def sides(lab: Lab) -> tuple[Side, Side]:
    """Make both sides, ours first."""
    raw = _guest_image(lab)
    target = lab.folder / "qemu.out"
    ours = Side(lambda: savefmt("convert", raw, lab.out, "-O", "sparse"), [raw], [lab.out])
    return ours, Side(lambda: _load_and_save(lab, raw, target), [raw], [target])


def _arguments(lab: Lab) -> list[str]:
    return ["-machine", "pc-q35-10.0", "-m", f"{lab.scale.ram // MIB}M"]


def _guest_image(lab: Lab) -> Path:
    """QEMU's own image of a guest, its memory filled by us."""
    from images import make_mapped
    from interop.qemu import Guest

    empty, sparse = lab.folder / "qemu-empty.sparse", lab.folder / "qemu.sparse"
    if not sparse.exists():
        with Guest(lab.folder, _arguments(lab)) as guest:
            guest.migrate_to(f"file:{empty}", capabilities={"mapped-ram": True})
        make_mapped(empty, sparse, ram=lab.scale.ram, data=lab.scale.data)
    return lab.raw(sparse)


def _load_and_save(lab: Lab, source: Path, target: Path) -> Turn:
    from interop.qemu import Guest

    began = time.perf_counter()
    with Guest(lab.folder, _arguments(lab), incoming=True) as guest:
        guest.load(f"file:{source}")
        guest.migrate_to(
            f"file:{target}",
            capabilities={"mapped-ram": True, "multifd": True},
            parameters={"multifd-channels": CHANNELS, "direct-io": True},
        )
        seconds = time.perf_counter() - began
        command = (
            f"qemu-system-x86_64 {' '.join(_arguments(lab))} -incoming file:{source.name}, "
            f"then migrate file:{target.name}, mapped-ram, multifd-channels {CHANNELS}, direct-io"
        )
        return Turn(seconds, *_usage(guest.process.pid), command)


def _usage(pid: int) -> tuple[float, int]:
    """CPU seconds and peak KiB of a running process."""
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    peak = next(line for line in status if line.startswith("VmHWM:"))
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"), int(peak.split()[1])
