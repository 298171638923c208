"""Time searching, hashing and texts against grep, sha256sum and strings on the same file.

Both sides read from the page cache and take turns: what counts is the time of a core.
``python benchmarks/search.py --help`` tells the options.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from images import make_mapped

import savefmt
from savefmt import Layout

MIB = 1 << 20
TESTS = Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(TESTS))

NEEDLE = "no such needle"
RULES = 'rule r { strings: $a = "no such needle" condition: $a }'


@dataclass(frozen=True)
class Turn:
    """What one process took: seconds, seconds of all cores, peak memory."""

    seconds: float
    cpu: float
    peak_kib: int


@dataclass(frozen=True)
class Row:
    """One comparison; `data` is how many bytes of memory were looked through."""

    work: str
    peer: str
    data: int
    ours: list[Turn]
    theirs: list[Turn]

    def ratio(self) -> float:
        """Our median time over theirs: below 1 we are faster."""
        ours, theirs = ([turn.seconds for turn in side] for side in (self.ours, self.theirs))
        return statistics.median(ours) / statistics.median(theirs)

    def rate(self, side: list[Turn]) -> float:
        """GiB a second that one core gets through, start of the program included."""
        return self.data / (1 << 30) / statistics.median(turn.cpu for turn in side)


def run(*command: str | Path, expected: tuple[int, ...] = (0, 1)) -> Turn:
    """Run a process to its end; finding nothing is no failure."""
    began = time.perf_counter()
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in expected:
        raise SystemExit(f"{command[0]} ended with {process.returncode}")
    cpu = usage.ru_utime + usage.ru_stime
    return Turn(time.perf_counter() - began, cpu, usage.ru_maxrss)


def ours(command: str, image: Path, *words: str | Path) -> tuple[str | Path, ...]:
    """Return our command line, past no cache, on one core."""
    return (sys.executable, "-m", "savefmt", "-q", command, image, "--no-direct", "-T1", *words)


def compare(
    work: str, data: int, mine: tuple[str | Path, ...], peer: tuple[str | Path, ...], turns: int
) -> Row:
    """Let the two sides take turns, after one turn that warms the cache and does not count."""
    run(*peer)
    run(*mine)
    pairs = [(run(*peer), run(*mine)) for _ in range(turns)]
    name = " ".join(str(word) for word in peer[:-1])
    row = Row(work, name, data, [pair[1] for pair in pairs], [pair[0] for pair in pairs])
    rate = row.rate(row.ours)
    print(f"{work:<36} {row.ratio():5.2f} of {name}, {rate:.2f} GiB/s a core", file=sys.stderr)
    return row


def rows(folder: Path, data: int, turns: int) -> list[Row]:
    """Compare on a guest full of what memory is full of."""
    from golden.load import unpack

    template = unpack("q35-smp-mapped", folder)
    sparse, raw, rules = folder / "guest.sparse", folder / "guest.raw", folder / "rules.yar"
    make_mapped(template, sparse, ram=data, data=data, compressible=True)
    savefmt.convert(sparse, raw, layout=Layout.SEQUENTIAL, codec="raw", overwrite=True)
    rules.write_text(RULES)
    digits = NEEDLE.encode().hex()
    grep: tuple[str, ...] = ("grep", "-c", "-a", "-F", NEEDLE)
    perl: tuple[str, ...] = ("grep", "-c", "-a", "-P", "no s[u]ch +needle")
    works: list[tuple[str, tuple[str | Path, ...], tuple[str | Path, ...]]] = [
        ("text, sparse", ours("search", sparse, "-c", NEEDLE), (*grep, sparse)),
        ("text, raw", ours("search", raw, "-c", NEEDLE), (*grep, raw)),
        (
            "wildcards, sparse",
            ours("search", sparse, "-c", "--hex", f"{digits}??"),
            (*grep, sparse),
        ),
        (
            "expression, sparse",
            ours("search", sparse, "-c", "--regex", "no s[u]ch +needle"),
            (*perl, sparse),
        ),
        ("YARA rule, sparse", ours("search", sparse, "-c", "--yara", rules), (*grep, sparse)),
        ("SHA-256 of all, sparse", ours("hash", sparse), ("sha256sum", sparse)),
        ("texts, sparse", ours("strings", sparse), ("strings", "-a", sparse)),
    ]
    return [
        compare(work, data, mine, peer, turns)
        for work, mine, peer in works
        if shutil.which(str(peer[0]))
    ]


def facts() -> dict[str, object]:
    """Say what machine this is."""
    return {
        "savefmt": savefmt.__version__,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cpus": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
    }


def table(results: list[Row]) -> str:
    """Return the rows as Markdown."""
    lines = [
        "| work | against | ours, s | theirs, s | ratio | GiB/s a core | theirs | peak, MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.work} | `{row.peer}` | {statistics.median(t.seconds for t in row.ours):.2f} "
        f"| {statistics.median(t.seconds for t in row.theirs):.2f} | {row.ratio():.2f} "
        f"| {row.rate(row.ours):.2f} | {row.rate(row.theirs):.2f} "
        f"| {max(t.peak_kib for t in row.ours) / 1024:.0f} |"
        for row in results
    ]
    return "\n".join(lines)


def main() -> int:
    """Run all rows; print the table, and write the raw figures where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, help="where to make the images")
    parser.add_argument("--data", type=int, default=1024, help="guest memory, MiB")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the raw figures there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="savefmt-bench-", dir=args.dir) as name:
        results = rows(Path(name), args.data * MIB, args.turns)
    if args.json:
        document = {
            "facts": facts(),
            "rows": [{**asdict(row), "ratio": row.ratio()} for row in results],
        }
        args.json.write_text(json.dumps(document, indent=1) + "\n")
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
