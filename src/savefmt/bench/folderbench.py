"""Measure a disk by writing files to it and reading them back."""

from __future__ import annotations

import os

from savefmt.bench.guestpattern import ALIGN, data_length, file_length, pattern_blocks
from savefmt.bench.pipedsave import PIECE, write_stream
from savefmt.bench.record import Runs
from savefmt.bench.scratch import nameless_file, require_space
from savefmt.bench.values import PATTERNS, BenchOptions, BenchSetting, Subject
from savefmt.errors import UnsupportedError
from savefmt.native.file import File
from savefmt.native.jobs import fill_pages, move_pages


class FolderBench:
    """Writes and reads nameless files in a folder.

    Parameters
    ----------
    path : str
        The folder.
    options : BenchOptions
        What to measure.

    Raises
    ------
    ImageIOError
        If there is too little room.
    UnsupportedError
        If the pattern is an image without data.
    """

    def __init__(self, path: str, options: BenchOptions) -> None:
        self.target = Subject(path)
        self._path = path
        if options.pattern in PATTERNS:  # before there is a bitmap of what cannot be written
            require_space(path, options.length, fill=options.fill)
        self._blocks = pattern_blocks(options.pattern, options.length)
        self._length = data_length(self._blocks)
        if not self._length:
            raise UnsupportedError("no page of the pattern holds data", path=options.pattern)
        self._stream_length = self._length // PIECE * PIECE
        require_space(path, self._length + ALIGN, fill=options.fill)

    def total(self, options: BenchOptions) -> int:
        """Bytes that one round of all settings moves, fio's included."""
        modes = len(options.direct)
        pairs = modes * len(list(options.combinations()))
        return 4 * pairs * self._length + modes * self._stream_length

    def grants(self, *, direct: bool = False, engine: str = "psync") -> bool:
        """Whether file system and kernel have direct I/O, or an engine, for us.

        Raises
        ------
        UnsupportedError
            If the kernel has no such engine, saying why.
        """
        with (
            nameless_file(self._path, ALIGN) as fd,
            File(fd, path=self._path, write=True, direct=direct, engine=engine) as file,
        ):
            return file.direct or not direct

    def run(self, options: BenchOptions, direct: bool, record: Runs) -> None:
        """Run every setting of one mode once."""
        self._run_stream(BenchSetting("stream", direct, 1, PIECE), record)
        for combination in options.combinations():
            write = BenchSetting("write", direct, *combination)
            read = BenchSetting("read", direct, *combination)
            self._run_engine(write, read, record)
            self._run_fio(write, read, record)

    def _run_stream(self, setting: BenchSetting, record: Runs) -> None:
        if not self._stream_length:
            return
        mode = os.O_WRONLY | os.O_CLOEXEC | (os.O_DIRECT if setting.direct else 0)
        with nameless_file(self._path, 0) as fd:
            out = os.open(f"/proc/self/fd/{fd}", mode)
            try:
                with record.timed(setting, self._stream_length):
                    write_stream(out, self._stream_length, record.on_bytes)
            finally:
                os.close(out)

    def _run_engine(self, write: BenchSetting, read: BenchSetting, record: Runs) -> None:
        with (
            nameless_file(self._path, file_length(self._blocks)) as fd,
            File(fd, path=self._path, write=True, direct=write.direct, engine=write.engine) as file,
        ):
            with record.timed(write, self._length):
                fill_pages(file, self._blocks, write.io, record.on_bytes)
                file.sync()
            record.cool(fd)
            with record.timed(read, self._length):
                move_pages(file, self._blocks, read.io, record.on_bytes)

    def _run_fio(self, write: BenchSetting, read: BenchSetting, record: Runs) -> None:
        """Let fio write as many bytes, without gaps, and read them back."""
        with nameless_file(self._path, self._length) as fd:
            if not record.run_fio(fd, write, 0, self._length):
                record.skip(self._length)  # there is nothing to read
                return
            record.cool(fd)
            record.run_fio(fd, read, 0, self._length)
