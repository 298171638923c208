"""Time conversions against dd copying the same bytes, and against QEMU doing the job.

All figures of a row come from one run: the two sides take turns, and the medians'
ratio is what counts.  ``python benchmarks/convert.py --help`` tells the options.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from images import make_mapped

import savefmt
from savefmt import Layout

MIB = 1 << 20
TESTS = Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(TESTS))


@dataclass(frozen=True)
class Row:
    """One comparison: seconds of each turn, and peak memory of our side in KiB."""

    work: str
    peer: str
    ours: list[float]
    theirs: list[float]
    our_peak_kib: int
    their_peak_kib: int

    @property
    def ratio(self) -> float:
        """Our median over theirs: below 1 we are faster."""
        return statistics.median(self.ours) / statistics.median(self.theirs)


@dataclass(frozen=True)
class Turn:
    """What one process took."""

    seconds: float
    peak_kib: int


def run(*command: str | Path) -> Turn:
    """Run a process to its end with a cold page cache where that is permitted."""
    drop_caches()
    began = time.perf_counter()
    process = subprocess.Popen([str(word) for word in command], stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[0]} ended with {process.returncode}")
    return Turn(time.perf_counter() - began, usage.ru_maxrss)


def drop_caches() -> None:
    """Write back and forget what the page cache holds; only root may."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except PermissionError:
        return


def pair(
    work: str, peer: str, ours: Callable[[], Turn], theirs: Callable[[], Turn], turns: int
) -> Row:
    """Let the two sides take turns."""
    mine, other = [], []
    for _ in range(turns):
        other.append(theirs())
        mine.append(ours())
    row = Row(
        work,
        peer,
        [turn.seconds for turn in mine],
        [turn.seconds for turn in other],
        max(turn.peak_kib for turn in mine),
        max(turn.peak_kib for turn in other),
    )
    print(f"{work:<18} {row.ratio:5.2f} of {peer}", file=sys.stderr)
    return row


def dd(source: Path, target: Path) -> Turn:
    """Copy past the page cache, as libvirt's helper does."""
    return run(
        "dd", f"if={source}", f"of={target}", "bs=4M", "iflag=direct", "oflag=direct", "conv=fsync"
    )


def convert(source: Path, target: Path, form: str) -> Turn:
    """Run our command."""
    command = [sys.executable, "-m", "savefmt", "-q", "convert"]
    return run(*command, source, target, "-O", form, "--force")


def synthetic_rows(folder: Path, ram: int, data: int, turns: int) -> list[Row]:
    """Compare with dd on a guest with `data` bytes of incompressible pages."""
    from golden.load import unpack

    template = unpack("q35-smp-mapped", folder)
    sparse, raw, out = folder / "guest.sparse", folder / "guest.raw", folder / "out"
    make_mapped(template, sparse, ram=ram, data=data)
    savefmt.convert(sparse, raw, layout=Layout.SEQUENTIAL, codec="raw", overwrite=True)
    peer = "dd, direct, of the raw image"
    return [
        pair(
            work,
            peer,
            lambda source=source, form=form: convert(source, out, form),  # type: ignore[misc]
            lambda: dd(raw, out),
            turns,
        )
        for work, source, form in (
            ("raw to sparse", raw, "sparse"),
            ("sparse to raw", sparse, "raw"),
            ("sparse to sparse", sparse, "sparse"),
        )
    ]


def qemu_row(folder: Path, ram: int, turns: int) -> Row | None:
    """Compare with QEMU: load the sequential image, save it as mapped-ram with multifd."""
    if shutil.which("qemu-system-x86_64") is None:
        print("QEMU is not installed: its row is left out", file=sys.stderr)
        return None
    from interop.qemu import Guest

    machine = ["-machine", "pc-q35-10.0", "-m", f"{ram // MIB}M", "-nodefaults"]
    source, target, out = folder / "qemu.raw", folder / "qemu.sparse", folder / "out"
    with Guest(folder, machine) as guest:
        guest.migrate_to(f"file:{source}")
    template = folder / "qemu.template"
    savefmt.convert(source, template, layout=Layout.MAPPED_RAM, overwrite=True)
    full = folder / "qemu.full"
    make_mapped(template, full, ram=ram, data=ram // 2)
    savefmt.convert(full, source, layout=Layout.SEQUENTIAL, codec="raw", overwrite=True)

    def by_qemu() -> Turn:
        drop_caches()
        target.unlink(missing_ok=True)
        began = time.perf_counter()
        with Guest(folder, [*machine, "-incoming", "defer"]) as guest:
            guest.load(f"file:{source}")
            guest.migrate_to(
                f"file:{target}",
                capabilities={"mapped-ram": True, "multifd": True},
                parameters={"multifd-channels": 2, "direct-io": True},
            )
            seconds = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        return Turn(seconds, peak)

    peer = "QEMU loading and saving again"
    return pair("raw to sparse", peer, lambda: convert(source, out, "sparse"), by_qemu, turns)


def facts() -> dict[str, object]:
    """Say what machine this is."""
    return {
        "savefmt": savefmt.__version__,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cpus": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
    }


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown."""
    lines = [
        "| work | against | ours, s | theirs, s | ratio | peak, MiB |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.work} | {row.peer} | {statistics.median(row.ours):.2f} "
        f"| {statistics.median(row.theirs):.2f} | {row.ratio:.2f} "
        f"| {row.our_peak_kib / 1024:.0f} / {row.their_peak_kib / 1024:.0f} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> int:
    """Run all rows; print the table, and write the raw figures where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, help="where to make the images; a real disk")
    parser.add_argument("--ram", type=int, default=2048, help="guest memory, MiB")
    parser.add_argument("--data", type=int, default=1024, help="of it not zero, MiB")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the raw figures there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="savefmt-bench-", dir=args.dir) as name:
        folder = Path(name)
        rows = synthetic_rows(folder, args.ram * MIB, args.data * MIB, args.turns)
        for leftover in folder.glob("guest.*"):
            leftover.unlink()
        row = qemu_row(folder, args.ram * MIB, args.turns)
        rows += [row] if row else []
    if args.json:
        document = {"facts": facts(), "rows": [{**asdict(r), "ratio": r.ratio} for r in rows]}
        args.json.write_text(json.dumps(document, indent=1) + "\n")
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
