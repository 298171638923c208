"""The programs to compare with, each at its best."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from turns import Turn, process, shown

DEPTHS = (1, 2, 4, 8, 16)
_BLOCK = "4M"
PAGE = 4096
_PAGE_DEPTHS = (64, 128, 256)


def missing(*programs: str) -> str | None:
    """Name the programs that are not on PATH, None if all are."""
    absent = [name for name in programs if shutil.which(name) is None]
    return f"{', '.join(absent)} not installed" if absent else None


def version(program: str) -> str | None:
    """Return the first line of what a program says of its version."""
    if missing(program):
        return None
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    return next(iter((done.stdout or done.stderr).splitlines()), None)


def dd(source: Path, target: Path) -> Turn:
    """Copy past the page cache and sync."""
    words = ["bs=4M", "iflag=direct", "oflag=direct", "conv=fsync"]
    return process("dd", f"if={source}", f"of={target}", *words)


def cp(source: Path, target: Path) -> Turn:
    """Copy as cp does it best; the sync is ours, since savefmt syncs too."""
    turn = process("cp", "--reflink=auto", source, target)
    synced = process("sync", target)
    return one_after_the_other(turn, synced)


def reflink(source: Path, target: Path) -> Turn:
    """Share all of a file with a new one, synced as ours is."""
    turn = process("cp", "--reflink=always", source, target)
    return one_after_the_other(turn, process("sync", target))


def one_after_the_other(first: Turn, second: Turn) -> Turn:
    """Add up two pieces of work."""
    return Turn(
        first.seconds + second.seconds,
        first.cpu_seconds + second.cpu_seconds,
        max(first.peak_kib, second.peak_kib),
        f"{first.command} && {second.command}",
    )


def cp_sparse(source: Path, target: Path) -> Turn:
    """Copy with holes, synced as ours is."""
    script = 'cp --sparse=always "$1" "$2" && sync "$2"'
    return process("sh", "-c", script, "sh", source, target)


@cache
def best_depth(source: Path, target: Path | None) -> int:
    """Find the queue depth at which fio is fastest here."""
    return min(DEPTHS, key=lambda depth: _fio(source, target, depth).seconds)


def fio(source: Path, target: Path | None = None) -> Turn:
    """Read a dense file, direct; write as many bytes elsewhere at the same time."""
    return _fio(source, target, best_depth(source, target))


@cache
def _best_page_depth(source: Path, gap: int, pages: int) -> int:
    return min(_PAGE_DEPTHS, key=lambda depth: _fio_pages(source, gap, pages, depth).seconds)


def fio_pages(source: Path, gap: int, pages: int) -> Turn:
    """Read so many pages with gaps of so many bytes between them, from the first 1 MiB on."""
    return _fio_pages(source, gap, pages, _best_page_depth(source, gap, pages))


def _fio_pages(source: Path, gap: int, pages: int, depth: int) -> Turn:
    words = [f"--bs={PAGE}", f"--io_size={pages * PAGE}", f"--iodepth={depth}"]
    words += ["--offset=1M", "--name=read", f"--rw=read:{gap}", f"--filename={source}"]
    return _run_fio(words)


def _fio(source: Path, target: Path | None, depth: int) -> Turn:
    length = os.path.getsize(source) >> 22 << 22
    words = [f"--bs={_BLOCK}", f"--size={length}", f"--iodepth={depth}", "--fallocate=none"]
    words += ["--name=read", "--rw=read", f"--filename={source}"]
    if target is not None:
        target.unlink(missing_ok=True)
        words += ["--name=write", "--rw=write", f"--filename={target}", "--end_fsync=1"]
    return _run_fio(words)


def _run_fio(words: list[str]) -> Turn:
    command = ["fio", "--output-format=json", "--direct=1", "--ioengine=libaio", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"fio ended with {done.returncode}: {done.stderr}")
    jobs: list[dict[str, Any]] = json.loads(done.stdout)["jobs"]
    spans = [job[kind]["runtime"] / 1000 for job in jobs for kind in ("read", "write")]
    cpu = sum(job["job_runtime"] * (job["usr_cpu"] + job["sys_cpu"]) for job in jobs) / 100_000
    return Turn(max(*spans, 0.001), cpu, command=shown(command))
