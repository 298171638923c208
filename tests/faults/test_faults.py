"""Each system call of a command fails in turn: the source stays whole, and so does the target.

Whatever fails, the target is whole or not there, no temporary file is left, and the exit code
and one sentence say that it failed.  A call that was interrupted or did less than it was told
is no failure.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from builder import MIB, Record, all_records, make_envelope, make_stream, page
from faults.striking import CALLS, HARMLESS, Runner, sample

RAM = b"".join(page(number) if number % 7 else bytes(4096) for number in range(3 * MIB // 4096))
BLOCKS = {"pc.ram": RAM, "pc.bios": page(9999) * 32}
# Data that become zeros make holes again.
ROUNDS = [all_records(BLOCKS), [Record("pc.ram", number) for number in (1, 2, 700)]]
DELTAS = [all_records(BLOCKS), [Record("pc.ram", 5, delta=b"\x00\x01x")]]
SOURCES = {
    "mapped": make_stream(blocks=BLOCKS, layout="mapped-ram"),
    "stream": make_envelope() + make_stream(blocks=BLOCKS, rounds=ROUNDS),
    "deltas": make_stream(blocks=BLOCKS, rounds=DELTAS),
    "damaged": make_envelope(magic=b"LibvirtQemudPart", format=3)
    + make_stream(blocks=BLOCKS, rounds=ROUNDS, trailing=bytes(9999)),
}
IO = ["-T", "2"]
COMMANDS = {
    "to-raw": ["convert", "mapped", "target", "-O", "raw", "-F", *IO],
    "to-sparse": ["convert", "stream", "target", "-O", "sparse", *IO],
    "to-zstd": ["convert", "mapped", "target", "-O", "zstd", "-F", *IO],
    "repair": ["repair", "damaged", "target", "--fix", "all", "--fix", "magic", "-F", *IO],
    "core": ["export", "mapped", "target", *IO],
    "blocks": ["export", "stream", "target", "-f", "blocks", *IO],
    "salvage": ["salvage", "stream", "target", *IO],
    "hash": ["hash", "mapped", *IO],
    "hash-deltas": ["hash", "deltas", *IO],
}


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    folder = tmp_path_factory.mktemp("faults")
    for name, data in SOURCES.items():
        (folder / name).write_bytes(data)
    runner = Runner(folder)
    yield runner
    runner.close()


def content(path: Path) -> object:
    """A file's bytes, a folder's files, or None."""
    if path.is_dir():
        return {below.name: below.read_bytes() for below in path.iterdir()}
    return path.read_bytes() if path.exists() else None


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_call_fails(command: str, call: str, runner: Runner) -> None:
    words = COMMANDS[command]
    target = runner.folder / "target"
    old = b"what was there" if "-F" in words else None

    def prepare() -> None:
        remove(target)
        if old is not None:
            target.write_bytes(old)

    prepare()
    code, hit, count, text = runner(words, call, 1 << 30, 0)
    assert (code, hit) == (0, False), text
    whole = content(target)
    problems = []
    dice = random.Random(command + call)
    for errnum in CALLS[call]:
        for number in sample(count, dice):
            prepare()
            code, hit, _, text = runner(words, call, number, errnum)
            problem = judge(code, hit, text, content(target), [whole, old], errnum)
            left = {path.name for path in runner.folder.iterdir()} - {*SOURCES, "target"}
            if left:
                problem = f"{problem or ''} left behind: {left}"
            for name, data in SOURCES.items():
                if (runner.folder / name).read_bytes() != data:
                    pytest.fail(f"{name} was changed")
            if problem:
                problems.append((number, os.strerror(errnum), problem))
            for name in left:
                remove(runner.folder / name)

    assert problems == []


def judge(
    code: int, hit: bool, text: str, now: object, allowed: list[object], errnum: int
) -> str | None:
    """Say what is wrong, if anything is."""
    if code == 0:
        return None if now == allowed[0] else "success, and the target is another"
    if now not in allowed:
        return f"code {code}, and the target is neither whole nor as before"
    if not hit:
        return f"code {code} although nothing failed: {text}"
    if errnum in HARMLESS:
        return f"code {code} after a harmless fault: {text}"
    if code != 1 or len(text.strip().splitlines()) != 1 or not text.startswith("savefmt: "):
        return f"code {code}: {text}"
    return None
