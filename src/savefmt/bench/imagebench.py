"""Measure a disk by reading an image that lies on it."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Self

from savefmt.bench.guestpattern import data_length
from savefmt.bench.record import Runs
from savefmt.bench.values import BenchOptions, BenchSetting, Subject
from savefmt.errors import UnsupportedError
from savefmt.image import SaveImage
from savefmt.model import IOOptions, Layout
from savefmt.native.file import File
from savefmt.native.jobs import move_pages

_ALIGN = 1 << 20
_FIO_NEEDS = 64 << 20
"""A shorter stretch without holes would tell little of a disk."""


class ImageBench:
    """Reads one image, over and over, and never opens it for anything else.

    Parameters
    ----------
    path : str
        The image.

    Raises
    ------
    UnsupportedError
        If no page of it holds data.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        with SaveImage(path, io=IOOptions(direct=True)) as image:
            self._mapped = image.layout is Layout.MAPPED_RAM
            self._length = (
                data_length(image.mapped.pages)
                if self._mapped
                else image.length - image.stream_offset
            )
            self._direct = image.file.direct
            self._stretch = _longest_stretch(image)
            self.target = Subject(path, True, self._mapped, image.envelope is not None)
        if not self._length:
            raise UnsupportedError("no page of the image holds data", path=path)
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._fd)

    def total(self, options: BenchOptions) -> int:
        """Bytes that one round of all settings moves, fio's included."""
        count = len(options.direct) * len(list(options.combinations()))
        return count * (self._length + self._stretch[1])

    def grants(self, *, direct: bool = False, engine: str = "psync") -> bool:
        """Whether file system and kernel have direct I/O, or an engine, for us.

        Raises
        ------
        UnsupportedError
            If the kernel has no such engine, saying why.
        """
        File(self._fd, path=self._path, engine=engine).close()
        return self._direct or not direct

    def run(self, options: BenchOptions, direct: bool, record: Runs) -> None:
        """Run every setting of one mode once."""
        if record.fio and not self._stretch[1]:
            record.note("fio left out: the image has no 64 MiB without holes to read")
        for combination in options.combinations():
            setting = BenchSetting("read", direct, *combination)
            record.cool(self._fd)
            self._read(setting, record)
            if self._stretch[1]:
                record.cool(self._fd)
                record.run_fio(self._fd, setting, *self._stretch)

    def _read(self, setting: BenchSetting, record: Runs) -> None:
        io = setting.io
        with SaveImage(self._path, io=io) as image:
            if self._mapped:
                pages = image.mapped.pages
                with record.timed(setting, self._length):
                    move_pages(image.file, pages, io, record.on_bytes)
                return
            with record.timed(setting, self._length):
                done = 0
                for piece in image.file.chunks(image.stream_offset, image.length, io):
                    done += len(piece)
                    record.on_bytes(done)


def _longest_stretch(image: SaveImage) -> tuple[int, int]:
    """Find what fio can read without meeting a hole: offset and length, 0 for nothing."""
    extents = image.file.extents(0, image.length)
    offset, length = max(extents, key=lambda extent: extent[1], default=(0, 0))
    begin = -(-offset // _ALIGN) * _ALIGN
    end = (offset + length) // _ALIGN * _ALIGN
    return (begin, end - begin) if end - begin >= _FIO_NEEDS else (0, 0)
