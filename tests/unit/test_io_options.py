"""Every file whose pages are moved is opened as `IOOptions` says: no field gets lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builder import MIB, Record, all_records, make_stream

import savefmt
from savefmt.model import IOOptions, Layout
from savefmt.native.file import File
from savefmt.qemu import restoring

BLOCKS = {"pc.ram": bytes(range(1, 256)) * (MIB // 255) + bytes(MIB % 255)}
DELTA = Record("pc.ram", 0, delta=b"\x00\x01x")


class Reached(Exception):
    """As far as the test goes."""


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The engine of each file that is opened from now on."""
    seen: list[str] = []
    make: Callable[..., None] = File.__init__

    def spy(self: File, fd: int, **options: Any) -> None:
        seen.append(options.get("engine", "left to chance"))
        make(self, fd, **options)

    monkeypatch.setattr(File, "__init__", spy)
    return seen


Work = Callable[[Path, Path], object]
PSYNC = IOOptions(threads=2, engine="psync")


def read_memory(source: Path, target: Path) -> None:
    with savefmt.open(source, io=PSYNC) as image:
        image.memory.read("pc.ram", 0, 1)


WORK: dict[str, Work] = {
    "sparse": lambda a, b: savefmt.convert(a, b, layout=Layout.MAPPED_RAM, io=PSYNC),
    "raw": lambda a, b: savefmt.convert(a, b, layout=Layout.SEQUENTIAL, io=PSYNC),
    "export": lambda a, b: savefmt.export(a, b, format="raw", io=PSYNC),
    "export-blocks": lambda a, b: savefmt.export(a, b, format="blocks", io=PSYNC),
    "read": read_memory,
}


@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize("form", ["sequential", "mapped-ram", "deltas"])
def test_the_engine_is_the_one_asked_for(
    work: str, form: str, tmp_path: Path, engines: list[str]
) -> None:
    source = tmp_path / "image"
    if form == "deltas":  # which are spooled
        rounds = [all_records(BLOCKS), [DELTA]]
        source.write_bytes(make_stream(blocks=BLOCKS, rounds=rounds))
    else:
        source.write_bytes(make_stream(blocks=BLOCKS, layout=form))
    WORK[work](source, tmp_path / "target")

    assert set(engines) == {"psync"}


@pytest.mark.parametrize("bypass", [False, True])
def test_restore_reads_as_it_is_told(
    bypass: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = IOOptions(threads=3, direct=False, window=4 * MIB, engine="psync")
    seen: list[IOOptions] = []

    def spy(path: Path, *, io: IOOptions) -> None:
        seen.append(io)
        raise Reached

    monkeypatch.setattr(restoring, "SaveImage", spy)
    with pytest.raises(Reached):
        restoring.restore(tmp_path / "image", qmp="nowhere", bypass_cache=bypass, io=asked)

    assert seen == [IOOptions(threads=3, direct=bypass, window=4 * MIB, engine="psync")]
