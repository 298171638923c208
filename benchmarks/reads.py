"""Read 8 bytes at many random places of an image, and say what 99 of 100 reads take at most.

That is CPU time, which other work on the machine does not change: decoding is all of it.  What
is prepared for the first read is not counted.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import sys
import time
from math import ceil
from pathlib import Path

from timed import cpu_seconds

import savefmt
from savefmt.progress import Meter

_LENGTH = 8
_SEED = 18


def p99(seconds: list[float]) -> float:
    """Return what 99 of 100 are not above."""
    return sorted(seconds)[ceil(len(seconds) * 0.99) - 1]


def read_here_and_there(image: Path, count: int) -> list[float]:
    """Return the seconds that each read took."""
    dice = random.Random(_SEED)
    taken = []
    with savefmt.open(image) as opened:
        memory = opened.memory
        memory.prepare(Meter(None))
        block = max(opened.head.blocks.blocks, key=lambda one: one.used_length).idstr
        runs = list(memory.runs(block))
        for _ in range(count):
            run = dice.choice(runs)
            place = (run.first + dice.randrange(run.count)) * opened.page_size
            began = time.process_time()
            memory.read(block, place, _LENGTH)
            taken.append(time.process_time() - began)
    return taken


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image", type=Path)
    parser.add_argument("--count", type=int, default=200)
    args = parser.parse_args()
    cpu = cpu_seconds()
    worst = p99(read_here_and_there(args.image, args.count))
    cpu, peak = cpu_seconds() - cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    os.write(2, f"{worst:.6f} {cpu:.6f} {peak}\n".encode())
    sys.exit(0)
