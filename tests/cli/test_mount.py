"""Images mounted for real, and read as other programs would."""

from __future__ import annotations

import errno
import filecmp
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from builder import PAGE_SIZE, make_stream, page
from cli.fakes import Run
from golden import load
from mounting import command, lack, mounted, mounted_at
from scanning import padded

import savefmt
from savefmt.edit import dump_xml

pytestmark = pytest.mark.skipif(bool(lack()), reason=lack())


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image with all that one can have."""
    return load.unpack("libvirt-devices", tmp_path)


@pytest.mark.parametrize("name", ["libvirt-devices", "libvirt-zstd", "live"])
def test_files_are_what_export_writes(name: str, tmp_path: Path) -> None:
    image = load.unpack(name, tmp_path)
    savefmt.export(image, tmp_path / "core")
    savefmt.export(image, tmp_path / "raw", format="raw")
    savefmt.export(image, tmp_path / "blocks", format="blocks")
    with mounted(image) as folder:
        assert filecmp.cmp(folder / "memory.elf", tmp_path / "core", shallow=False)
        assert filecmp.cmp(folder / "memory.raw", tmp_path / "raw", shallow=False)
        for block in (folder / "blocks").iterdir():
            assert filecmp.cmp(block, tmp_path / "blocks" / f"{block.name}.bin", shallow=False)


def test_texts_are_what_commands_print(image: Path, run: Run) -> None:
    def told(*words: str) -> str:
        return run(words[0], str(image), *words[1:]).out

    with mounted(image) as folder:
        xml = dump_xml(image).decode()
        assert (folder / "domain.xml").read_text() == xml
        assert (folder / "cookie.xml").read_bytes() == dump_xml(image, cookie=True)
        assert (folder / "info.json").read_text() == told("info", "-j")
        assert (folder / "check.json").read_text() == told("check", "-j")
        assert (folder / "os.txt").read_text() == told("os")
        device = told("devices", "mc146818rtc/0", "-j", "--limit=1M")
        assert (folder / "devices" / "mc146818rtc-0.json").read_text() == device
        assert (folder / "cpus" / "1.txt").read_text() in told("regs")
        assert len(list((folder / "cpus").iterdir())) == 2
        names = json.loads(told("devices", "-j"))["devices"]
        assert len(list((folder / "devices").iterdir())) == len(names)


def test_what_stat_tells(image: Path) -> None:
    savefmt.export(image, image.parent / "core")
    with mounted(image, "--quick") as folder:
        status, truth = (folder / "memory.elf").stat(), (image.parent / "core").stat()
        assert status.st_size == truth.st_size
        assert status.st_mtime_ns == image.stat().st_mtime_ns
        assert abs(status.st_blocks - truth.st_blocks) * 512 <= 64 << 10
        assert status.st_mode & 0o777 == 0o400
        assert (status.st_uid, status.st_gid) == (os.geteuid(), os.getegid())
        assert not (folder / "os.txt").exists()


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="no setpriv")
def test_nobody_else_may_look(image: Path) -> None:
    """A memory's secrets are those of who mounted it."""

    def nobody(*words: str | Path) -> str:
        who = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
        return subprocess.run([*who, *words], capture_output=True, text=True, check=False).stderr

    with TemporaryDirectory() as name:  # others can reach it, unlike pytest's folders
        Path(name).chmod(0o755)
        shutil.copy(image, Path(name, "image"))
        if nobody("ls", name):
            pytest.skip("others cannot reach temporary files here")
        with mounted(Path(name, "image"), "--quick") as folder:
            assert "Permission denied" in nobody("ls", folder)
            assert "Permission denied" in nobody("head", "-c1", folder / "memory.raw")


def test_holes_are_told_by_their_blocks_alone(image: Path) -> None:
    """FUSE libraries for Python pass no lseek on, so all of a file is data for SEEK_HOLE."""
    with mounted(image, "--quick") as folder, (folder / "memory.raw").open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        assert os.lseek(file.fileno(), 0, os.SEEK_HOLE) == size
        assert os.fstat(file.fileno()).st_blocks * 512 < size // 8


def test_the_kernel_reads_ahead(image: Path) -> None:
    """A thread sees to it once the folder is there, for all of the folder's files."""
    with mounted(image, "--quick") as folder:
        device = folder.stat().st_dev
        told = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
        if not os.access(told, os.W_OK) or Path("/sys").stat().st_dev != told.stat().st_dev:
            pytest.skip("nobody may set it here")
        deadline = time.monotonic() + 60
        while int(told.read_text()) < 2048:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_nothing_can_be_written(image: Path) -> None:
    with mounted(image, "--quick") as folder:
        for attempt in (
            lambda: (folder / "new").touch(),
            lambda: (folder / "memory.raw").write_bytes(b""),
            lambda: (folder / "memory.raw").unlink(),
            lambda: (folder / "memory.raw").chmod(0o600),
        ):
            with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
                attempt()


def read_at_random(job: tuple[str, str, int]) -> int:
    """Compare ranges of two files; return how many were compared."""
    mounted, truth, seed = job
    chance = random.Random(seed)
    with open(mounted, "rb", buffering=0) as one, open(truth, "rb", buffering=0) as other:
        size = os.fstat(other.fileno()).st_size
        for count in range(200):
            offset, length = chance.randrange(size), chance.choice((1, 100, 4096, 70000))
            found = os.pread(one.fileno(), length, offset)
            if found != os.pread(other.fileno(), length, offset):
                return count
    return 200


def test_many_processes_read_at_once(image: Path) -> None:
    savefmt.export(image, image.parent / "core")
    with mounted(image, "--quick") as folder:
        jobs = [(str(folder / "memory.elf"), str(image.parent / "core"), n) for n in range(4)]
        with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
            assert list(pool.map(read_at_random, jobs)) == [200] * 4


def test_a_damaged_page_is_an_error_there_and_nowhere_else(tmp_path: Path) -> None:
    path = tmp_path / "image"
    content = b"".join(page(number) for number in range(2048))
    path.write_bytes(make_stream(layout="mapped-ram", blocks={"pc.ram": content}))
    with mounted(path, "--quick") as folder:
        with savefmt.open(path) as image:
            start = image.mapped.pages[0].offset
        with path.open("r+b") as file:
            file.truncate(start + 1500 * PAGE_SIZE)
        with (folder / "blocks" / "pc.ram").open("rb", buffering=0) as block:
            failed = []
            for number in range(1400, 1600):
                try:
                    found = os.pread(block.fileno(), PAGE_SIZE, number * PAGE_SIZE)
                except OSError as error:
                    failed.append((number, error.errno))
                else:
                    assert found == page(number)
        assert failed == [(number, errno.EIO) for number in range(1500, 1600)]


def test_what_is_lost_of_a_damaged_image_cannot_be_read(tmp_path: Path) -> None:
    ram = b"".join(map(page, range(64)))
    data = make_stream(blocks={"pc.ram": ram, "pc.bios": page(70)})
    path = tmp_path / "damaged"
    at = data.index(page(40))
    path.write_bytes(data[:at] + b"?" * 5000 + data[at + 5000 :])

    with mounted(path, "--quick", "--salvage", "--lost", str(tmp_path / "list")) as folder:
        lost = (folder / "lost.txt").read_text()
        with (folder / "blocks" / "pc.ram").open("rb", buffering=0) as block:
            failed = []
            for number in range(64):
                try:
                    assert os.pread(block.fileno(), PAGE_SIZE, number * PAGE_SIZE) == page(number)
                except OSError as error:
                    failed.append((number, error.errno))
        assert (folder / "blocks" / "pc.bios").read_bytes() == page(70)
    assert lost == (tmp_path / "list").read_text()
    name, start, length = lost.split()
    first, count = int(start, 0) // PAGE_SIZE, int(length, 0) // PAGE_SIZE
    assert name == "pc.ram"
    assert {40, 41} <= set(range(first, first + count)) <= set(range(39, 44))
    assert failed == [(number, errno.EIO) for number in range(first, first + count)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_in_front_it_ends_with_a_signal(image: Path, number: int) -> None:
    folder = image.parent / "folder"
    folder.mkdir()
    with subprocess.Popen(
        command(image, folder, "--foreground"), stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 60
        while not mounted_at(folder):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        digest = hashlib.sha256((folder / "memory.raw").read_bytes()).hexdigest()
        process.send_signal(number)
        assert process.wait(60) == 0
    assert digest
    assert not mounted_at(folder)


def test_what_cannot_be_mounted(tmp_path: Path, image: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "text").write_text("no image" * 100)
    for source, folder, words in (
        (tmp_path / "text", empty, "neither a libvirt save image"),
        (tmp_path / "missing", empty, "No such file"),
        (image, tmp_path, "the folder is not empty"),
        (image, tmp_path / "nowhere", "No such file"),
    ):
        done = subprocess.run(
            command(source, folder), capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 1
        assert words in done.stderr
        assert not mounted_at(empty)


@pytest.mark.skipif(shutil.which("gdb") is None, reason="no gdb")
def test_gdb_reads_a_mounted_core(image: Path) -> None:
    savefmt.export(image, image.parent / "core")
    asked = ["-ex", "info registers", "-ex", "x/16xb 0xf0000"]

    def told(core: Path) -> str:
        done = subprocess.run(
            ["gdb", "-nx", "-batch", *asked, "--core", str(core)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return done.stdout[done.stdout.index("rax") :]

    with mounted(image, "--quick") as folder:
        assert told(folder / "memory.elf") == told(image.parent / "core")


VOL = shutil.which("vol", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")


@pytest.mark.skipif(VOL is None, reason="no volatility3")
def test_volatility_reads_a_mounted_core(tmp_path: Path) -> None:
    """What needs no symbols; tests/forensics asks for more, of a guest with Linux in it."""
    path, banner = tmp_path / "image", b"Linux version 6.1.0 (a@b) (gcc 12) #1 SMP PREEMPT_DYNAMIC"
    content = b"".join(page(number) for number in range(64)) + padded(banner + b"\n\0")
    path.write_bytes(make_stream(layout="mapped-ram", blocks={"pc.ram": content}))
    savefmt.export(path, tmp_path / "core")

    def told(core: Path) -> str:
        words = (VOL or "", "-q", "--offline", "--cache-path", tmp_path, "-f", core)
        done = subprocess.run(
            [*words, "banners.Banners"], capture_output=True, text=True, timeout=120, check=True
        )
        return done.stdout

    with mounted(path, "--quick") as folder:
        rows = told(folder / "memory.elf")
        assert rows == told(tmp_path / "core")
    assert banner.decode() in rows
