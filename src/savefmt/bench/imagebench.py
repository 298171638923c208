"""Measure a disk by reading an image on it."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Self

from savefmt.bench.fio import job_file
from savefmt.bench.guestpattern import data_length
from savefmt.bench.record import Runs
from savefmt.bench.values import BenchOptions, BenchSetting, Subject
from savefmt.errors import UnsupportedError
from savefmt.image import SaveImage
from savefmt.model import IOOptions, Layout
from savefmt.native.file import File
from savefmt.native.jobs import read_pages

_ALIGN = 1 << 20
_FIO_NEEDS = 64 << 20
"""A shorter stretch without holes would tell little of a disk."""
_NO_STRETCH = "the image has no 64 MiB without holes to read"


class ImageBench:
    """Reads one image, over and over, and never opens it for anything else.

    Parameters
    ----------
    path : str
        The image.
    options : BenchOptions
        What to measure.

    Raises
    ------
    UnsupportedError
        If no page of it holds data.
    """

    def __init__(self, path: str, options: BenchOptions) -> None:
        self._path = path
        with SaveImage(path, io=IOOptions(direct=True)) as image:
            self._mapped = image.layout is Layout.MAPPED_RAM
            self._length = (
                data_length(image.mapped.pages)
                if self._mapped
                else image.length - image.stream_offset
            )
            self._direct = image.file.direct
            largest = max((block.page_size for block in image.blocks.values()), default=0)
            self._stretch = _longest_stretch(image)
            self.target = Subject(path, True, self._mapped, image.envelope is not None)
        if not self._length:
            raise UnsupportedError(
                "the image has no page with data; choose another image", path=path
            )
        if min(options.windows) < largest:
            raise UnsupportedError(
                f"a window must be at least as large as a page of the image, {largest} bytes",
                path=path,
            )
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
        count = len(options.direct) * len(list(options.settings("read", True)))
        return count * (self._length + self._stretch[1])

    def fio_job(self, options: BenchOptions) -> str:
        """Return the job that lets fio do the same alone.

        Raises
        ------
        UnsupportedError
            If the image has no stretch that fio could read.
        """
        if not self._stretch[1]:
            raise UnsupportedError(_NO_STRETCH, path=self._path)
        settings = (
            setting for direct in options.direct for setting in options.settings("read", direct)
        )
        return job_file(self._path, [(setting, *self._stretch) for setting in settings])

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
            record.note(f"fio left out: {_NO_STRETCH}")
        for setting in options.settings("read", direct):
            record.cool(self._fd)
            self._read(setting, record)
            if self._stretch[1]:
                record.cool(self._fd)
                record.run_fio([self._fd], setting, *self._stretch)

    def _read(self, setting: BenchSetting, record: Runs) -> None:
        with SaveImage(self._path, io=setting.io) as image:
            file = image.file
            if self._mapped:
                pages = image.mapped.pages
                with record.timed(setting, self._length, file):
                    read_pages([file], pages, setting, record.on_bytes)
                return
            with record.timed(setting, self._length, file):
                done = 0
                for piece in file.chunks(image.stream_offset, image.length, setting):
                    done += len(piece)
                    record.on_bytes(done)


def _longest_stretch(image: SaveImage) -> tuple[int, int]:
    """Find what fio can read without meeting a hole: offset and length, 0 for nothing."""
    extents = image.file.extents(0, image.length)
    offset, length = max(extents, key=lambda extent: extent[1], default=(0, 0))
    begin = -(-offset // _ALIGN) * _ALIGN
    end = (offset + length) // _ALIGN * _ALIGN
    return (begin, end - begin) if end - begin >= _FIO_NEEDS else (0, 0)
