"""The meter, on a clock that the tests turn."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cli import samples
from cli.fakes import FakeLibrary, Run
from golden.load import unpack

from savefmt.cli.progressbar import ProgressBar
from savefmt.cli.ui import Ui
from savefmt.image import SaveImage
from savefmt.model import Progress

GIB = 1 << 30


class Clock:
    """A clock that stands still until it is told to move."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


Make = Callable[..., ProgressBar]


@pytest.fixture
def clock() -> Clock:
    """Return the clock that `make` gives to its meters."""
    return Clock()


@pytest.fixture
def make(clock: Clock) -> Make:
    """Return a maker of meters, by default ones that print plain lines at once."""

    def call(**changes: Any) -> ProgressBar:
        options: dict[str, Any] = {
            "bar": True,
            "terminal": False,
            "at_once": True,
            "color": False,
            "descriptor": None,
            "step": lambda line: None,
            "clock": clock,
        }
        return ProgressBar("guest", **{**options, **changes})

    return call


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Return both ends of a pipe."""
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


def test_plain_lines_tell_rate_and_rest(
    make: Make, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with make() as meter:
        meter(Progress(0, 4 * GIB))
        clock.now += 2
        meter(Progress(GIB, 4 * GIB))
        clock.now += 0.5
        meter(Progress(2 * GIB, 4 * GIB))

    assert capsys.readouterr().err.splitlines() == [
        "savefmt: guest: 0 %, 0 bytes of 4 GiB",
        "savefmt: guest: 25 %, 1 GiB of 4 GiB, 512 MiB/s, 6.00 s left",
    ]


def test_unknown_totals(make: Make, clock: Clock) -> None:
    meter = make(bar=False)
    meter(Progress(0, 0, "reading"))
    clock.now += 4
    meter(Progress(GIB, 0, "reading"))

    assert meter.line(clock.now) == "reading, 1 GiB, 256 MiB/s"


def test_a_new_phase_starts_its_own_clock(make: Make, clock: Clock) -> None:
    phases: list[str] = []
    meter = make(bar=False, step=phases.append)
    meter(Progress(0, 4 * GIB, "copying"))
    clock.now += 1
    meter(Progress(2 * GIB, 4 * GIB, "copying"))
    meter(Progress(2 * GIB, 4 * GIB, "verifying"))
    clock.now += 4
    meter(Progress(3 * GIB, 4 * GIB, "verifying"))

    assert meter.line(clock.now) == "verifying, 75 %, 3 GiB of 4 GiB, 256 MiB/s, 4.00 s left"
    assert phases == ["guest: copying", "guest: verifying"]


def test_programs_get_each_percent_once(make: Make, pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    with make(bar=False, descriptor=writer) as meter:
        for done in (0, 1, 500, 505, 1000):
            meter(Progress(done, 1000))

    assert os.read(reader, 100) == b"0/100\n50/100\n99/100\n100/100\n"


def test_a_failed_job_never_says_100(make: Make, pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    meter = make(descriptor=writer, bar=False)
    meter.__enter__()
    meter(Progress(1000, 1000))
    meter.__exit__(ValueError, ValueError("disk"), None)

    assert os.read(reader, 100) == b"99/100\n"


def test_a_listener_may_leave(make: Make, pipe: tuple[int, int]) -> None:
    reader, _ = pipe
    with make(descriptor=reader, bar=False) as meter:  # not writable
        meter(Progress(1, 2))


def test_a_signal_asks_for_one_line(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with make(bar=False) as meter:
        meter(Progress(1, 4))
        os.kill(os.getpid(), signal.SIGUSR1)
        meter(Progress(2, 4))
        meter(Progress(3, 4))

    assert capsys.readouterr().err == "savefmt: guest: 50 %, 2 bytes of 4 bytes\n"
    assert signal.getsignal(signal.SIGUSR1) is before


def test_short_work_gets_no_bar(
    make: Make, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with make(terminal=True, at_once=False) as meter:
        clock.now += 0.9
        meter(Progress(1, 4))

        assert capsys.readouterr().err == ""
        clock.now += 0.2
        meter(Progress(2, 4, "copying"))

        assert "copying" in capsys.readouterr().err


def test_no_plain_lines_unasked(
    make: Make, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with make(at_once=False) as meter:
        clock.now += 60
        meter(Progress(1, 4))

    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("options", "called"), [([], False), (["-p"], True), (["-p", "-q"], False), (["-v"], True)]
)
def test_the_library_is_watched_only_where_someone_looks(
    library: FakeLibrary, run: Run, options: list[str], called: bool
) -> None:
    library.answer("convert", samples.CONVERSION)

    run("convert", "a", "b", *options)

    assert (library.calls[0][1]["progress"] is not None) is called


@pytest.mark.parametrize("command", ["devices", "regs", "memmap"])
def test_devices_are_looked_for_where_one_can_watch(
    command: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched: list[str] = []
    find = Ui.find_devices

    def noted(ui: Ui, image: SaveImage) -> None:
        find(ui, image)
        watched.append(os.fspath(image.filename))

    monkeypatch.setattr(Ui, "find_devices", noted)
    image = str(unpack("libvirt-sparse", tmp_path))

    assert run(command, image, "-p").code == 0
    assert watched == [image]
