"""Each system call of a save fails in turn: the guest runs on, and no half image is left."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.striking import CALLS, HARMLESS, Runner, sample

import savefmt
from interop.conftest import need_machine
from interop.live import MACHINE, LiveGuest, tiny_guest

pytestmark = [pytest.mark.interop, pytest.mark.usefixtures("qemu")]


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory, qemu: None) -> Iterator[LiveGuest]:
    """A guest that never rests."""
    need_machine(MACHINE)
    with tiny_guest(tmp_path_factory.mktemp("struck"), "live") as busy:
        yield busy


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    runner = Runner(tmp_path_factory.mktemp("saves"))
    yield runner
    runner.close()


@pytest.mark.parametrize("call", ["pwrite", "fsync", "rename", "fstat", "mmap", "close"])
@pytest.mark.parametrize("form", ["sparse", "zstd"])
def test_a_call_of_a_save_fails(form: str, call: str, guest: LiveGuest, runner: Runner) -> None:
    target = runner.folder / "target"
    words = ["save", "target", "--qmp", guest.socket, "-O", form, "--save-version", "upstream"]
    before = guest.settings(), guest.descriptors()

    def run(number: int, errnum: int) -> tuple[int, str | None]:
        """Return how often the call was made, and what is wrong, if anything is."""
        target.unlink(missing_ok=True)
        code, hit, count, text = runner(words, call, number, errnum)
        found = judge(code, hit, text, errnum)
        if guest.status != "running":
            found = f"the guest is {guest.status}: {text}"
        elif code == 0 and not target.exists():
            found = "success without an image"
        elif target.exists() and not is_sound(target):
            found = f"the image is damaged: {text}"
        left = set(os.listdir(runner.folder)) - {"target"}
        return count, f"left behind: {left}" if left else found

    count, problem = run(1 << 30, 0)
    assert problem is None
    dice = random.Random(form + call)
    turns = [(number, errnum) for errnum in CALLS[call] for number in sample(count, dice)]
    problems = [(turn, run(*turn)[1]) for turn in turns]

    assert [problem for problem in problems if problem[1]] == []
    assert (guest.settings(), guest.descriptors()) == before


def is_sound(path: Path) -> bool:
    return savefmt.check(path, level=savefmt.CheckLevel.FULL).ok


def judge(code: int, hit: bool, text: str, errnum: int) -> str | None:
    """Say what is wrong with how the command ended, if anything is."""
    if code == 0:
        return None
    if not hit:
        return f"code {code} although nothing failed: {text}"
    if errnum in HARMLESS:
        return f"code {code} after a harmless fault: {text}"
    if code != 1 or not text.startswith("savefmt: "):
        return f"code {code}: {text}"
    return None
