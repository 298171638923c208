"""Run the benchmarks: ``python benchmarks/run.py --help``, or ``make bench``."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path

import instant_case
import qemu_case
import reads_case
import report
import warm_case
from cases import CASES, CURVES, Case, curve_point
from instant_case import GuestRow, peak
from lab import SCALES, Lab, Scale
from looking import LOOKING
from report import Row
from turns import Turn, alternate

ROWS = (*CASES, *LOOKING)
PEAK_LIMIT_MIB = 100
QEMU_TIME, QEMU_MEMORY = 0.35, 0.1
_QEMU_WORK, _QEMU_PEER = "raw → sparse", "QEMU: load, save as mapped-ram, multifd, direct"


def say(line: str) -> None:
    """Report on standard error."""
    print(line, file=sys.stderr, flush=True)


def run_case(lab: Lab, case: Case) -> Row:
    """Measure one row, or say why not."""
    words = (case.key, case.work, case.against, case.goal, "rate" if case.rate else "time")
    reason = case.obstacle(lab)
    if reason is not None:
        return Row.skipped(*words, reason)
    pair = alternate(*case.sides(lab), lab.scale.turns * case.turns)
    value = 1 / pair.ratio if case.rate else pair.ratio
    met = value >= case.limit if case.rate else value <= case.limit
    return Row.of(*words, pair, value=value, met=met, note=case.note)


def run_qemu(lab: Lab) -> list[Row]:
    """Measure time and memory against QEMU."""
    goals = (f"≤ {QEMU_TIME:g} of its time", f"≤ {QEMU_MEMORY:g} of its memory")
    heads = [
        (key, _QEMU_WORK, _QEMU_PEER, goal, kind)
        for key, goal, kind in zip(("qemu", "qemu-memory"), goals, ("time", "memory"), strict=True)
    ]
    reason = qemu_case.obstacle()
    if reason is not None:
        return [Row.skipped(*head, reason) for head in heads]
    pair = alternate(*qemu_case.sides(lab), lab.scale.turns)
    share = peak(pair.ours) / peak(pair.theirs)
    return [
        Row.of(*heads[0], pair, value=pair.ratio, met=pair.ratio <= QEMU_TIME),
        Row.of(*heads[1], pair, value=share, met=share <= QEMU_MEMORY),
    ]


def guest_rows(scale: Scale) -> list[GuestRow]:
    """Return all rows about guests that run on their image."""
    return [*instant_case.rows(scale.guests), *warm_case.rows(scale.guests)]


def run_guest(lab: Lab, row: GuestRow) -> Row:
    """Measure Linux guests on their image's own pages against those of a peer."""
    words = (row.key, row.work, row.against, row.goal, row.group)
    reason = row.ready()
    if reason is not None:
        return Row.skipped(*words, reason)
    pair = alternate(*row.sides(lab), 1 if row.kind == "memory" else lab.scale.turns)
    value, met = row.judge(pair)
    return Row.of(*words, pair, value=value, met=met)


def peak_row(rows: list[Row]) -> Row:
    """Sum up the memory of all rows."""
    worst = max(rows, key=lambda row: row.our_peak_kib)
    mib = worst.our_peak_kib / 1024
    return Row(
        key="peak",
        work=f"peak memory of all rows ({worst.work})",
        against="-",
        goal=f"≤ {PEAK_LIMIT_MIB} MiB",
        kind="memory",
        ours=[round(mib, 1)],
        theirs=[],
        our_cpu=[],
        their_cpu=[],
        our_peak_kib=worst.our_peak_kib,
        value=mib,
        met=mib <= PEAK_LIMIT_MIB,
    )


def run_rows(lab: Lab, wanted: Collection[str], rows: list[Row]) -> None:
    """Measure all rows that are wanted, all without a choice; `rows` gets each at once."""
    for case in ROWS:
        if not wanted or case.key in wanted:
            began = time.perf_counter()
            rows.append(run_case(lab, case))
            say(f"{_line(rows[-1])} {time.perf_counter() - began:6.1f} s")
    for key in reads_case.KINDS:
        if not wanted or key in wanted:
            rows.append(reads_case.run(lab, key))
            say(_line(rows[-1]))
    if not wanted or "qemu" in wanted:
        rows += run_qemu(lab)
        say("\n".join(map(_line, rows[-2:])))
    if any(row.our_peak_kib for row in rows):
        rows.append(peak_row(rows))  # before the guests, whose memory is another matter
    for guest_row in guest_rows(lab.scale):
        if not wanted or {"instant", guest_row.key} & set(wanted):
            rows.append(run_guest(lab, guest_row))
            say(_line(rows[-1]))


def _line(row: Row) -> str:
    if row.value is None:
        return f"{row.key:<18} left out: {row.note}"
    return f"{row.key:<18} {row.value:6.3f}  {row.goal:<24} {'met' if row.met else 'MISSED':<6}"


def run_curves(lab: Lab) -> dict[str, dict[int, Turn]]:
    """Measure cost against size; the middle of three turns."""
    curves: dict[str, dict[int, Turn]] = {}
    for work in CURVES:
        curves[work] = {}
        for ram in lab.scale.curve:
            turns = sorted((curve_point(lab, work, ram) for _ in range(3)), key=_seconds)
            curves[work][ram] = turns[1]
        say(f"{work:<18} " + " ".join(f"{t.seconds:.2f}" for t in curves[work].values()))
    return curves


def _seconds(turn: Turn) -> float:
    return turn.seconds


def main() -> int:
    """Run what is wanted; print the page, and write files where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, help="where to make the images; a real disk")
    parser.add_argument("--memory", type=Path, default=Path("/dev/shm"), help="a tmpfs")
    parser.add_argument("--scale", choices=tuple(SCALES), default="full")
    parser.add_argument("--rows", nargs="*", default=[], metavar="KEY", help="only these rows")
    parser.add_argument("--no-curves", action="store_true", help="do not measure cost against size")
    parser.add_argument("--json", type=Path, help="write the raw figures there")
    parser.add_argument("--markdown", type=Path, help="write the page there")
    parser.add_argument("--readme", type=Path, help="replace the table in this file")
    parser.add_argument("--plot", type=Path, help="draw cost against size there")
    args = parser.parse_args()
    known = {case.key for case in ROWS} | set(reads_case.KINDS) | {"qemu", "instant"}
    known |= {row.key for row in guest_rows(SCALES[args.scale])}
    unknown = set(args.rows) - known
    if unknown:
        parser.error(f"no rows {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # tidy up first
    with (
        tempfile.TemporaryDirectory(prefix="savefmt-bench-", dir=args.dir) as disk,
        _folder_in(args.memory) as memory,
        ExitStack() as mounts,
    ):
        lab = Lab(Path(disk).resolve(), SCALES[args.scale], Path(memory), mounts)
        machine = report.facts(lab.folder)
        rows: list[Row] = []
        curves: dict[str, dict[int, Turn]] = {}
        try:
            curves |= {} if args.no_curves else run_curves(lab)
            run_rows(lab, args.rows, rows)
        finally:  # what was measured until then is of use, too
            _write(args, report.document(machine, args.scale, rows, curves))
    return 0


def _folder_in(memory: Path) -> tempfile.TemporaryDirectory[str]:
    """Make a folder in memory; where there is none, its rows will say so."""
    usable = memory.is_dir() and os.access(memory, os.W_OK)
    return tempfile.TemporaryDirectory(prefix="savefmt-bench-", dir=memory if usable else None)


def _write(args: argparse.Namespace, content: dict[str, object]) -> None:
    drawn = bool(args.plot and content["curves"]) and report.draw(content, args.plot)
    page = report.markdown(content, args.plot.name if drawn else None)
    if args.json:
        args.json.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    if args.plot and content["curves"] and not drawn:
        say("no plot without matplotlib")
    if args.markdown:
        args.markdown.write_text(page)
    if args.readme:
        report.refresh(args.readme, content)
    print(page, end="")


if __name__ == "__main__":
    sys.exit(main())
