"""An exception between any two bytecodes: nothing of the C core is lost.

A Python signal handler may raise wherever the interpreter looks for signals.  Here an
exception is raised at every single bytecode of `savefmt.native`, one run for each, which is
more than any signal can do.  Afterwards no thread, no descriptor and no mapping is left.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from savefmt.model import IOOptions
from savefmt.native import core
from savefmt.native.file import Appender, File
from savefmt.native.index import BlockIndex
from savefmt.native.jobs import Emitter, fill_pages, move_pages
from savefmt.native.pages import BlockPages, SumKey, Table
from savefmt.native.records import Scanner, Scatter, Tally

MIB = 1 << 20
COUNT = 256
IO = IOOptions(threads=2, window=MIB, engine="psync")
CONTENT = random.Random(1).randbytes(COUNT * 4096)
NATIVE = os.path.dirname(core.__file__)
NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"


class Interrupted(BaseException):
    """What the signal handler raises."""


def block() -> BlockPages:
    return BlockPages(b"ram", COUNT, 4096, 0, bytearray(b"\xff" * (COUNT // 8)))


def nothing(_: int) -> None:
    """Nobody watches the progress."""


def open_and_read(fd: int, spare: int) -> None:
    with File(fd, path="image") as file:
        assert block().read(file, 3, 2) == CONTENT[3 * 4096 : 5 * 4096]
        assert len(file.map()) == len(CONTENT)


def read_ahead(fd: int, spare: int) -> None:
    with File(fd, path="image") as file:
        pieces = file.chunks(5, len(CONTENT), IO)
        assert b"".join(bytes(piece) for piece in pieces) == CONTENT[5:]


def move(fd: int, spare: int) -> None:
    with File(fd, path="image") as file, File(spare, path="target", write=True) as target:
        move_pages(
            file, [block()], IO, nothing, target=target, target_offsets=[0], key=SumKey.fixed()
        )
        assert target.read(len(CONTENT), 0) == CONTENT


def emit(fd: int, spare: int) -> None:
    with File(fd, path="image") as file, File(spare, path="target", write=True) as target:
        emitter = Emitter(file, [block()], SumKey.fixed())
        emitter.write(target, 0, IO, nothing)
        pieces = emitter.chunks(IO)
        assert sum(map(len, pieces)) == emitter.length


def write_behind(fd: int, spare: int) -> None:
    with File(spare, path="target", write=True) as target:
        appender = Appender(target, 0, IO)
        try:
            appender.write(CONTENT)
            appender.close()
        finally:
            appender.abort()
        fill_pages([target, target], [block()], IO, nothing)


def scatter(fd: int, spare: int) -> None:
    with File(spare, path="target", write=True) as target:
        scanner = Scanner(4096, [(b"ram", COUNT * 4096)])
        writer = Scatter(scanner, target, [block()], IO, key=SumKey.fixed(), path="image")
        try:
            writer.close()
        finally:
            writer.abort()


def tables(fd: int, spare: int) -> None:
    scanner = Scanner(4096, [(b"ram", COUNT * 4096)])
    assert len(Tally(scanner, SumKey.fixed(), "image").tables) == 1
    assert len(Tally(scanner, None, "image").indexes) == 1
    assert BlockIndex(b"ram", COUNT, 4096).memory
    assert Table(7).data() == bytes(56)


Work = Callable[[int, int], None]
WORK: list[Work] = [open_and_read, read_ahead, move, emit, write_behind, scatter, tables]


@pytest.fixture
def descriptors(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """An image, and room for another file."""
    path = tmp_path / "image"
    path.write_bytes(CONTENT)
    with path.open("rb") as image, (tmp_path / "target").open("w+b") as spare:
        yield image.fileno(), spare.fileno()


def interrupt_at(number: int, run: Callable[[], None]) -> bool:
    """Raise at one bytecode of ours; False if there are not so many."""
    left = number

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.startswith(NATIVE):
            return trace  # what it calls may be ours
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left == 0:
                raise Interrupted
        return trace

    old = sys.gettrace()  # coverage may be measured
    try:
        sys.settrace(trace)
        run()
    except Interrupted:
        pass
    finally:
        sys.settrace(old)
    return left <= 0


def open_now() -> tuple[int, int]:
    return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))


def check_clean(before: tuple[int, int], where: object) -> None:
    """A joined thread may take a moment to leave /proc."""
    deadline = time.monotonic() + 5
    while open_now() > before and time.monotonic() < deadline:
        time.sleep(0.001)
    assert open_now() <= before, where


@pytest.mark.parametrize("work", WORK, ids=lambda work: str(work.__name__))
def test_an_exception_at_every_bytecode(work: Work, descriptors: tuple[int, int]) -> None:
    work(*descriptors)
    gc.collect()
    before = open_now()
    number = 1
    gc.disable()  # what is left must not wait for it
    try:
        while interrupt_at(number, lambda: work(*descriptors)):
            check_clean(before, number)
            number += 1
    finally:
        gc.enable()
    assert number > 100
    work(*descriptors)


@pytest.fixture
def no_callbacks() -> Iterator[None]:
    """No code runs in the collector: Hypothesis has some there, which a signal may hit."""
    callbacks = gc.callbacks[:]
    gc.callbacks.clear()
    yield
    gc.callbacks[:] = callbacks


@pytest.mark.usefixtures("no_callbacks")
@pytest.mark.parametrize("work", [read_ahead, move, emit, write_behind, scatter])
def test_a_storm_of_signals(work: Work, descriptors: tuple[int, int]) -> None:
    """Real signals, the second while the first one's exception is on its way."""
    left = 0

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal left
        if left:
            left -= 1
            raise Interrupted

    work(*descriptors)
    before = open_now()
    old = signal.signal(signal.SIGALRM, interrupt)
    hits = 0
    deadline = time.monotonic() + (60 if NIGHTLY else 0.5)
    dice = random.Random(work.__name__)
    try:
        while time.monotonic() < deadline:
            first = dice.uniform(1e-5, 3e-3)
            left = 2
            try:
                signal.setitimer(signal.ITIMER_REAL, first, 2e-4)
                work(*descriptors)
            except Interrupted:
                pass  # nothing is called here: no signal is served before the next line
            unused, left = left, 0
            signal.setitimer(signal.ITIMER_REAL, 0)
            hits += unused < 2
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert hits > 3
    check_clean(before, work)
    work(*descriptors)
