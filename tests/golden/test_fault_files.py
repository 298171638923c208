"""Streams that readers trip over: whatever follows them, the answers stay the same."""

from __future__ import annotations

import gzip
import lzma
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from savefmt.cli.main import main

HERE = Path(__file__).parent / "faults"
NO_RAM = "xendev.state"
NAMES = sorted(path.stem for path in HERE.glob("*.xz") if path.stem != "part-nostream")


@cache
def golden(name: str) -> bytes:
    """Return one of the files."""
    return lzma.decompress((HERE / f"{name}.xz").read_bytes())


FORMS: dict[str, Callable[[], bytes]] = {
    "zeros": lambda: bytes(100_000),
    "garbage": lambda: random.Random(7).randbytes(70_001),
    "another guest": lambda: golden("older.qemu"),
}
"""What follows the stream."""

ANSWERS = ["devices", "regs", "memmap", "hash"]

UNKNOWN = {
    "a-rx.qemu": ["regs", "memmap"],
    "a-tricore.qemu": ["regs", "memmap"],
    NO_RAM: ["memmap", "hash"],
}
"""What savefmt does not know of some files, and says so."""

BAD_WORDS = ("damaged", "cut short", "truncated", "unsupported")

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Return a function that runs a command: exit code, and output without the file's place.

    Errors count as output; notes on what is ignored behind the stream do not.
    """

    def call(*argv: str | Path) -> tuple[int, str]:
        code = main(list(map(str, argv)))
        captured = capsys.readouterr()
        text = captured.out + (captured.err if code else "")
        return code, text.replace(str(tmp_path), "")

    return call


def lines_of_info(text: str) -> list[str]:
    """Return what `info` says of the guest, and not of the file."""
    file_facts = ("image:", "last written:", "logical size:", "size on disk:")
    return [line for line in text.splitlines() if not line.startswith(file_facts)]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Return where a test puts its image."""
    return tmp_path / "image"


@pytest.mark.parametrize("name", NAMES)
def test_what_follows_changes_no_answer(name: str, image: Path, run: Run) -> None:
    image.write_bytes(golden(name))
    answers = {command: run(command, image) for command in ANSWERS}
    info = lines_of_info(run("info", image)[1])
    assert [command for command in ANSWERS if answers[command][0]] == UNKNOWN.get(name, [])

    for form, following in FORMS.items():
        image.write_bytes(golden(name) + following())
        asked = ANSWERS if form == "another guest" else ANSWERS[:3]  # the rest takes long
        for command in asked:
            assert run(command, image) == answers[command], (form, command)
        assert lines_of_info(run("info", image)[1]) == info, form
        code, said = run("check", *(["--full"] if "hash" in asked else []), image)
        assert code == 0, (form, said)
        assert not any(word in said for word in BAD_WORDS), (form, said)


@pytest.mark.parametrize("name", [name for name in NAMES if name != NO_RAM])
def test_there_and_back(name: str, image: Path, run: Run) -> None:
    image.write_bytes(golden(name))
    before = run("hash", image), run("devices", image)[1]
    image.write_bytes(golden(name) + FORMS["another guest"]())

    for step, form in enumerate(["zstd", "sparse", "raw"]):
        target = image.with_name(f"{step}")
        code, said = run("convert", "-q", image, target, "-O", form)
        assert code == 0, (form, said)
        target.replace(image)
        assert (run("hash", image), run("devices", image)[1]) == before, form
    assert run("check", "--full", image)[0] == 0


def test_a_stale_end_tells_nothing(image: Path, run: Run) -> None:
    image.write_bytes(golden("stale-other.raw"))

    assert "pc-q35" in run("info", image)[1]
    assert "e1000" not in run("devices", image)[1]


def test_registers_of_32_bit_arm(image: Path, run: Run) -> None:
    image.write_bytes(golden("arm32.qemu"))

    _, said = run("regs", image)

    assert [word for word in ("00000012", "00000034", "00000077") if word not in said] == []


@pytest.mark.parametrize("name", ["map-erst.qemu", "map-vmsvga.qemu"])
def test_device_memory_is_no_guest_memory(name: str, image: Path, run: Run) -> None:
    image.write_bytes(golden(name))

    _, said = run("memmap", image)

    assert "dimm" not in said.lower()


def test_compressed_as_a_whole(image: Path, run: Run) -> None:
    image.write_bytes(golden("managed.save"))
    before = [run(command, image) for command in ANSWERS]
    image.write_bytes(gzip.compress(golden("managed.save")))

    assert [run(command, image) for command in ANSWERS] == before


@pytest.mark.parametrize(
    "command",
    [
        "hash IMAGE",
        "map IMAGE",
        "stats IMAGE",
        "memmap IMAGE",
        "search --hex 55aa IMAGE",
        "strings IMAGE",
        "read IMAGE --block pc.ram 0 16",
        "read IMAGE --physical 0 16",
        "export -f raw IMAGE TARGET",
        "export -f elf IMAGE TARGET",
        "export -f blocks IMAGE TARGET",
        "convert -O sparse IMAGE TARGET",
    ],
)
def test_what_needs_ram_says_that_there_is_none(command: str, image: Path, run: Run) -> None:
    image.write_bytes(golden(NO_RAM))
    target = image.with_name("target")
    paths = {"IMAGE": image, "TARGET": target}

    code, said = run(*(paths.get(word, word) for word in command.split()))

    assert code in (1, 2)
    assert "no RAM" in said
    assert len(said.splitlines()) == 1
    assert not target.exists()


@pytest.mark.parametrize("form", ["zstd", "raw"])
def test_devices_alone_convert_otherwise(form: str, image: Path, run: Run) -> None:
    image.write_bytes(golden(NO_RAM))
    before = run("devices", image), run("regs", image)
    target = image.with_name("target")

    assert run("convert", "-q", image, target, "-O", form)[0] == 0

    target.replace(image)
    assert (run("devices", image), run("regs", image)) == before
    assert run("check", "--full", image)[0] == 0
    assert "0 blocks" in run("info", image)[1]


@pytest.mark.parametrize("following", [b"", bytes(4096), b"QEVM\0\0\0\3\x07\0"])
def test_an_image_that_was_only_begun(following: bytes, image: Path, run: Run) -> None:
    image.write_bytes(golden("part-nostream") + following)

    dumped, xml = run("xml", "dump", image)
    known, info = run("info", image)
    checked, said = run("check", image)

    assert dumped == 0
    assert xml.startswith("<domain")
    assert known == 0
    assert "INCOMPLETE" in info
    assert checked == 2
    assert "[envelope.incomplete]" in said
    assert "1 error" in said
    code, refused = run("devices", image)
    assert code == 1
    assert "never finished" in refused
