"""What memory tells of a Linux guest is what its own console says."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from scanning import needs_re2

import savefmt
from interop.qemu import Guest
from savefmt.frozen import replace
from savefmt.image import SaveImage
from savefmt.linux.answers import ask
from savefmt.scan.patterns import Matcher, regex, text
from savefmt.scan.search import Places, search
from savefmt.scan.strings import strings
from savefmt.scan.system import identify

pytestmark = [pytest.mark.interop, pytest.mark.usefixtures("qemu")]

MEMORY = 128 << 20
GREP = shutil.which("grep")


@dataclass(frozen=True)
class Panicked:
    """A guest that found no root file system, and so said where its kernel lies."""

    images: Mapping[str, Path]
    console: str
    flat: Path


@pytest.fixture(scope="module")
def panicked(linux_guest: Path, tmp_path_factory: pytest.TempPathFactory, qemu: None) -> Panicked:
    """Save it in both layouts, and its memory flat."""
    directory = tmp_path_factory.mktemp("panicked")
    arguments = [
        *("-machine", "q35", "-cpu", "qemu64", "-m", f"{MEMORY >> 20}M"),
        *("-kernel", str(linux_guest / "vmlinuz"), "-append", "console=ttyS0 panic=0"),
    ]
    images = {"mapped": directory / "mapped", "sequential": directory / "sequential"}
    with Guest(directory, arguments) as guest:
        guest.cont()
        guest.wait_console("Kernel Offset:")
        guest.stop()
        guest.migrate_to(f"file:{images['mapped']}", {"mapped-ram": True})
        savefmt.convert(images["mapped"], images["sequential"], layout=savefmt.Layout.SEQUENTIAL)
        flat = directory / "flat"
        flat.write_bytes(guest.pmem(0x10_0000, MEMORY - 0x10_0000))
        return Panicked(images, guest.console_text(), flat)


@pytest.fixture(params=["mapped", "sequential"])
def image(request: pytest.FixtureRequest, panicked: Panicked) -> SaveImage:
    """The guest in each layout."""
    return savefmt.open(panicked.images[request.param])


def test_release_and_shift_are_those_on_the_console(panicked: Panicked, image: SaveImage) -> None:
    release = re.search(r"Linux version (\S+)", panicked.console)
    shift = re.search(r"Kernel Offset: (0x[0-9a-f]+)", panicked.console)
    assert release
    assert shift

    with image:
        hint = identify(image)

    assert (hint.system, hint.version) == ("linux", release[1])
    assert hint.kaslr_shift == int(shift[1], 16)
    assert hint.notes == ()


@pytest.mark.skipif(GREP is None, reason="grep is not installed")
@pytest.mark.parametrize(
    ("make", "expression"),
    [
        (text, "Linux version "),
        pytest.param(regex, r"[a-z]+_table\x00", marks=needs_re2),
        pytest.param(regex, r"\x7fELF[\x01\x02]", marks=needs_re2),
    ],
    ids=["banner", "symbols", "elf"],
)
def test_search_against_grep(
    make: Callable[[str], Matcher], expression: str, panicked: Panicked, image: SaveImage
) -> None:
    assert GREP is not None
    done = subprocess.run(
        [GREP, "-obUaP", expression, str(panicked.flat)],
        stdout=subprocess.PIPE,
        check=True,
        env={"LC_ALL": "C"},
    )
    expected = [int(line.split(b":", 1)[0]) + 0x10_0000 for line in done.stdout.splitlines()]

    with image:
        hits = search(image, [make(expression)], blocks=["pc.ram"])
        found = [at for hit in hits for at in hit.physical if at >= 0x10_0000]

    assert found == expected
    assert len(found) > 1


def test_virtual_addresses_lead_to_what_was_found(image: SaveImage) -> None:
    with image:
        space = image.guest.space(0)
        hits = list(search(image, [text("Linux version ")], places=Places(image, space)))
        for hit in hits:
            for address in hit.virtual:
                assert space.read(address, hit.length) == hit.data
    # The kernel maps all of memory, and its own text once more.
    assert any(len(hit.virtual) > 1 for hit in hits)


@needs_re2
@pytest.mark.parametrize("kind", ["mapped", "sequential"])
def test_half_of_a_guest_still_answers(kind: str, panicked: Panicked, tmp_path: Path) -> None:
    """What is found in a file that was cut in half is what stands there in the whole guest."""
    data, cut = panicked.images[kind].read_bytes(), tmp_path / "cut"
    cut.write_bytes(data[: len(data) // 2])
    pattern = regex(r"[a-z]+_table\x00|Linux version |\x7fELF[\x01\x02]")
    with (
        savefmt.open(panicked.images[kind]) as whole,
        savefmt.open(cut, salvage=True) as image,
    ):
        rescue = image.rescue
        assert rescue is not None
        assert 0.1 < rescue.report.share < 0.99
        lost = rescue.lost("pc.ram")
        size = image.page_size

        def known(start: int, end: int) -> bool:
            return not lost.overlap(start // size, (end - 1) // size + 1)

        hits = [(hit.offset, hit.data) for hit in search(image, [pattern], blocks=["pc.ram"])]
        expected = [
            (hit.offset, hit.data)
            for hit in search(whole, [pattern], blocks=["pc.ram"])
            if known(hit.offset, hit.offset + hit.length)
        ]
        assert hits == expected
        assert len(hits) > 1
        texts = {(one.offset, one.text) for one in strings(whole, blocks=["pc.ram"])}
        found = list(strings(image, blocks=["pc.ram"]))
        # One that goes over into what is lost ends there.
        sure = [
            one for one in found if known(max(one.offset - 1, 0), one.offset + len(one.text) + 1)
        ]
        assert {(one.offset, one.text) for one in sure} <= texts
        assert len(found) > 1000
        assert identify(image).version in (identify(whole).version, None)
        for run in image.memory.runs("pc.ram"):
            where, length = run.first * size, run.count * size
            assert image.memory.read("pc.ram", where, length) == whole.memory.read(
                "pc.ram", where, length
            )
        report = savefmt.export(image, tmp_path / "core", format="elf")
    assert any(finding.code == "export.lost" for finding in report.findings)
    assert report.memory_length < MEMORY


def test_an_elf_core_tells_what_runs(panicked: Panicked, tmp_path: Path) -> None:
    core = tmp_path / "core"
    savefmt.export(panicked.images["mapped"], core, compat="qemu")
    with savefmt.open(panicked.images["mapped"]) as image, savefmt.open(core) as dump:
        whole, told = ask(image), ask(dump)
        assert identify(dump).kaslr_shift == identify(image).kaslr_shift
    assert told.host is not None
    assert whole.host is not None
    assert told.host.command_line == whole.host.command_line
    assert told.processes
    assert replace(told, path=whole.path, host=whole.host) == whole
