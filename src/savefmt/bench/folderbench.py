"""Measure a disk by writing files to it and reading them back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from savefmt.bench.fio import job_file
from savefmt.bench.guestpattern import ALIGN, data_length, file_length, pattern_blocks
from savefmt.bench.pipedsave import PIECE, write_streams
from savefmt.bench.record import Runs
from savefmt.bench.scratch import nameless_file, require_space
from savefmt.bench.values import PATTERNS, BenchOptions, BenchSetting, Subject
from savefmt.errors import UnsupportedError
from savefmt.frozen import replace
from savefmt.native.file import File
from savefmt.native.jobs import fill_pages, read_pages


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
            require_space(path, options.jobs * options.length, fill=options.fill)
        self._blocks = pattern_blocks(options.pattern, options.length)
        self._length = data_length(self._blocks)
        if not self._length:
            raise UnsupportedError(
                "the pattern image has no page with data; choose another image",
                path=options.pattern,
            )
        largest = max(block.page_size for block in self._blocks)
        if min(options.windows) < largest:
            raise UnsupportedError(
                f"a window must be at least as large as a page of the pattern, {largest} bytes",
                path=options.pattern,
            )
        self._stream_length = self._length // PIECE * PIECE
        require_space(path, options.jobs * (self._length + ALIGN), fill=options.fill)

    def total(self, options: BenchOptions) -> int:
        """Bytes that one round of all settings moves, fio's included."""
        modes = len(options.direct)
        pairs = modes * len(list(options.settings("write", True)))
        return options.jobs * (4 * pairs * self._length + modes * self._stream_length)

    def fio_job(self, options: BenchOptions) -> str:
        """Return the job that lets fio do the same alone."""
        sections = [
            (setting, 0, self._length)
            for direct in options.direct
            for write in options.settings("write", direct)
            for setting in (write, replace(write, work="read"))
        ]
        return job_file(self._path, sections)

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
        self._run_stream(BenchSetting("stream", direct, 1, PIECE, jobs=options.jobs), record)
        for write in options.settings("write", direct):
            read = replace(write, work="read")
            self._run_engine(write, read, record)
            self._run_fio(write, read, record)

    @contextmanager
    def _files(self, setting: BenchSetting, length: int) -> Iterator[tuple[list[int], list[File]]]:
        """Open a nameless file for each job."""
        with ExitStack() as stack:
            fds, files = [], []
            for _ in range(setting.jobs):
                fds.append(stack.enter_context(nameless_file(self._path, length)))
                file = File(
                    fds[-1],
                    path=self._path,
                    write=True,
                    direct=setting.direct,
                    engine=setting.engine,
                )
                files.append(stack.enter_context(file))
            yield fds, files

    def _run_stream(self, setting: BenchSetting, record: Runs) -> None:
        if not self._stream_length:
            return
        with (
            self._files(setting, 0) as (_, files),
            record.timed(setting, setting.jobs * self._stream_length, *files),
        ):
            write_streams(files, self._stream_length, record.on_bytes)

    def _run_engine(self, write: BenchSetting, read: BenchSetting, record: Runs) -> None:
        length = write.jobs * self._length
        with self._files(write, file_length(self._blocks)) as (fds, files):
            with record.timed(write, length, *files):
                fill_pages(files, self._blocks, write, record.on_bytes)
                for file in files:
                    file.sync()
            record.cool(*fds)
            with record.timed(read, length, *files):
                read_pages(files, self._blocks, read, record.on_bytes)

    def _run_fio(self, write: BenchSetting, read: BenchSetting, record: Runs) -> None:
        """Let fio write as many bytes, without gaps, and read them back."""
        with ExitStack() as stack:
            fds = [
                stack.enter_context(nameless_file(self._path, self._length))
                for _ in range(write.jobs)
            ]
            if not record.run_fio(fds, write, 0, self._length):
                record.skip(write.jobs * self._length)  # there is nothing to read
                return
            record.cool(*fds)
            record.run_fio(fds, read, 0, self._length)
