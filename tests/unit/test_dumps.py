"""Memory dumps are read like images that hold RAM alone."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import pytest
from builder import PAGE_SIZE, page
from dumpfiles import PACKERS, flatten, make_core, make_kdump

import savefmt
from savefmt import (
    CheckLevel,
    CorruptError,
    NotASaveImageError,
    SavefmtError,
    TruncatedError,
    UnsupportedError,
)
from savefmt.errors import MissingPackageError
from savefmt.reading import kdumpfile
from savefmt.scan.hashes import hash_memory

LOW = b"".join(page(number) for number in range(8))
HIGH = page(20) + bytes(PAGE_SIZE) + page(21)
ADDRESS = 32 * PAGE_SIZE
PAGES = {number: page(number) for number in range(8)} | {
    32: page(20),
    33: bytes(PAGE_SIZE),
    34: page(21),
}
CORES = {
    "core": make_core([(0, LOW), (ADDRESS, HIGH)]),
    "core in pieces": make_core([(ADDRESS, HIGH), (4096, LOW[4096:]), (0, LOW[:4096])]),
    "core with paging": make_core([(0, LOW), (4096, LOW[4096:8192]), (ADDRESS, HIGH)]),
    "big-endian core": make_core([(0, LOW), (ADDRESS, HIGH)], order=">"),
    "32-bit core": make_core([(0, LOW), (ADDRESS, HIGH)], bits=32),
}
KDUMPS = {name: make_kdump(PAGES, name) for name in PACKERS}
DUMPS = CORES | KDUMPS | {"flattened": flatten(KDUMPS["zlib"])}


def need_library() -> None:
    try:
        ctypes.CDLL(kdumpfile._LIBRARY)
    except OSError:
        pytest.skip(f"no {kdumpfile._LIBRARY}")


@pytest.mark.parametrize("kind", DUMPS)
def test_it_is_memory(kind: str, tmp_path: Path) -> None:
    if kind not in CORES:
        need_library()
    path = tmp_path / "dump"
    path.write_bytes(DUMPS[kind])

    with savefmt.open(path) as image:
        physical = image.guest.physical
        assert [(item.start, item.length) for item in physical.map.ranges] == [
            (0, len(LOW)),
            (ADDRESS, len(HIGH)),
        ]
        assert physical.map.findings == ()
        assert physical.read(0, len(LOW)) == LOW
        assert physical.read(ADDRESS, len(HIGH)) == HIGH
        assert image.memory.read(f"physical@{ADDRESS:#x}", 1, 5) == HIGH[1:6]
        assert [found.kind for found in hash_memory(image)] == ["block", "block", "memory"]
        assert image.dump is not None
        assert image.dump.kind in ("ELF core of a guest's memory", "kdump file of a guest's memory")
    report = savefmt.export(path, tmp_path / "raw", format="raw")
    assert (tmp_path / "raw").read_bytes()[ADDRESS:] == HIGH
    assert report.findings == ()
    assert savefmt.check(path, level=CheckLevel.FULL).worst is not savefmt.Severity.ERROR
    summary = savefmt.probe(path)
    assert summary.dump is not None
    assert [block.used_length for block in summary.blocks] == [len(LOW), len(HIGH)]


def test_all_of_them_are_one_guest(tmp_path: Path) -> None:
    need_library()
    digests = set()
    for number, content in enumerate(DUMPS.values()):
        path = tmp_path / str(number)
        path.write_bytes(content)
        with savefmt.open(path) as image:
            digests.add(image.memory.digest())
    assert len(digests) == 1


def test_nothing_that_qemu_loads_is_made_of_it(tmp_path: Path) -> None:
    path = tmp_path / "core"
    path.write_bytes(CORES["core"])
    with pytest.raises(UnsupportedError, match="no devices, .*savefmt export"):
        savefmt.convert(path, tmp_path / "image")
    assert not (tmp_path / "image").exists()


@pytest.mark.parametrize(
    ("content", "error", "match"),
    [
        (CORES["core"][:-1], CorruptError, "not in the file: .* get a complete copy"),
        (CORES["core"][:100], CorruptError, "damaged ELF headers|not in the file"),
        (make_core([(0, LOW), (0, HIGH)]), UnsupportedError, "core of a process"),
        (make_core([(512, LOW)]), UnsupportedError, "does not consist of whole pages"),
        (make_core([(0, LOW[:-5])]), UnsupportedError, "does not consist of whole pages"),
        (make_core([]), UnsupportedError, "holds no memory"),
        (
            make_core([(8192 * number, page(number)) for number in range(1100)]),
            UnsupportedError,
            "1100 gaps, so pages were left out",
        ),
        (make_core([(0, LOW)], kind=2), SavefmtError, "ELF program or library"),
    ],
    ids=["cut", "headers", "process", "address", "length", "empty", "gaps", "program"],
)
def test_what_is_refused(
    content: bytes, error: type[Exception], match: str, tmp_path: Path
) -> None:
    path = tmp_path / "core"
    path.write_bytes(content)
    with pytest.raises(error, match=match) as caught:
        savefmt.open(path)
    assert os.fspath(getattr(caught.value, "path", "")) == str(path)


@pytest.mark.parametrize("kind", ["core", "big-endian core", "zlib", "flattened"])
def test_in_another_file_it_is_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(512) + DUMPS[kind])
    with pytest.raises(NotASaveImageError, match="reads it as an uncompressed file"):
        savefmt.open(path, offset=512)


def test_damaged_kdump_files(tmp_path: Path) -> None:
    need_library()
    path = tmp_path / "dump"
    good = KDUMPS["zlib"]
    flat = flatten(good)
    for content, error, match in (
        (good[: 4 * PAGE_SIZE + 100], SavefmtError, "libkdumpfile"),
        (good[:20], SavefmtError, "libkdumpfile"),
        (good[:-200] + bytes(200), SavefmtError, "libkdumpfile"),
        (flat[:-16], TruncatedError, "without its end mark"),
        (flat[:4104] + b"\x7f" + flat[4105:], CorruptError, "a piece of"),
    ):
        path.write_bytes(content)
        with pytest.raises(error, match=match):
            savefmt.open(path)


def test_what_reads_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "dump"
    path.write_bytes(CORES["core"])
    monkeypatch.setitem(sys.modules, "elftools.elf.elffile", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'savefmt\[dump\]'"):
        savefmt.open(path)
    path.write_bytes(KDUMPS["zlib"])
    monkeypatch.setattr(kdumpfile, "_LIBRARY", "libkdumpfile.so.none")
    with pytest.raises(UnsupportedError, match="install libkdumpfile, or dump with --format=elf"):
        savefmt.open(path)
