"""Run one savefmt command and say what it took: seconds, CPU seconds, peak KiB.

The interpreter's start and the imports are not counted.
"""

from __future__ import annotations

import os
import resource
import sys
import time

from savefmt.cli.main import main


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    cpu, began = cpu_seconds(), time.perf_counter()
    code = main(sys.argv[1:])
    seconds, cpu = time.perf_counter() - began, cpu_seconds() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    os.write(2, f"{seconds:.6f} {cpu:.6f} {peak}\n".encode())
    sys.exit(code)
