"""From raw figures to a table and a picture."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import peers
from turns import ROOT, Pair, Turn

import savefmt
from savefmt.bench.machine import cpu_model, disk_of, file_system_of, memory_length

MIB = 1 << 20
BEGIN, END = "<!-- table by make bench -->", "<!-- end of the table -->"


@dataclass(frozen=True)
class Row:
    """One row: raw figures of each turn, and what they come to."""

    key: str
    work: str
    against: str
    goal: str
    ours: list[float]
    theirs: list[float]
    our_cpu: list[float]
    their_cpu: list[float]
    our_peak_kib: int
    value: float | None
    met: bool | None
    note: str = ""
    our_command: str = ""
    their_command: str = ""

    @classmethod
    def of(cls, key: str, work: str, against: str, goal: str, pair: Pair, **verdict: Any) -> Row:
        """Keep a pair's figures."""
        return cls(
            key,
            work,
            against,
            goal,
            [round(turn.seconds, 4) for turn in pair.ours],
            [round(turn.seconds, 4) for turn in pair.theirs],
            [round(turn.cpu_seconds, 3) for turn in pair.ours],
            [round(turn.cpu_seconds, 3) for turn in pair.theirs],
            max(turn.peak_kib for turn in pair.ours),
            our_command=pair.ours[-1].command,
            their_command=pair.theirs[-1].command if pair.theirs else "",
            **verdict,
        )

    @classmethod
    def skipped(cls, key: str, work: str, against: str, goal: str, reason: str) -> Row:
        """Say why there are no figures."""
        return cls(key, work, against, goal, [], [], [], [], 0, None, None, reason)


def facts(folder: Path) -> dict[str, Any]:
    """Say what machine this is, what was measured and when, and which programs took part."""
    programs = ("dd", "cp", "fio", "zstd", "gzip", "qemu-img", "qemu-system-x86_64")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "savefmt": savefmt.__version__,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cpu": cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_mib": memory_length() // MIB,
        "file_system": file_system_of(folder),
        "disk": disk_of(folder),
        "load_before": round(os.getloadavg()[0], 2),
        "programs": {name: peers.version(name) for name in programs},
    }


def commit() -> str | None:
    """Name the commit that is measured, None outside a repository; + where it was edited."""
    words = ["git", "-C", os.fspath(ROOT), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None


def document(
    machine: Mapping[str, Any],
    scale: str,
    rows: Sequence[Row],
    curves: Mapping[str, Mapping[int, Turn]],
) -> dict[str, Any]:
    """Gather everything for JSON."""
    return {
        "facts": dict(machine),
        "scale": scale,
        "rows": [asdict(row) for row in rows],
        "curves": {
            work: [
                {"ram": ram, "seconds": round(turn.seconds, 4), "peak_kib": turn.peak_kib}
                for ram, turn in points.items()
            ]
            for work, points in curves.items()
        },
    }


def markdown(content: Mapping[str, Any], plot: str | None = None) -> str:
    """Return the page of the manual that shows a run; `plot` names its picture."""
    lines = [*_opening(content), *_table(content["rows"]), *_curves(content)]
    commands = list(_commands(content["rows"]))
    if plot is not None and content["curves"]:
        lines += ["", f"![cost against size]({plot})"]
    if commands:
        lines += ["", "## Commands", "", *commands]
    return "\n".join([*lines, ""])


README_ROWS = ("raw-sparse", "gzip-sparse", "hash", "qemu", "info")
"""What the README shows: one row a kind of work, losses too."""


def refresh(readme: Path, content: Mapping[str, Any]) -> None:
    """Put a few figures in their place in the README."""
    before, begin, rest = readme.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{readme} has no place for the table")
    lines = ["| work | against | ours, s | theirs, s | ours / theirs |", f"|{'---|' * 5}"]
    for row in content["rows"]:
        if row["key"] in README_ROWS and row["ours"] and row["theirs"]:
            ours, theirs = statistics.median(row["ours"]), statistics.median(row["theirs"])
            cells = [row["work"], row["against"], f"{ours:.3g}", f"{theirs:.3g}"]
            lines.append(f"| {' | '.join(cells)} | {ours / theirs:.2f} |")
    readme.write_text("\n".join([before + begin, *lines, end + after]))


def _opening(content: Mapping[str, Any]) -> Iterator[str]:
    machine = content["facts"]
    yield "# Benchmarks"
    yield ""
    yield "Written by `make bench`, raw figures in `benchmarks/results`. In each row both sides"
    yield "took turns on the same file system with a cold page cache; the medians count. Syncs and,"
    yield "but for the rows against fio, the start of the interpreter are part of our time."
    yield "*ratio* follows from the row; *of pairs* is the median of the ratios of turns that"
    yield "followed each other, which a machine that drifts spoils less: the verdict is by it."
    yield ""
    yield f"- {machine['cpu']}, {machine['cpus']} CPUs, {machine['memory_mib']} MiB of memory"
    yield (
        f"- Linux {machine['kernel']}, {machine['file_system']}, Python {machine['python']}, "
        f"savefmt {machine['savefmt']}, load {machine['load_before']} at the start"
    )
    yield (
        f"- measured {machine.get('date') or 'some time ago'}, "
        f"commit {machine.get('commit') or 'unknown'}, disk {machine.get('disk') or 'unknown'}"
    )
    versions = [v for v in machine["programs"].values() if v]
    yield f"- {'; '.join(versions)}"
    yield f"- scale: {content['scale']} (`benchmarks/lab.py` has the sizes)"
    yield ""


GROUPS = {
    "time": (
        "Time beside another program",
        "Ratio: our seconds divided by theirs. Less is better.",
    ),
    "rate": (
        "Rate beside fio",
        "fio moves as many bytes of the same file and does nothing else: what the disk gives. "
        "Ratio: its seconds divided by ours. More is better, and 1 is all there is.",
    ),
    "latency": (
        "Reads here and there",
        "Milliseconds of CPU that 99 of 100 reads at random places take at most, once the "
        "image was indexed. Less is better.",
    ),
    "memory": ("Memory", "Ratio: our peak divided by theirs, or MiB. Less is better."),
}
"""Rows by what their ratio means: the title of each group, and how to read it."""


def group_of(row: Mapping[str, Any]) -> str:
    """Tell what a row's ratio is of, from its goal."""
    goal = row["goal"]
    words = {"time": "time", "rate": "rate", " ms": "latency"}
    return next((group for word, group in words.items() if word in goal), "memory")


def _table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    notes: list[str] = []
    for group, (title, reading) in GROUPS.items():
        own = [row for row in rows if group_of(row) == group]
        if own:
            yield from (f"## {title}", "", reading, "", *_group(own, group, notes), "")
    for number, note in enumerate(notes, 1):
        yield f"{number}. {note}"


def _group(rows: Sequence[Mapping[str, Any]], group: str, notes: list[str]) -> Iterator[str]:
    yield (
        "| work | against | ours, s | theirs, s | ratio | of pairs | goal | met | our CPU, s "
        "| peak, MiB |"
    )
    yield f"|{'---|' * 10}"
    for row in rows:
        mark = ""
        if row["note"]:
            notes.append(row["note"])
            mark = f" [{len(notes)}]"
        cells = [row["work"] + mark, row["against"], *_figures(row, group)]
        yield f"| {' | '.join(cells)} |"


def _commands(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Tell what each side ran, once for rows that tell the same; older figures do not say."""
    seen = set()
    for row in rows:
        ours, theirs = row.get("our_command"), row.get("their_command")
        if ours and theirs and (ours, theirs) not in seen:
            seen.add((ours, theirs))
            yield f"- {row['work']}: `{ours}` against `{theirs}`"


def _figures(row: Mapping[str, Any], group: str) -> list[str]:
    if row["value"] is None:
        return ["-", "-", "-", "-", row["goal"], "not measured", "-", "-"]
    middle = statistics.median
    ours = middle(row["ours"]) if row["ours"] else None
    theirs = middle(row["theirs"]) if row["theirs"] else None
    ratio = None
    if ours and theirs and group in ("time", "rate"):
        ratio = ours / theirs if group == "time" else theirs / ours
    return [
        *("-" if figure is None else f"{figure:.3g}" for figure in (ours, theirs, ratio)),
        f"{row['value']:.3g}",
        row["goal"],
        "yes" if row["met"] else "**no**",
        f"{middle(row['our_cpu']):.2f}" if row["our_cpu"] else "-",
        f"{row['our_peak_kib'] / 1024:.0f}" if row["our_peak_kib"] else "-",
    ]


def _curves(content: Mapping[str, Any]) -> Iterator[str]:
    curves: Mapping[str, Sequence[Mapping[str, Any]]] = content["curves"]
    if not curves:
        return
    sizes = [point["ram"] for point in next(iter(curves.values()))]
    yield ""
    yield "## Cost against size"
    yield ""
    yield "Seconds for guests of the size above the column, all with the same data."
    yield ""
    yield f"| work | {' | '.join(f'{size / (1 << 30):g} GiB' for size in sizes)} |"
    yield f"|---|{'---|' * len(sizes)}"
    for work, points in curves.items():
        yield f"| {work} | {' | '.join('%.2f' % point['seconds'] for point in points)} |"


def draw(content: Mapping[str, Any], path: Path) -> bool:
    """Draw cost against size; False where matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    for work, points in content["curves"].items():
        sizes = [point["ram"] / (1 << 30) for point in points]
        axes.plot(sizes, [point["seconds"] for point in points], marker="o", label=work)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
    axes.minorticks_off()
    axes.set(xlabel="guest memory, GiB (the same data at every size)", ylabel="seconds")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=len(content["curves"]))
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return True
