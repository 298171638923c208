"""From raw figures to a table and a picture."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import peers
from turns import ROOT, Pair, Turn

import savefmt
from savefmt.bench.machine import cpu_model, disk_of, file_system_of, memory_length
from savefmt.bench.values import DIFFERENT

MIB = 1 << 20
BEGIN, END = "<!-- table by make bench -->", "<!-- end of the table -->"


@dataclass(frozen=True)
class Group:
    """Rows that are read the same way.

    Attributes
    ----------
    title, reading : str
        The title of their table, and how to read it.
    unit : str
        The unit of both sides' figures.
    amount : callable
        What of a turn is compared, in that unit.
    ratio : callable or None
        The ratio of our figure and theirs; None where ours alone is judged.
    paired : bool
        The verdict is by the ratios of turns that followed each other.
    """

    title: str
    reading: str
    unit: str
    amount: Callable[[Turn], float]
    ratio: Callable[[float, float], float] | None = None
    paired: bool = False


def _seconds(turn: Turn) -> float:
    return round(turn.seconds, 4)


def _ours_to_theirs(ours: float, theirs: float) -> float:
    return ours / theirs


GROUPS = {
    "time": Group(
        "Time against another program",
        "Ratio: our seconds divided by theirs. Less is better.",
        "s",
        _seconds,
        _ours_to_theirs,
        paired=True,
    ),
    "rate": Group(
        "Rate against fio",
        "fio moves as many bytes of the same file and does nothing else, so it shows the speed of "
        "the disk. Ratio: its seconds divided by ours. More is better, and 1 is the most.",
        "s",
        _seconds,
        lambda ours, theirs: theirs / ours,
        paired=True,
    ),
    "load": Group(
        "The load of a guest, without the start of any program",
        "Seconds. Less is better.",
        "s",
        _seconds,
    ),
    "latency": Group(
        "Random reads",
        "CPU time. 99 of 100 reads at random places take at most this long, after the image was "
        "indexed. Less is better.",
        "ms",
        lambda turn: round(1000 * turn.seconds, 2),
    ),
    "memory": Group(
        "Memory",
        "Ratio: our MiB divided by theirs. Less is better.",
        "MiB",
        lambda turn: round(turn.peak_kib / 1024, 1),
        _ours_to_theirs,
    ),
}
"""By kind of row, in the order of the page."""


@dataclass(frozen=True)
class Row:
    """One row: raw figures of each turn, in the unit of its group, and what they come to."""

    key: str
    work: str
    against: str
    goal: str
    kind: str
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
    def of(
        cls, key: str, work: str, against: str, goal: str, kind: str, pair: Pair, **verdict: Any
    ) -> Row:
        """Keep a pair's figures; `kind` is a key of `GROUPS`."""
        amount = GROUPS[kind].amount
        return cls(
            key,
            work,
            against,
            goal,
            kind,
            [amount(turn) for turn in pair.ours],
            [amount(turn) for turn in pair.theirs],
            [round(turn.cpu_seconds, 3) for turn in pair.ours],
            [round(turn.cpu_seconds, 3) for turn in pair.theirs],
            max(turn.peak_kib for turn in pair.ours),
            our_command=pair.ours[-1].command,
            their_command=pair.theirs[-1].command if pair.theirs else "",
            **verdict,
        )

    @classmethod
    def skipped(cls, key: str, work: str, against: str, goal: str, kind: str, reason: str) -> Row:
        """Say why there are no figures."""
        return cls(key, work, against, goal, kind, [], [], [], [], 0, None, None, reason)


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


README_ROWS = ("raw-sparse", "gzip-sparse", "strings", "hash", "info")
"""What the README shows: one row per kind of work, also rows where savefmt is slower."""


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


_READING = f"""\
`make bench` writes this page; the raw figures are in `benchmarks/results`. In each row both sides
take turns on the same file system, and the files leave the page cache before each turn. The figures
are medians. The time of savefmt includes every sync. It also includes the start of Python, except
in the rows against fio.

*ratio* follows from the two figures before it. *of pairs* is the median of the ratios of turns that
ran one after the other, so a machine that becomes slower spoils it less; *met* uses it.
*unsteady*: one run took more than {DIFFERENT} times as long as another run of the same program, so
its median is not reliable. A virtual machine may cause this: its host takes back memory that is
free, and a program that needs memory, for itself or for the page cache, waits until it is there
again. savefmt needs little memory, so this slows the other programs most. As much memory as a turn
needs is touched before it, but the host may be faster.
"""


def _opening(content: Mapping[str, Any]) -> Iterator[str]:
    machine = content["facts"]
    yield "# Benchmarks"
    yield ""
    yield _READING
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


def _table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    notes: list[str] = []
    for kind, group in GROUPS.items():
        own = [row for row in rows if row["kind"] == kind]
        if own:
            yield from (f"## {group.title}", "", group.reading, "")
            yield from (*_group(own, group, notes), "")
    for number, note in enumerate(notes, 1):
        yield f"{number}. {note}"


def _group(rows: Sequence[Mapping[str, Any]], group: Group, notes: list[str]) -> Iterator[str]:
    """Make a table with the columns that some row has something for."""
    table = [_cells(row, group, notes) for row in rows]
    names = [name for name in table[0] if any(cells[name] != "-" for cells in table)]
    yield f"| {' | '.join(names)} |"
    yield f"|{'---|' * len(names)}"
    for cells in table:
        yield f"| {' | '.join(cells[name] for name in names)} |"


def _cells(row: Mapping[str, Any], group: Group, notes: list[str]) -> dict[str, str]:
    mark = ""
    if row["note"]:
        if row["note"] not in notes:
            notes.append(row["note"])
        mark = f" [{notes.index(row['note']) + 1}]"
    ours, theirs, cpu = (_middle(row[side]) for side in ("ours", "theirs", "our_cpu"))
    ratio = group.ratio(ours, theirs) if group.ratio and ours and theirs else None
    paired = group.paired  # CPU and peak as well: elsewhere they are not of the whole work
    return {
        "work": row["work"] + mark,
        "against": row["against"],
        f"ours, {group.unit}": _figure(ours),
        f"theirs, {group.unit}": _figure(theirs),
        "ratio": _figure(ratio),
        "of pairs": _figure(row["value"] if paired else None),
        "goal": row["goal"],
        "met": _verdict(row),
        "our CPU, s": f"{cpu:.2f}" if paired and cpu else "-",
        "our peak, MiB": f"{row['our_peak_kib'] / 1024:.0f}"
        if paired and row["our_peak_kib"]
        else "-",
    }


def _middle(figures: Sequence[float]) -> float | None:
    return statistics.median(figures) if figures else None


def _figure(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.3g}"


def _verdict(row: Mapping[str, Any]) -> str:
    if row["value"] is None:
        return "not measured"
    unsteady = any(
        max(row[side]) > DIFFERENT * min(row[side]) for side in ("ours", "theirs") if row[side]
    )
    return ("yes" if row["met"] else "**no**") + (", unsteady" if unsteady else "")


def _commands(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Tell what each side ran, once for rows that tell the same; older figures do not say."""
    seen = set()
    for row in rows:
        ours, theirs = row.get("our_command"), row.get("their_command")
        if ours and theirs and (ours, theirs) not in seen:
            seen.add((ours, theirs))
            yield f"- {row['work']}: `{ours}` against `{theirs}`"


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
