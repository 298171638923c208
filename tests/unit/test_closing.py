"""Closing what is in use: what is under way ends well, what comes later is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from builder import MIB, Record, all_records, make_stream

import savefmt
from savefmt.codec.registry import find_codec
from savefmt.errors import ClosedImageError
from savefmt.image import SaveImage
from savefmt.model import IOOptions

RAM = b"".join(number.to_bytes(8, "big") * 512 for number in range(1, 1 + 4 * MIB // 4096))
BLOCKS = {"pc.ram": RAM}
# A delta makes an image be spooled; this one changes nothing.
DELTA = Record("pc.ram", 0, delta=b"\x00\x01" + RAM[:1])
FORMS = {
    "mapped-ram": ("raw", make_stream(blocks=BLOCKS, layout="mapped-ram")),
    "raw": ("raw", make_stream(blocks=BLOCKS)),
    "gzip": ("gzip", make_stream(blocks=BLOCKS)),
    "zstd": ("zstd", make_stream(blocks=BLOCKS)),
    "deltas": ("raw", make_stream(blocks=BLOCKS, rounds=[all_records(BLOCKS), [DELTA]])),
}


def made(folder: Path, form: str) -> Path:
    path = folder / form
    codec, data = FORMS[form]
    if codec == "raw":
        path.write_bytes(data)
        return path
    pieces: list[bytes] = []
    writer = find_codec(codec).open_writer(pieces.append, threads=1)
    writer.write(data)
    writer.close()
    path.write_bytes(b"".join(pieces))
    return path


class Reader(threading.Thread):
    """Reads all over until the image is closed."""

    def __init__(self, image: SaveImage, number: int) -> None:
        super().__init__()
        self.memory = image.memory
        self.number = number
        self.reads = 0
        self.end: BaseException | None = None

    def run(self) -> None:
        at = self.number * MIB
        length = 3 * MIB if self.number % 2 else 4096
        try:
            while True:
                at = (at + 12_289) % (len(RAM) - length)
                assert self.memory.read("pc.ram", at, length) == RAM[at : at + length]
                self.reads += 1
        except BaseException as error:
            self.end = error


@pytest.mark.parametrize("engine", ["psync", "auto"])
@pytest.mark.parametrize("form", FORMS)
def test_threads_read_while_the_image_is_closed(form: str, engine: str, tmp_path: Path) -> None:
    path = made(tmp_path, form)
    for turn in range(4):
        image = savefmt.open(path, io=IOOptions(threads=1, engine=engine))
        image.memory.read("pc.ram", 0, 1)  # makes the index, or spools
        readers = [Reader(image, number) for number in range(4)]
        for reader in readers:
            reader.start()
        deadline = time.monotonic() + 10
        while min(reader.reads for reader in readers) <= turn and time.monotonic() < deadline:
            time.sleep(0.001)
        image.close()
        for reader in readers:
            reader.join(20)
        assert [type(reader.end) for reader in readers] == [ClosedImageError] * 4, [
            reader.end for reader in readers
        ]


@pytest.mark.parametrize("form", ["raw", "gzip", "zstd"])
def test_a_stream_goes_on_to_its_end(form: str, tmp_path: Path) -> None:
    image = savefmt.open(made(tmp_path, form))
    with image.stream(IOOptions(threads=2, window=MIB)) as cursor:
        assert bytes(cursor.window()[:4]) == b"QEVM"  # it has begun
        image.memory.close()
        image.close()
        total = 0
        while len(window := cursor.window()):
            total += len(window)
            cursor.advance(len(window))

    assert total == len(FORMS[form][1])
    with pytest.raises(ClosedImageError), image.stream():
        pass


@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_read_from_a_closed_image(form: str, tmp_path: Path) -> None:
    """Nor from what of it is in memory still."""
    image = savefmt.open(made(tmp_path, form))
    memory = image.memory
    view = memory.view("pc.ram", 4096, 8192)
    for _ in range(2):
        assert memory.read("pc.ram", 0, 4096) == RAM[:4096]
    image.close()
    calls: list[Callable[[], object]] = [
        lambda: memory.read("pc.ram", 0, 4096),
        lambda: memory.view("pc.ram", 0, 4096),
        lambda: memory.digest(),
    ]
    for call in calls:
        with pytest.raises(ClosedImageError):
            call()
    assert view == RAM[4096 : 3 * 4096]
