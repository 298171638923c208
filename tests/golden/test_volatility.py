"""volatility3 reads all golden images through our layer, and ends where it cannot."""

from __future__ import annotations

import copy
import gzip
import importlib
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import savefmt
from golden import load
from savefmt import plugins
from savefmt.image import SaveImage

GUESTS = sorted(path.name.removesuffix(".tar.xz") for path in (load.HERE / "guest").glob("*.xz"))
PROBED = 1 << 20
LEFT_OUT = "ignore-shared"
MARKER = (0x5341564546).to_bytes(8, "little")


@pytest.fixture(scope="module")
def plugin() -> ModuleType:
    """The plugin as volatility3 itself loads it."""
    volatility = importlib.import_module("volatility3.plugins")
    volatility.__path__ = [str(plugins.folder("volatility")), *volatility.__path__]
    return importlib.import_module("volatility3.plugins.save_image")


@pytest.fixture
def stack(plugin: ModuleType) -> Iterator[Any]:
    """A function that does what volatility3 does with a file."""
    contexts = importlib.import_module("volatility3.framework.contexts")
    physical = importlib.import_module("volatility3.framework.layers.physical")

    contexts_made = []

    def stack_on(path: Path) -> Any:
        context = contexts.Context()
        context.config["base.location"] = path.as_uri()
        context.add_layer(physical.FileLayer(context, "base", "base"))
        contexts_made.append(context)
        layer = plugin.SaveImageStacker.stack(context, "base")
        if layer is not None:
            context.add_layer(layer)
        return layer

    yield stack_on
    for context in contexts_made:
        for layer in context.layers.values():
            layer.destroy()


def assert_same_memory(layer: Any, image: SaveImage) -> None:
    """Compare both ends of each range, and see that what lies between ranges is a hole."""
    ranges = image.guest.physical.map.ranges
    end = 0
    for item in ranges:
        count = min(item.length, PROBED)
        for start in (item.start, item.end - count):
            assert layer.read(start, count) == image.guest.physical.read(start, count)
        assert layer.is_valid(item.start, item.length)
        if item.start > end:
            assert not layer.is_valid(item.start - 1)
            assert not layer.is_valid(item.start - 1, 2)
        end = item.end
    assert (layer.minimum_address, layer.maximum_address) == (ranges[0].start, ranges[-1].end - 1)


@pytest.mark.parametrize(
    "name", [*(n for n in load.names() if n != LEFT_OUT), *(f"guest/{name}" for name in GUESTS)]
)
def test_every_golden_image_is_recognised_and_read(name: str, stack: Any, tmp_path: Path) -> None:
    path = load.unpack(name, tmp_path)

    layer = stack(path)

    with savefmt.open(path) as image:
        assert_same_memory(layer, image)


def test_left_out_memory_ends_volatility(stack: Any, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="not in this image"):
        stack(load.unpack(LEFT_OUT, tmp_path))


def test_holes(stack: Any, plugin: ModuleType, tmp_path: Path) -> None:
    """A read over a hole fails where the hole begins, or takes zeros if it may."""
    layer = stack(load.unpack("guest/i440-32m-vga", tmp_path))
    bad = importlib.import_module("volatility3.framework.exceptions").InvalidAddressException
    hole, after = 0xA0000, 0xC0000

    with pytest.raises(bad) as error:
        layer.read(hole - 16, 32)
    assert error.value.invalid_address == hole
    with pytest.raises(bad):
        layer.read(hole, 1)
    padded = layer.read(hole - 16, after - hole + 32, pad=True)
    assert padded[:16] == layer.read(hole - 16, 16)
    assert padded[16:-16] == bytes(after - hole)
    assert padded[-16:] == layer.read(after, 16)
    assert layer.read(1 << 60, 8, pad=True) == bytes(8)
    assert any(padded[-16:]), "else the comparison above says little"


@pytest.mark.parametrize("chunk", [0x1000, 0x23000])
def test_scans_pass_holes_and_borders(chunk: int, stack: Any, tmp_path: Path) -> None:
    """Each numbered page behind another is found once, however the chunks fall."""
    scanners = importlib.import_module("volatility3.framework.layers.scanners")
    layer = stack(load.unpack("guest/i440-32m-vga", tmp_path))
    # Two bytes of the page before, so that each hit lies on a border.
    scanner = scanners.RegExScanner(rb"\0\0[\x46-\x85]EVAS\0\0\0..[\x10-\x14]\0\0\0\0\0")
    scanner.chunk_size, scanner.overlap = chunk, 32

    hits = set(layer.scan(layer.context, scanner, sections=[(0, 8 << 20)]))

    assert hits == {0x100000 + page * 4096 - 2 for page in range(1, 64)}


# volatility3 leaves files open to the collector of garbage, which Python 3.14 complains of.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_layers_are_copied_and_sent(stack: Any, tmp_path: Path) -> None:
    layer = stack(load.unpack("libvirt-zstd", tmp_path))

    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other.read(0x1000, 4096) == layer.read(0x1000, 4096)


def test_layers_are_not_written(stack: Any, tmp_path: Path) -> None:
    layer = stack(load.unpack("q35-smp", tmp_path))

    with pytest.raises(Exception, match="not written"):
        layer.write(0, b"x")


def cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def unfinish(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"LibvirtQemudPart")


def rename_machine(path: Path) -> None:
    data = path.read_bytes()
    assert data.count(b"pc-q35-10.0\0\0\0\0") == 0
    at = data.index(b"pc-q35-10.0", data.index(b"QEVM"))
    path.write_bytes(data[:at] + b"zx-spectrum" + data[at + 11 :])


def leave_magic_only(path: Path) -> None:
    path.write_bytes(b"QEVM" + bytes(4096))


@pytest.mark.parametrize("name", ["libvirt-raw", "libvirt-zstd", "libvirt-sparse"])
@pytest.mark.parametrize("spoil", [cut, unfinish])
def test_damage_ends_volatility(name: str, spoil: Any, stack: Any, tmp_path: Path) -> None:
    path = load.unpack(name, tmp_path)
    spoil(path)

    with pytest.raises(SystemExit, match=f"^savefmt: {path}"):
        stack(path)


@pytest.mark.parametrize("spoil", [rename_machine, leave_magic_only])
def test_what_is_not_understood_ends_volatility(spoil: Any, stack: Any, tmp_path: Path) -> None:
    path = load.unpack("q35-smp", tmp_path)
    spoil(path)

    with pytest.raises(SystemExit, match="^savefmt: "):
        stack(path)


def test_damage_found_late_ends_volatility(stack: Any, tmp_path: Path) -> None:
    """Not even in a scan, where volatility3 would hold back an ordinary exception."""
    layer = stack(load.unpack("libvirt-raw", tmp_path))
    scanners = importlib.import_module("volatility3.framework.layers.scanners")
    layer._memory.image.close()

    with pytest.raises(SystemExit, match="closed"):
        list(layer.scan(layer.context, scanners.BytesScanner(b"x")))


@pytest.mark.parametrize(
    "content", [b"\0", b"QEV", b"EMiL" + bytes(64), gzip.compress(b"EMiL" + bytes(999), mtime=0)]
)
def test_other_files_are_left_to_others(content: bytes, stack: Any, tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)

    assert stack(path) is None


def run_volatility(*words: str | Path, prelude: str = "") -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.argv[0] = 'vol'{prelude}; from volatility3.cli import main; main()"
    folder = plugins.folder("volatility")
    command = [sys.executable, "-c", code, "-q", "--offline", "-p", str(folder)]
    return subprocess.run(
        [*command, *map(str, words)], capture_output=True, text=True, check=False, timeout=120
    )


def test_the_real_command_stacks_the_layer(tmp_path: Path) -> None:
    path = load.unpack("libvirt-zstd", tmp_path)

    done = run_volatility("-f", path, "layerwriter.LayerWriter", "--list")

    assert done.returncode == 0, done.stderr
    assert "SaveImageLayer" in done.stdout


def test_the_real_command_fails_clearly(tmp_path: Path) -> None:
    path = load.unpack("libvirt-raw", tmp_path)
    cut(path)

    done = run_volatility("-f", path, "banners.Banners")

    assert done.returncode == 1
    assert f"savefmt: {path}: " in done.stderr


FAILING = """\
import random, time
import savefmt.guest.physical as module
def fail(self, address, length):
    if length > 1 << 20:
        time.sleep(random.choice((0, 0, 0.02, 0.1)))
        raise OSError(5, "the disk is gone")
    return bytes(length)
module.PhysicalMemory.read = fail
"""
# Workers, of which several fail at a time or one after the other.  Those that are not forked
# come of a server that has loaded the same.
FAILS_LATE = """\
; sys.path.insert(0, {folder!r})
import failing, multiprocessing, os
multiprocessing.set_forkserver_preload(["failing"])
os.environ["PYTHONPATH"] = {folder!r}
os.cpu_count = lambda: 8
from volatility3.cli import main"""


@pytest.mark.parametrize("parallelism", ["off", "processes"])
def test_the_real_command_ends_when_a_scan_fails(parallelism: str, tmp_path: Path) -> None:
    path = load.unpack("libvirt-raw", tmp_path)
    words = ("--parallelism", parallelism, "-f", path, "banners.Banners")
    (tmp_path / "failing.py").write_text(FAILING)
    prelude = FAILS_LATE.format(folder=str(tmp_path))

    for _ in range(1 if parallelism == "off" else 4):
        done = run_volatility(*words, prelude=prelude)
        assert done.returncode == 1
        assert "savefmt: [Errno 5] the disk is gone" in done.stderr


def test_a_python_without_savefmt_is_told(tmp_path: Path) -> None:
    path = load.unpack("libvirt-raw", tmp_path)

    done = run_volatility(
        *("-f", path, "banners.Banners"), prelude="; sys.modules['savefmt.errors'] = None"
    )

    assert done.returncode == 1
    assert "install it there" in done.stderr


def test_the_command_prints_the_folder() -> None:
    command = shutil.which("savefmt", path=str(Path(sys.executable).parent))
    assert command is not None

    done = subprocess.run(
        [command, "plugins", "volatility"], capture_output=True, text=True, check=True
    )

    assert [path.name for path in Path(done.stdout.strip()).glob("[!_]*")] == ["save_image.py"]
