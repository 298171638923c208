"""Commands that write, under limits of the kernel: a full disk, few files, little memory."""

from __future__ import annotations

import os
import random
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from builder import DOMAIN_XML, make_envelope, make_stream
from cli.writers import DAMAGED, WRITERS, Stage, stage

KIB, MIB = 1 << 10, 1 << 20
LONG = DOMAIN_XML.replace(b"</name>", b"</name><description>%s</description>")


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """A small image, and documents for it."""
    ram = random.Random(1).randbytes(512 * KIB) + bytes(MIB)
    envelope = make_envelope(xml=LONG % (b"x" * 3000), was_running=1, padding=8000)
    return {
        "source": envelope + make_stream(blocks={"pc.ram": ram, "pc.bios": ram[:65536]}),
        "damaged": DAMAGED,
        "new.xml": LONG % (b"y" * 4000),
        "long.xml": LONG % (b"z" * 19_999),
    }


def finish(acted: Stage, process: subprocess.Popen[bytes]) -> int:
    """Wait for the end, which must be a sentence or a success."""
    said = process.communicate(timeout=60)[1].decode()
    assert "Traceback" not in said, said
    assert process.returncode in (0, 1), said
    done = acted.check()
    if process.returncode == 0:
        assert done
    else:
        assert said.startswith("savefmt: "), said
        assert not done, said
    return process.returncode


def limited(kind: int, limit: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(kind, (limit, resource.getrlimit(kind)[1]))


@pytest.mark.parametrize("name", WRITERS)
def test_the_length_of_files(name: str, files: dict[str, bytes], tmp_path: Path) -> None:
    acted = stage(tmp_path, name, files)
    acted.rehearse()
    longest = max(map(len, acted.after.values()))
    codes = set()
    for limit in (0, 700, longest - 1, 8 * longest):
        acted.set_up()
        preexec = limited(resource.RLIMIT_FSIZE, limit)
        codes.add(finish(acted, acted.start(preexec_fn=preexec)))
    # What lies in one sector of the source needs no room.
    assert codes == {0, 1} or name in ("version", "run state", "repair")


@pytest.mark.parametrize("name", WRITERS)
def test_the_number_of_descriptors(name: str, files: dict[str, bytes], tmp_path: Path) -> None:
    """From too few to enough."""
    acted = stage(tmp_path, name, files)
    acted.rehearse()
    codes = []
    for limit in (6, 8, 9, 10, 12, 40):
        acted.set_up()
        code = finish(acted, acted.start(preexec_fn=limited(resource.RLIMIT_NOFILE, limit)))
        codes.append(code)
    assert codes[0] == 1
    assert codes[-1] == 0


@pytest.mark.parametrize("name", ["to sparse", "xml", "blocks over"])
def test_address_space(name: str, files: dict[str, bytes], tmp_path: Path) -> None:
    acted = stage(tmp_path, name, files)
    acted.rehearse()
    for limit in (90, 250, 700):
        acted.set_up()
        process = acted.start(preexec_fn=limited(resource.RLIMIT_AS, limit * MIB))
        process.communicate(timeout=60)
        done = acted.check()
        assert done == (process.returncode == 0)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a small file system of its own."""
    mounted: list[Path] = []

    def make(length: int) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", f"size={length}", "none", str(folder)]
        if os.geteuid() != 0:
            pytest.skip("only root mounts a small file system")
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no small file system: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk(
    name: str, files: dict[str, bytes], tmp_path: Path, mount: Callable[[int], Path]
) -> None:
    """Room for the start, and ever a little more until all fits."""
    rehearsed = stage(tmp_path, name, files)
    rehearsed.rehearse()
    page = 4 * KIB
    start = sum(-(-len(data) // page) * page for data in rehearsed.before.values())
    codes = []
    for more in (6, 40, 300, 4000):
        acted = stage(tmp_path, name, files)
        acted.folder = mount(start + more * page)
        acted.after = rehearsed.after
        acted.fill()
        codes.append(finish(acted, acted.start()))
        if codes[-1] == 0:
            break
    assert codes[-1] == 0
    small = ("version", "run state", "repair", "picture", "index", "xml that moves")
    assert len(codes) > 1 or name in small
