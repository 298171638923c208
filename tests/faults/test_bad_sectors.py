"""Images on a failing disk: everything but the bad sectors is read."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from builder import PAGE_SIZE, make_stream, page

COMPILER = shutil.which("cc")
BLOCKS = {"pc.ram": b"".join(map(page, range(40))), "pc.bios": page(99)}
BAD = range(9 * PAGE_SIZE, 11 * PAGE_SIZE)

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler")


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("shim") / "badsectors.so"
    source = Path(__file__).with_name("badsectors.c")
    assert COMPILER is not None
    subprocess.run([COMPILER, "-shared", "-fPIC", "-o", library, source], check=True)
    return library


@pytest.mark.parametrize("layout", ["sequential", "mapped-ram"])
def test_bad_sectors_are_listed_and_the_rest_is_read(
    tmp_path: Path, shim: Path, layout: str
) -> None:
    image = tmp_path / "image"
    image.write_bytes(make_stream(layout=layout, blocks=BLOCKS, align=PAGE_SIZE))
    environment = dict(os.environ)
    environment["LD_PRELOAD"] = str(shim)
    environment["SAVEFMT_BAD"] = f"{BAD.start}:{BAD.stop}:{image.resolve()}"

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "savefmt", words[0], str(image), *words[1:]]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    assert run("map").returncode == 1
    told = run("info", "--salvage", "-j")
    drawn = run("map", "--salvage", "-j", "--lost", str(tmp_path / "lost"))

    assert told.returncode == drawn.returncode == 3
    salvage = json.loads(told.stdout)["images"][0]["salvage"]
    bad = [damage for damage in salvage["damages"] if damage["kind"] == "unreadable"]
    assert [(damage["offset"], damage["end"]) for damage in bad] == [(BAD.start, BAD.stop)]
    assert salvage["devices_whole"]
    kinds = {
        extent["start"] // PAGE_SIZE + i: extent["kind"]
        for extent in json.loads(drawn.stdout)["extents"]
        for i in range(extent["length"] // PAGE_SIZE)
        if extent["block"] == "pc.ram"
    }
    lost = [number for number, kind in kinds.items() if kind == "lost"]
    assert set(kinds.values()) == {"data", "lost"}
    assert len(lost) in ((2,) if layout == "mapped-ram" else (3, 4))
    assert lost == [*range(lost[0], lost[0] + len(lost))]
    start, length = lost[0] * PAGE_SIZE, len(lost) * PAGE_SIZE
    assert (tmp_path / "lost").read_text() == f"pc.ram {start:#x} {length:#x}\n"
    shown = run("read", "--salvage", "--block", "pc.ram", hex(start - 16), "32")
    assert shown.stdout.splitlines()[0].count("??") == 0
    assert shown.stdout.splitlines()[1].split("|")[0].count("??") == 16
