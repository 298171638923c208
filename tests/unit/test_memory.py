"""Guest memory by block: reads, runs and the digest, whatever the form."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from builder import (
    DEFAULT_BLOCKS,
    MIB,
    PAGE_SIZE,
    Record,
    all_records,
    make_envelope,
    make_stream,
    page,
)
from oracle import compress

import savefmt
from savefmt import (
    IOOptions,
    OperationCancelled,
    PageRun,
    SaveImage,
    TruncatedError,
    UnsupportedError,
)
from savefmt.native.pages import SumKey
from savefmt.progress import Meter

SHARED = dict.fromkeys(DEFAULT_BLOCKS, 0)
RAM = DEFAULT_BLOCKS["pc.ram"]
LIVE = [[Record("pc.ram", 0, page(7)), Record("pc.ram", 1, page(8))], all_records(DEFAULT_BLOCKS)]
DELTA_RAM = b"ok" + RAM[2:]

FORMS: dict[str, Callable[[], bytes]] = {
    "raw": make_stream,
    "libvirt": lambda: make_envelope() + make_stream(parts=3),
    "zstd": lambda: compress("zstd", make_stream()),
    "live": lambda: make_stream(rounds=LIVE),
    "sparse": lambda: make_stream(layout="mapped-ram", stale={("pc.ram", 1): page(9)}),
    "sparse, big-endian": lambda: make_stream(layout="mapped-ram", bitmap_order="big"),
}


@contextmanager
def opened(folder: Path, data: bytes) -> Iterator[SaveImage]:
    (folder / "image").write_bytes(data)
    with savefmt.open(folder / "image", io=IOOptions(threads=2, window=MIB)) as image:
        yield image


@pytest.mark.parametrize("form", FORMS)
def test_reading(form: str, tmp_path: Path) -> None:
    with opened(tmp_path, FORMS[form]()) as image:
        memory = image.memory
        for block, content in DEFAULT_BLOCKS.items():
            assert memory.read(block, 0, len(content)) == content
        assert memory.read("pc.ram", PAGE_SIZE - 3, 6) == RAM[PAGE_SIZE - 3 : PAGE_SIZE + 3]
        assert (
            memory.read("pc.ram", 3 * PAGE_SIZE - 1, PAGE_SIZE + 2)
            == (RAM[3 * PAGE_SIZE - 1 : 4 * PAGE_SIZE + 1])
        )
        assert memory.read("pc.ram", len(RAM), 0) == b""
        assert list(memory.runs("pc.ram")) == [PageRun(0, 1), PageRun(2, 2)]
        assert list(memory.runs("/rom@etc/acpi/rsdp")) == [PageRun(0, 1)]


def test_ranges_are_checked(tmp_path: Path) -> None:
    with opened(tmp_path, make_stream()) as image:
        for offset, length in [(-1, 1), (0, -1), (len(RAM), 1), (0, len(RAM) + 1), (1 << 64, 1)]:
            with pytest.raises(ValueError, match="leave the block"):
                image.memory.read("pc.ram", offset, length)
        with pytest.raises(KeyError):
            image.memory.read("pc.rom", 0, 1)
        with pytest.raises(KeyError):
            list(image.memory.runs("pc.rom"))


@pytest.mark.parametrize("codec", ["raw", "gzip"])
def test_deltas_are_spooled(codec: str, tmp_path: Path) -> None:
    rounds = [all_records(DEFAULT_BLOCKS), [Record("pc.ram", 0, delta=b"\x00\x02ok")]]
    expected = {**DEFAULT_BLOCKS, "pc.ram": DELTA_RAM}

    with opened(tmp_path, compress(codec, make_stream(rounds=rounds))) as image:
        digest = image.memory.digest()
        assert image.memory.read("pc.ram", 0, len(RAM)) == DELTA_RAM
        assert [run.first for run in image.memory.runs("pc.ram")] == [0, 2]
    with opened(tmp_path, make_stream(blocks=expected)) as image:
        assert image.memory.digest() == digest


def nameless_files() -> int:
    """Count the unlinked files that this process holds open."""
    links = []
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            links.append(os.readlink(entry))
    return sum(link.endswith(" (deleted)") for link in links)


def test_a_spool_that_fails_gives_its_room_back(tmp_path: Path) -> None:
    rounds = [all_records(DEFAULT_BLOCKS), [Record("pc.ram", 0, delta=b"\x00\x02ok")]]
    before = nameless_files()

    with opened(tmp_path, make_stream(rounds=rounds)) as image:
        for _ in range(3):
            with pytest.raises(OperationCancelled):
                image.memory.prepare(Meter(lambda progress: progress.phase != "spooling"))
        assert nameless_files() == before
        assert image.memory.read("pc.ram", 0, len(RAM)) == DELTA_RAM
        assert nameless_files() > before
    assert nameless_files() == before


def test_one_digest_for_every_form(tmp_path: Path) -> None:
    digests = set()
    for make in FORMS.values():
        with opened(tmp_path, make()) as image:
            digests.add(image.memory.digest())
            digests.add(image.memory.digest())

    assert len(digests) == 1


def test_the_digest_is_what_it_says(tmp_path: Path) -> None:
    key = SumKey.fixed()
    state = hashlib.sha256()
    for name, content in sorted(DEFAULT_BLOCKS.items()):
        state.update(name.encode() + b"\0")
        state.update(len(content).to_bytes(8, "big") + PAGE_SIZE.to_bytes(4, "big"))
        for at in range(0, len(content), PAGE_SIZE):
            state.update(key.sum(content[at : at + PAGE_SIZE]).to_bytes(8, "little"))

    with opened(tmp_path, make_stream()) as image:
        assert image.memory.digest() == state.hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        {"pc.ram": RAM[:-1] + b"\1"},
        {"pc.ram": RAM[PAGE_SIZE:] + RAM[:PAGE_SIZE]},
        {"pc.ram": RAM + bytes(PAGE_SIZE)},
        {"pc.rom": bytes(PAGE_SIZE)},
    ],
)
def test_the_digest_sees_every_change(change: dict[str, bytes], tmp_path: Path) -> None:
    with opened(tmp_path, make_stream()) as image:
        digest = image.memory.digest()
    for layout in ("sequential", "mapped-ram"):
        with opened(
            tmp_path, make_stream(layout=layout, blocks={**DEFAULT_BLOCKS, **change})
        ) as image:
            assert image.memory.digest() != digest


def test_memory_left_out_is_not_read(tmp_path: Path) -> None:
    rest = [record for record in all_records(DEFAULT_BLOCKS) if record.block != "pc.ram"]
    mapped = make_stream(layout="mapped-ram", guest_addresses=SHARED, ignored=frozenset({"pc.ram"}))
    digests = set()
    for data in (
        mapped,
        make_stream(guest_addresses=SHARED, rounds=[rest]),
        compress("xz", make_stream(guest_addresses=SHARED, rounds=[rest])),
    ):
        with opened(tmp_path, data) as image:
            with pytest.raises(UnsupportedError, match=r"'pc.ram' is not in this image"):
                image.memory.read("pc.ram", 0, 1)
            assert list(image.memory.runs("pc.ram")) == []
            assert image.memory.read("pc.bios", 0, 8) == page(16)[:8]
            digests.add(image.memory.digest())
    assert len(digests) == 1


def test_reading_what_was_cut_off(tmp_path: Path) -> None:
    with (
        opened(tmp_path, make_stream()[:9000]) as image,
        pytest.raises(TruncatedError, match="among the RAM pages") as caught,
    ):
        image.memory.read("pc.ram", 0, 1)
    assert caught.value.path == tmp_path / "image"


@pytest.mark.parametrize("form", ["raw", "zstd", "sparse"])
def test_a_digest_can_be_cancelled(form: str, tmp_path: Path) -> None:
    with (
        opened(tmp_path, FORMS[form]()) as image,
        pytest.raises(OperationCancelled),
    ):
        image.memory.digest(meter=Meter(lambda progress: False))
