"""An index kept in a file: used when it is the image's own, ignored when it is not."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from pathlib import Path

import pytest
from builder import DEFAULT_BLOCKS, MIB, Record, all_records, make_envelope, make_stream, page

import savefmt
from savefmt import ConversionError, ImageIOError, IOOptions, SavefmtError
from savefmt.reading import indexfile
from savefmt.reading.visitors import TallyVisitor

RAM = DEFAULT_BLOCKS["pc.ram"]
LIVE = [[Record("pc.ram", 0, page(7)), Record("pc.ram", 1, page(8))], all_records(DEFAULT_BLOCKS)]
IO = IOOptions(threads=1, window=MIB)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of this test's own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "savefmt"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(make_envelope() + make_stream(rounds=LIVE, parts=3))
    return path


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gets an entry for every pass over an image."""
    made: list[int] = []
    start = TallyVisitor.open_sink

    def counted(self: TallyVisitor, *args: object) -> object:
        made.append(1)
        return start(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(TallyVisitor, "open_sink", counted)
    return made


def read(image: Path, index: Path | str) -> bytes:
    with savefmt.open(image, io=IO, index=index) as opened:
        for block, content in DEFAULT_BLOCKS.items():
            assert opened.memory.read(block, 0, len(content)) == content
        return opened.memory.read("pc.ram", 0, len(RAM))


def resealed(data: bytearray, key: bytes) -> bytes:
    """Put a right digest under a forged index."""
    seal = hashlib.blake2b(data[:-32], key=key, digest_size=32)
    return bytes(data[:-32]) + seal.digest()


def test_the_second_reading_needs_no_pass(image: Path, tmp_path: Path, passes: list[int]) -> None:
    index = tmp_path / "image.index"

    assert read(image, index) == RAM
    first = index.read_bytes()
    assert read(image, index) == RAM

    assert len(passes) == 1
    assert index.read_bytes() == first
    assert stat.S_IMODE(index.stat().st_mode) == 0o600


def test_auto_lies_in_the_cache_folder(
    image: Path, tmp_path: Path, passes: list[int], cache: Path
) -> None:
    read(image, "auto")
    image.rename(tmp_path / "renamed")
    read(tmp_path / "renamed", "auto")

    assert len(passes) == 1
    assert len(list(cache.glob("*.index"))) == 1
    assert stat.S_IMODE((cache / "key").stat().st_mode) == 0o600


def test_the_cache_stays_small(
    image: Path, cache: Path, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not used for longest goes; the one just made stays, however large."""
    data = image.read_bytes()
    kept: list[Path] = []
    for number in range(4):
        os.utime(image, (number, number))
        read(image, "auto")
        (new,) = set(cache.glob("*.index")) - set(kept)
        kept.append(new)
        os.utime(new, (number, number))
    os.utime(image, (0, 0))
    read(image, "auto")  # the oldest, which is used once more
    (cache / "other").write_bytes(data)
    monkeypatch.setattr(indexfile, "_CACHE_LIMIT", 3 * kept[0].stat().st_blocks * 512)
    os.utime(image, (9, 9))
    read(image, "auto")

    left = set(cache.glob("*.index"))
    assert len(passes) == 5
    assert len(left) == 3
    assert {kept[0], kept[3]} < left
    assert (cache / "other").exists()

    monkeypatch.setattr(indexfile, "_CACHE_LIMIT", 1)
    os.utime(image, (10, 10))
    read(image, "auto")
    assert len(list(cache.glob("*.index"))) == 1


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_an_index_that_others_may_write_is_refused(
    mode: int, image: Path, tmp_path: Path, passes: list[int]
) -> None:
    index = tmp_path / "index"
    read(image, index)
    index.chmod(mode)

    with pytest.raises(ConversionError, match="is not your own, or others may write to it"):
        read(image, index)
    assert len(passes) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files of other users")
def test_somebody_elses_index_is_refused(image: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    read(image, index)
    os.chown(index, 65534, -1)

    with pytest.raises(ConversionError, match="is not your own"):
        read(image, index)


def test_an_index_under_another_key_is_made_anew(
    image: Path, tmp_path: Path, passes: list[int], cache: Path
) -> None:
    """Zeros over real memory: sound in form, and nothing in the image tells."""
    index = tmp_path / "index"
    read(image, index)
    data = bytearray(index.read_bytes())
    value = data.index(b"\x06pc.ram") + 256 + 16 + 16
    data[value : value + 8] = (1).to_bytes(8, sys.byteorder)  # "zero"
    index.write_bytes(resealed(data, b"a stranger's key"))

    assert read(image, index) == RAM
    assert len(passes) == 2
    (cache / "key").unlink()
    assert read(image, index) == RAM
    assert len(passes) == 3


@pytest.mark.parametrize("fault", ["readable", "short", "link"])
def test_a_key_that_is_none(fault: str, image: Path, tmp_path: Path, cache: Path) -> None:
    read(image, tmp_path / "index")
    key = cache / "key"
    if fault == "readable":
        key.chmod(0o640)
    elif fault == "short":
        key.write_bytes(b"short")
    else:
        key.rename(tmp_path / "elsewhere")
        key.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(ImageIOError):
        read(image, tmp_path / "index")
    assert read(image, "auto") == RAM


def test_a_cache_that_cannot_be_written_is_no_failure(
    image: Path, tmp_path: Path, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_bytes(b"a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    assert read(image, "auto") == RAM
    assert len(passes) == 1


def test_a_file_asked_for_must_be_writable(image: Path, tmp_path: Path) -> None:
    with pytest.raises(ImageIOError):
        read(image, tmp_path / "nowhere" / "index")


def test_other_files_are_left_alone(image: Path) -> None:
    before = image.read_bytes()

    with pytest.raises(ConversionError, match="not an index"):
        read(image, image)

    assert image.read_bytes() == before


@pytest.mark.parametrize("change", ["time", "content", "tail"])
def test_a_stale_index_is_made_anew(
    change: str, image: Path, tmp_path: Path, passes: list[int]
) -> None:
    index = tmp_path / "index"
    read(image, index)
    status = image.stat()
    data = bytearray(image.read_bytes())
    if change == "content":
        data[110] ^= 1
    elif change == "tail":
        data[-1] ^= 1
    image.write_bytes(data)
    moved = status.st_mtime_ns + (change == "time")
    os.utime(image, ns=(status.st_atime_ns, moved))
    with savefmt.open(image, io=IO, index=index, strict=False) as opened:
        try:
            opened.memory.read("pc.ram", 0, 1)
        except SavefmtError:
            assert change != "time"

    assert len(passes) == 2


def test_damage_anywhere_is_ignored(image: Path, tmp_path: Path, passes: list[int]) -> None:
    index = tmp_path / "index"
    read(image, index)
    good = index.read_bytes()
    for place in [*range(20, len(good), 97), len(good) - 1]:
        flipped = bytearray(good)
        flipped[place] ^= 0x10
        for bad in (flipped, good[:place], good + b"x"):
            index.write_bytes(bad)
            passes.clear()
            assert read(image, index) == RAM
            assert len(passes) == 1


@pytest.mark.parametrize("count", [0, 1, 1 << 63, (1 << 64) - 1])
def test_forged_run_counts(
    count: int, image: Path, tmp_path: Path, passes: list[int], cache: Path
) -> None:
    index = tmp_path / "index"
    read(image, index)
    data = bytearray(index.read_bytes())
    first = data.index(b"\x06pc.ram") + 256 + 8
    data[first : first + 8] = count.to_bytes(8, sys.byteorder)
    index.write_bytes(resealed(data, (cache / "key").read_bytes()))
    passes.clear()

    assert read(image, index) == RAM
    assert len(passes) == 1


def test_a_forged_place_is_noticed(image: Path, tmp_path: Path, cache: Path) -> None:
    """Sound in form, it says that page 0 lies where it does not."""
    index = tmp_path / "index"
    read(image, index)
    data = bytearray(index.read_bytes())
    value = data.index(b"\x06pc.ram") + 256 + 16 + 16
    place = int.from_bytes(data[value : value + 8], sys.byteorder)
    data[value : value + 8] = (place + 1).to_bytes(8, sys.byteorder)
    index.write_bytes(resealed(data, (cache / "key").read_bytes()))

    with pytest.raises(savefmt.CorruptError, match="not where the index has it"):
        read(image, index)
