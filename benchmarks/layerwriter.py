"""Time `savefmt export -O raw` against volatility3's layerwriter on the same image.

The image is a made-up guest of a machine type that volatility3 still reads.  Both sides write
the guest-physical memory, and what they wrote is compared.
``python benchmarks/layerwriter.py --help`` tells the options.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from images import make_mapped
from turns import Pair, Side, Turn, alternate, process, savefmt_inside

import savefmt
from savefmt import Layout

MIB = 1 << 20
ROMS_END = MIB
TESTS = Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(TESTS))

from golden import load  # noqa: E402

TEMPLATE = "q35-9.2-mapped"
LEAST_SPEED, MOST_MEMORY = 50.0, 0.1


def make_image(folder: Path, ram: int, data: int) -> Path:
    """Make a bare sequential stream: the only form that volatility3 knows."""
    mapped, image = folder / "mapped", folder / "image"
    make_mapped(
        load.unpack(TEMPLATE, folder), mapped, ram=ram, data=data, pattern="dense",
        compressible=False,
    )  # fmt: skip
    savefmt.convert(mapped, image, layout=Layout.SEQUENTIAL)
    mapped.unlink()
    return image


def measure(image: Path, folder: Path, turns: int) -> Pair:
    """Let both write the memory, in turns."""
    ours, theirs = folder / "ours.raw", folder / "primary.raw"
    vol = shutil.which("vol", path=str(Path(sys.executable).parent)) or "vol"
    cache = folder / "cache"
    cache.mkdir()
    words = ("-q", "--offline", "--cache-path", cache, "-o", folder, "-f", image)

    def export() -> Side:
        return Side(
            lambda: savefmt_inside("-q", "export", "-O", "raw", image, ours), [image], [ours]
        )

    def layerwriter() -> Side:
        return Side(lambda: process(vol, *words, "layerwriter.LayerWriter"), [image], [theirs])

    export().turn()
    layerwriter().turn()
    compare(ours, theirs)
    return alternate(export(), layerwriter(), turns)


def compare(ours: Path, theirs: Path) -> None:
    """See that both wrote the same main memory: volatility3 knows no ROMs, and drops a byte."""
    left = theirs.stat().st_size - ROMS_END
    with ours.open("rb") as one, theirs.open("rb") as other:
        one.seek(ROMS_END)
        other.seek(ROMS_END)
        while left:
            count = min(left, 16 * MIB)
            if one.read(count) != other.read(count):
                raise SystemExit("the two differ, so there is nothing to compare")
            left -= count


def _middle(turns: list[Turn]) -> float:
    return statistics.median(turn.seconds for turn in turns)


def main() -> int:
    """Make the image, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, help="where to work; a real disk")
    parser.add_argument("--ram", type=int, default=1024, metavar="MIB", help="the guest's memory")
    parser.add_argument("--data", type=int, default=400, metavar="MIB", help="what is not zero")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the raw figures there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="savefmt-bench-", dir=args.dir) as name:
        folder = Path(name)
        pair = measure(make_image(folder, args.ram * MIB, args.data * MIB), folder, args.turns)
    peaks = [max(turn.peak_kib for turn in side) for side in (pair.ours, pair.theirs)]
    faster, memory = 1 / pair.ratio, peaks[0] / peaks[1]
    print(f"export raw   {_middle(pair.ours):8.2f} s  {peaks[0] / 1024:8.0f} MiB")
    print(f"layerwriter  {_middle(pair.theirs):8.2f} s  {peaks[1] / 1024:8.0f} MiB")
    print(f"{faster:.0f} times as fast (goal {LEAST_SPEED:g}), {memory:.3f} of the memory")
    if args.json:
        figures = {
            "ram_mib": args.ram,
            "data_mib": args.data,
            "ours": [round(turn.seconds, 3) for turn in pair.ours],
            "theirs": [round(turn.seconds, 3) for turn in pair.theirs],
            "our_peak_kib": peaks[0],
            "their_peak_kib": peaks[1],
        }
        args.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if faster >= LEAST_SPEED and memory <= MOST_MEMORY else 1


if __name__ == "__main__":
    sys.exit(main())
