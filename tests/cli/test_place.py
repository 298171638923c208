"""``--place``: the analyst says where a block lies, and everything that is shown says so."""

from __future__ import annotations

import html
import json
import lzma
from pathlib import Path

import pytest
from archguests import CODE

from savefmt.cli.main import main
from savefmt.mount import serving

Capture = pytest.CaptureFixture[str]
RAM = "riscv_virt_board.ram"


@pytest.fixture
def image(tmp_path: Path) -> str:
    """A RISC-V guest, whose RAM begins at 2 GiB."""
    path = tmp_path / "image"
    path.write_bytes(lzma.decompress((CODE / "riscv64.qemu.xz").read_bytes()))
    return str(path)


def run(capsys: Capture, *words: str) -> tuple[int, str, str]:
    """Run a command, and return its code and what it printed."""
    code = main(list(words))
    out, err = capsys.readouterr()
    return code, out, err


def test_the_map_says_who_said_it(image: str, capsys: Capture) -> None:
    code, out, err = run(capsys, "memmap", image, "--place", f"{RAM}=4G")

    (line,) = (line for line in out.splitlines() if RAM in line)
    assert code == 0
    assert line.startswith("0x100000000 ")
    assert line.endswith("said: --place")
    assert "because the caller says so" in err


def test_places_of_a_file(image: str, tmp_path: Path, capsys: Capture) -> None:
    places = tmp_path / "places"
    places.write_text(f"# where\n\n{RAM}=0x100000000\nvirt.flash1=1G\n")

    code, out, _ = run(capsys, "memmap", image, "-j", "--place", f"@{places}")

    said = {r["block"]: r["start"] for r in json.loads(out)["ranges"] if r["source"] == "said"}
    assert code == 0
    assert said == {RAM: 4 << 30, "virt.flash1": 1 << 30}


@pytest.mark.parametrize("command", ["read", "vtop", "search", "export"])
def test_every_command_with_addresses_takes_it(
    command: str, image: str, tmp_path: Path, capsys: Capture
) -> None:
    place = ("--place", f"{RAM}=4G")
    words = {
        "read": ("read", image, "--physical", "4G", "16", *place),
        "vtop": ("vtop", image, "4G", "--cpu", "1", *place),  # machine mode: no paging
        "search": ("search", image, "--hex", "9302f0ff", "--block", RAM, "-c", *place),
        "export": ("export", image, str(tmp_path / "core"), "-j", *place),
    }[command]

    code, out, _ = run(capsys, *words)

    assert code == 0
    if command == "read":
        assert out.startswith("100000000  ")
    if command == "export":
        findings = json.loads(out)["export"]["findings"]
        assert any(finding["code"] == "memmap.said" for finding in findings)


@pytest.mark.parametrize("command", ["strings", "linux", "report", "mount", "compare", "map"])
def test_others_open_the_image_with_it(
    command: str,
    image: str,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A block that is not there is an error as soon as somebody asks where blocks lie."""
    folder, page = tmp_path / "folder", tmp_path / "page"
    folder.mkdir()
    words = {
        "strings": ("strings", image, "--places", "physical"),
        "linux": ("linux", image),
        "report": ("report", image, "--quick", "-o", str(page)),
        "mount": ("mount", image, str(folder), "--foreground", "--quick"),
        "compare": ("compare", image, image, "--owners"),
        "map": ("map", image, "--png", str(tmp_path / "png"), "--palette", "owner"),
    }[command]

    monkeypatch.setattr(serving, "serve", lambda *_, **__: None)
    code, out, err = run(capsys, *words, "--place", "nope=0")

    told = page.read_text() if command == "report" else out + err
    assert "has no block 'nope'" in html.unescape(told)
    assert bool(code) is (command not in ("report", "mount", "strings"))


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (["nonsense"], "BLOCK=ADDRESS"),
        ([f"{RAM}=x"], "is not a number"),
        (["@/nowhere/at/all"], "cannot be read"),
        ([f"{RAM}=1G", f"{RAM}=2G"], f"'{RAM}' is named twice"),
        ([f"{RAM}=1G", f"{RAM}=1G"], f"'{RAM}' is named twice"),
        ([f"{RAM}=1G", "@{places}"], f"'{RAM}' is named twice"),
        (["@{places}", f"{RAM}=1G"], f"'{RAM}' is named twice"),
        (["@{twice}"], f"'{RAM}' is named twice"),
        (["@{other}"], "names another file: '@places'"),
        (["@{long}"], "is too long"),
    ],
)
def test_wrong_usage(
    place: list[str], words: str, image: str, tmp_path: Path, capsys: Capture
) -> None:
    """The last word on a block does not count silently; nor is part of a file passed over."""
    files = {
        "places": f"{RAM}=2G\n",
        "twice": f"{RAM}=2G\n{RAM}=3G\n",
        "other": "@places\n",
        "long": "# \n" * (1 << 19),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    named = [each.format(**{name: tmp_path / name for name in files}) for each in place]

    code, _, err = run(capsys, "memmap", image, *(f"--place={each}" for each in named))

    assert code == 64
    assert words in err


@pytest.mark.parametrize("words", [("compare", "{0}", "{0}"), ("map", "{0}")])
def test_where_no_address_is_asked_for(words: tuple[str, ...], image: str, capsys: Capture) -> None:
    code, _, err = run(capsys, *(word.format(image) for word in words), "--place", f"{RAM}=2G")

    assert code == 64
    assert "--place" in err


def test_a_block_that_is_not_there(image: str, capsys: Capture) -> None:
    code, _, err = run(capsys, "memmap", image, "--place", "nope=0")

    assert code == 1
    assert "has no block 'nope'" in err
