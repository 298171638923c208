"""Time `savefmt linux` against pakunoda and volatility3 on one saved Linux guest.

From nothing, each tells the processes; then each tells more.  The guest is the planted one of the
tests, with Debian's kernel (``tools/install-kernels 6.1``), or ``--image``.  pakunoda and ``vol``
may be those of other venvs: a package that pakunoda brings makes the first ``vol`` slower.
``python benchmarks/linuxanswers.py --help`` tells the options.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from turns import Pair, Side, Turn, alternate, process, savefmt

import savefmt as library
from savefmt.linux.answers import read_answer
from savefmt.linux.opening import open_kernel

TESTS = Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(TESTS))

from interop import planted  # noqa: E402

PLUGINS = {
    "ps": "pslist.PsList",
    "log": "kmsg.Kmsg",
    "files": "lsof.Lsof",
    "net": "sockstat.Sockstat",
    "mounts": "mountinfo.MountInfo",
    "modules": "lsmod.Lsmod",
    "maps": "malfind.Malfind",
}
LEAST_SPEED, MOST_MEMORY, MOST_SECONDS = 20.0, 0.5, 0.2


def make_image(folder: Path) -> Path:
    """Boot the planted guest, and save it."""
    missing = planted.lack_of_kernel("6.1")
    if missing:
        raise SystemExit(missing)
    image = folder / "image"
    with planted.boot("6.1", folder) as machine:
        machine.migrate_to(f"file:{image}", {"mapped-ram": True})
    return image


class Peers:
    """pakunoda and volatility3, with a folder for what they keep."""

    def __init__(self, folder: Path, pakunoda: str, vol: str) -> None:
        self._folder, self._pakunoda, self._vol = folder, pakunoda, vol
        words = [sys.executable, "-m", "savefmt", "plugins", "volatility"]
        self._plugins = subprocess.check_output(words, text=True).strip()

    def plugin(self, image: Path, name: str) -> Turn:
        """Run one plugin with the symbols that are there."""
        kept = ("--cache-path", self._folder / "cache", "-s", self._folder / "symbols")
        words = (self._vol, "-q", "--offline", *kept, "-p", self._plugins, "-f", image)
        return process(*words, f"linux.{name}")

    def from_nothing(self, image: Path) -> Turn:
        """Make the core and the symbols, and list the processes."""
        for name in ("symbols", "cache"):
            shutil.rmtree(self._folder / name, ignore_errors=True)
            (self._folder / name).mkdir()
        core = self._folder / "core"
        core.unlink(missing_ok=True)
        words = (self._pakunoda, "extract", core, "-o", f"{self._folder / 'symbols'}/")
        steps = [
            savefmt("export", image, core),
            process(*words, "--no-donor"),
            self.plugin(image, PLUGINS["ps"]),
        ]
        return Turn(
            sum(step.seconds for step in steps),
            sum(step.cpu_seconds for step in steps),
            max(step.peak_kib for step in steps),
            "; ".join(step.command for step in steps),
        )


def once_open(image: Path, turns: int) -> dict[str, float]:
    """Return the seconds of each further answer of a kernel that is open."""
    found = {}
    with library.open(image, io=library.IOOptions(direct=False)) as opened:
        kernel = open_kernel(opened)
        read_answer(kernel, "ps")
        for answer in (*PLUGINS, "summary", "env", "pages"):
            found[answer] = statistics.median(
                _seconds(lambda answer=answer: read_answer(kernel, answer))  # type: ignore[misc]
                for _ in range(turns)
            )
    return found


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _middle(turns: list[Turn]) -> float:
    return statistics.median(turn.seconds for turn in turns)


def _peak(turns: list[Turn]) -> int:
    return max(turn.peak_kib for turn in turns)


def main() -> int:
    """Make the guest, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, help="where to work; a real disk")
    parser.add_argument("--image", type=Path, help="a saved Linux guest instead of the planted one")
    parser.add_argument("--pakunoda", default="pakunoda", help="the program")
    parser.add_argument("--vol", default="vol", help="the program")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the raw figures there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="savefmt-bench-", dir=args.dir) as name:
        image = args.image or make_image(Path(name))
        peers = Peers(Path(name), args.pakunoda, args.vol)
        pair = alternate(
            Side(lambda: savefmt("linux", image, "ps"), [image]),
            Side(lambda: peers.from_nothing(image), [image]),
            args.turns,
        )
        further = once_open(image, args.turns)
        alone = {answer: savefmt("linux", image, answer).seconds for answer in PLUGINS}
        theirs = {answer: peers.plugin(image, name).seconds for answer, name in PLUGINS.items()}
    faster, memory = 1 / pair.ratio, _peak(pair.ours) / _peak(pair.theirs)
    for label, side in (("savefmt linux ps", pair.ours), ("pakunoda, pslist", pair.theirs)):
        print(f"{label:<18} {_middle(side):8.2f} s  {_peak(side) / 1024:6.0f} MiB")
    print(f"{faster:.0f} times as fast (goal {LEAST_SPEED:g}), {memory:.2f} of the memory")
    print("further answers:   once open   by the command   by a plugin")
    for answer, seconds in further.items():
        others = [f"{table[answer]:.2f}" if answer in table else "" for table in (alone, theirs)]
        print(f"  {answer:<14} {seconds:9.3f} s   {others[0]:>14}   {others[1]:>11}")
    if args.json:
        args.json.write_text(json.dumps(_figures(pair, further, alone, theirs), indent=1) + "\n")
    good = faster >= LEAST_SPEED and memory <= MOST_MEMORY
    return 0 if good and max(further[answer] for answer in PLUGINS) <= MOST_SECONDS else 1


def _figures(
    pair: Pair, further: dict[str, float], alone: dict[str, float], theirs: dict[str, float]
) -> dict[str, object]:
    def rounded(table: dict[str, float]) -> dict[str, float]:
        return {name: round(seconds, 3) for name, seconds in table.items()}

    return {
        "ours": [round(turn.seconds, 3) for turn in pair.ours],
        "theirs": [round(turn.seconds, 3) for turn in pair.theirs],
        "our_peak_kib": _peak(pair.ours),
        "their_peak_kib": _peak(pair.theirs),
        "once_open": rounded(further),
        "by_the_command": rounded(alone),
        "by_a_plugin": rounded(theirs),
    }


if __name__ == "__main__":
    sys.exit(main())
