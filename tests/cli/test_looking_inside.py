"""devices, regs, memmap, read and vtop as a user meets them, on real images."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from cli.fakes import Run
from documents import valid as document
from golden import load

import savefmt

FORMS = [
    "q35-smp",
    "q35-smp-mapped",
    "live-xbzrle",
    "libvirt-devices",
    "libvirt-zstd",
    "libvirt-gzip",
    "libvirt-bzip2",
    "libvirt-xz",
    "libvirt-lzop",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("images")


def image(name: str, folder: Path) -> str:
    mine = folder / name
    if not mine.exists():
        mine.mkdir()
        load.unpack(name, mine)
    return str(next(mine.iterdir()))


@pytest.mark.parametrize("name", FORMS)
def test_every_command_on_every_form(name: str, folder: Path, run: Run) -> None:
    path = image(name, folder)
    for command, words in {
        "devices": ("cpu*",),
        "regs": ("--cpu", "0"),
        "memmap": (),
        "vtop": ("0x7c00",),
    }.items():
        shown = run(command, path, *words)
        assert (shown.code, shown.err) == (0, "")
        assert shown.out.strip()
        listed = run(command, path, *words, "--output=json")
        assert (listed.code, listed.err) == (0, "")
        document(command, listed.out)
    dump = run("read", path, "--physical", "0xfffffff0", "16")
    assert (dump.code, dump.err) == (0, "")
    assert dump.out.startswith(("fffffff0  e9 ", "fffffff0  ea 5b e0 00 f0"))  # a jump
    assert dump.out.endswith("|\n100000000\n")


def test_the_same_bytes_by_every_kind_of_address(folder: Path, run: Run) -> None:
    path = image("q35-smp", folder)
    places = (("--physical", "0xffff0"), ("--virtual", "0xffff0"), ("--block", "pc.bios", "0xfff0"))
    texts = {run("read", path, *words, "16").out.splitlines()[0][8:] for words in places}

    assert len(texts) == 1
    assert texts.pop().startswith("  e9 ")


def test_raw_bytes(folder: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    from savefmt.cli.main import main

    path = image("q35-smp", folder)
    code = main(["read", path, "--block", "pc.bios", "65520", "16", "--raw"])
    sys.stdout.flush()

    assert code == 0
    with savefmt.open(path) as opened:
        assert capfdbinary.readouterr().out == opened.memory.read("pc.bios", 65520, 16)


def test_what_comes_before_a_hole_is_shown(folder: Path, run: Run) -> None:
    shown = run("read", image("q35-smp", folder), "--physical", "0x7ffff0", "0x100")

    assert shown.code == 1
    assert shown.out.startswith("007ffff0  ")
    assert len(shown.out.splitlines()) == 1
    assert shown.err.endswith("no memory at guest-physical address 0x800000\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("read", "--block", "nope", "0", "1"), "no RAM block 'nope'; it has: pc.ram,"),
        (("read", "--block", "pc.bios", "64K", "1"), "'pc.bios' ends at 0x10000"),
        (("read", "--virtual", "0", "1", "--cr3", "0x1000"), "does not use paging"),
        (("regs", "--cpu", "9"), "the image has no vCPU 9, only 0, 1, 2"),
        (("devices", "nope"), "no device section 'nope'"),
        (("vtop", "0x100000000"), "needs more than 32 bits"),
    ],
)
def test_errors_are_one_sentence(
    words: tuple[str, ...], message: str, folder: Path, run: Run
) -> None:
    command, *rest = words
    shown = run(command, image("q35-smp", folder), *rest)

    assert shown.code == 1
    assert len(shown.err.splitlines()) == 1
    assert message in shown.err


@pytest.mark.parametrize("command", ["devices", "regs", "memmap", "read", "vtop"])
def test_pipes_are_refused_with_advice(command: str, tmp_path: Path, run: Run) -> None:
    os.mkfifo(tmp_path / "pipe")
    words = {"read": ("--physical", "0", "1"), "vtop": ("0",)}.get(command, ())
    shown = run(command, str(tmp_path / "pipe"), *words)

    assert shown.code == 1
    assert (
        "block device; savefmt reads an image by seeking, so write it to a file first" in shown.err
    )


def test_without_a_description_one_line_says_so(folder: Path, run: Run) -> None:
    path = image("no-description", folder)
    for command in ("devices", "regs", "memmap"):
        shown = run(command, path)
        assert shown.code == 0
        assert len(shown.err.splitlines()) == 1
        assert (
            "nothing tells the lengths of 30 sections; savefmt found their ends by their footers"
            in shown.err
        )
    assert "cpu/0 (version 12" in run("devices", path).out


def test_memory_that_was_left_out_is_no_zeros(folder: Path, run: Run) -> None:
    shown = run("read", image("ignore-shared", folder), "--physical", "0x7c00", "16")

    assert (shown.code, shown.out) == (1, "")
    assert "the content of 'pc.ram' is not in this image" in shown.err


def test_opaque_fields_have_a_limit(folder: Path, run: Run) -> None:
    path = image("q35-smp", folder)
    short = run("devices", path, "timer", "--limit", "4").out
    listed = json.loads(run("devices", path, "mc146818rtc", "-j", "--limit", "2").out)
    (cmos,) = [
        field["value"]
        for field in listed["devices"][0]["state"]["fields"]
        if field["name"] == "cmos_data"
    ]

    assert "00000000 ... 8 bytes in all" in short
    assert (len(cmos["hex"]), cmos["length"]) == (4, 128)


def test_an_index_is_kept_for_the_next_command(folder: Path, tmp_path: Path, run: Run) -> None:
    path, index = image("q35-smp", folder), tmp_path / "index"
    words = ("--physical", "0x7c00", "64", "--index", str(index))
    first = run("read", path, *words)
    kept = index.stat()
    again = run("read", path, *words)
    found = run("vtop", path, "0x7c00", "--index", str(index))

    assert (first.code, again.code, found.code) == (0, 0, 0)
    assert first.out == again.out
    assert index.stat().st_mtime_ns == kept.st_mtime_ns


def test_an_index_never_overwrites_an_image(folder: Path, tmp_path: Path, run: Run) -> None:
    path = image("q35-smp", folder)
    length = os.stat(path).st_size
    shown = run("read", path, "--physical", "0", "1", "--index", path)

    assert shown.code == 1
    assert "not an index of savefmt" in shown.err
    assert os.stat(path).st_size == length
