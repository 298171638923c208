"""What the user sees: results on standard output, everything else on standard error."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from savefmt.cli.render.document import SCHEMA, document_text, error_values, json_text, values
from savefmt.cli.render.plain import only_colors, plain
from savefmt.errors import SavefmtError
from savefmt.model import OnProgress, StrPath

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Mapping, Sequence

    from savefmt.image import SaveImage


_FLUSHED = 100
"""The first lines are to be seen at once; later on whole buffers do."""


class Ui:
    """Standard output and standard error, and how much to say on them.

    Parameters
    ----------
    args : argparse.Namespace
        The parsed command line.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.quiet: bool = args.quiet
        self.verbosity: int = args.verbose
        output: str = getattr(args, "output", "human")
        self.json = output in ("json", "jsonl")
        self._lines = output == "jsonl"
        self.color = not self.json and wants_color(args.color, sys.stdout)
        self.error_color = wants_color(args.color, sys.stderr)
        self.complaints: list[str] = []
        self._printed = False
        self._show_progress: bool = getattr(args, "show_progress", False)
        self._progress_fd: int | None = getattr(args, "progress_fd", None)

    def say(self, lines: Iterable[str], *, at_once: bool = False) -> int:
        """Print a result, also with ``-q``: it is what was asked for.

        Parameters
        ----------
        lines : iterable of str
            Safe for a terminal.
        at_once : bool
            Show the first ones as they come; later on whole buffers do.

        Returns
        -------
        int
            How many there were.
        """
        self._printed = True
        count = 0
        for count, line in enumerate(lines, 1):
            sys.stdout.write(f"{only_colors(line)}\n")
            if at_once and count <= _FLUSHED:
                sys.stdout.flush()
        return count

    def write(self, pieces: Iterable[bytes]) -> None:
        """Print results that are bytes already."""
        self._printed = True
        sys.stdout.flush()
        for piece in pieces:
            sys.stdout.buffer.write(piece)

    def table(self, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> int:
        """Print comma-separated values with a heading, as RFC 4180 has it; return how many."""
        import csv

        out = csv.DictWriter(sys.stdout, columns)
        out.writeheader()
        count = 0
        for count, row in enumerate(rows, 1):
            out.writerow(row)
            if count <= _FLUSHED:
                sys.stdout.flush()
        return count

    def document(self, **members: object) -> None:
        """Print one JSON document: results, or collections of them, by name."""
        self._printed = True
        print(document_text(None if self._lines else 2, **members))

    def stream(self, name: str, results: Iterable[object]) -> int:
        """Print results as they come, as one document or one object a line.

        Parameters
        ----------
        name : str
            The document's member that holds them; the document is whole even when reading
            fails half-way.
        results : iterable
            What JSON can hold, or dataclasses of it.

        Returns
        -------
        int
            How many there were.
        """
        return self.stream_objects(name, (json_text(values(result)) for result in results))

    def stream_objects(self, name: str, objects: Iterable[str]) -> int:
        """Print results that are objects of JSON already, in the same way.

        Parameters
        ----------
        name : str
            As for `stream`.
        objects : iterable of str
            Each with one member at least.

        Returns
        -------
        int
            How many there were.
        """
        count = 0
        write = sys.stdout.write
        if self._lines:
            for count, text in enumerate(objects, 1):
                self._printed = True
                write(f'{{"schema": {SCHEMA}, {text[1:]}\n')
                if count <= _FLUSHED:
                    sys.stdout.flush()
            return count
        with self._list(name):
            for count, text in enumerate(objects, 1):
                write(f",\n  {text}" if count > 1 else f"\n  {text}")
        return count

    def stream_pieces(self, name: str, pieces: Iterable[bytes]) -> None:
        """Print results that are JSON already, as one document.

        Parameters
        ----------
        name : str
            As for `stream`.
        pieces : iterable of bytes
            Any number of items each, every item behind a comma.
        """
        begun = False
        with self._list(name):
            for piece in pieces:
                self.write([piece if begun else piece[1:]])
                begun = begun or bool(piece)

    @contextmanager
    def _list(self, name: str) -> Iterator[None]:
        """Print what goes around the items of a list, also where they break off."""
        complete = False
        self._printed = True
        print(f'{{"schema": {SCHEMA}, "{name}": [', end="")
        try:
            yield
            complete = True
        finally:
            print(f'\n], "complete": {json_text(complete)}}}')

    def remark(self, line: str) -> None:
        """Print what is worth knowing, on standard error, unless quiet."""
        if not self.quiet:
            to_stderr(f"savefmt: {plain(line)}")

    def missing(self, image: SaveImage) -> None:
        """Name the memory that an image lacks, once what it has was looked at."""
        if image.head.ram is None:
            return
        for block in image.memory.left_out:
            self.remark(
                f"{image.filename}: warning: RAM block {block!r} was left out of the image; "
                f"--shared {block}=FILE takes it from the file that it lies in"
            )

    def step(self, line: str) -> None:
        """Print what ``-v`` asks for."""
        if self.verbosity:
            self.remark(line)

    def complain(self, error: SavefmtError | OSError, path: str | None = None) -> None:
        """Print one line about an error; with ``-vv`` its traceback first.

        Parameters
        ----------
        error : SavefmtError or OSError
            What went wrong.
        path : str, optional
            The file in hand, for an error that does not name one.
        """
        if self.verbosity > 1:
            print_trace(error)
        self.complaints.append(error_text(error, path))
        to_stderr(f"savefmt: {plain(self.complaints[-1])}")

    def fail(self, error: SavefmtError | OSError, path: str | None = None) -> None:
        """Complain; where JSON is wanted and none was printed yet, the error is the document."""
        self.complain(error, path)
        if self.json and not self._printed:
            self.document(error=error_values(error, path))

    @contextmanager
    def progress(self, label: StrPath) -> Iterator[OnProgress | None]:
        """Give the callback that shows progress, None where nobody would see it.

        Parameters
        ----------
        label : str or os.PathLike
            What is worked on, as shown beside the bar.

        Yields
        ------
        callable or None
            For the library's `progress` parameter.
        """
        terminal = sys.stderr is not None and sys.stderr.isatty()
        wanted = not self.quiet and (self._show_progress or self.verbosity > 0 or terminal)
        if not wanted and self._progress_fd is None:
            yield None
            return
        from savefmt.cli.progressbar import ProgressBar

        bar = ProgressBar(
            plain(str(label)),
            bar=not self.quiet and (terminal or self._show_progress),
            terminal=terminal and os.environ.get("TERM") != "dumb",
            at_once=self._show_progress,
            color=self.error_color,
            descriptor=self._progress_fd,
            step=self.step,
        )
        with bar:
            yield bar

    def prepare(self, image: SaveImage) -> None:
        """Index or unpack an image now, where one can watch it."""
        from savefmt.progress import Meter

        with self.progress(image.source) as progress:
            image.memory.prepare(Meter(progress, image.length, "reading"))

    def find_devices(self, image: SaveImage) -> None:
        """Find an image's device sections now, where one can watch it."""
        from savefmt.progress import Meter

        with self.progress(image.source) as progress:
            image.devices.prepare(Meter(progress, image.length, "looking for devices"))


def wants_color(choice: str, stream: TextIO | None) -> bool:
    """Decide about colour: the option beats the environment beats the terminal.

    Parameters
    ----------
    choice : str
        ``auto``, ``always`` or ``never``.
    stream : TextIO or None
        Where the text goes; None where the process has no such stream.

    Returns
    -------
    bool
        Whether to colour.
    """
    if choice != "auto":
        return choice == "always"
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


def error_text(error: SavefmtError | OSError, path: str | None = None) -> str:
    """Say an error in one line: ``file: what (at offset 0x...)``.

    Parameters
    ----------
    error : SavefmtError or OSError
        What went wrong.
    path : str, optional
        Used where the error names no file.

    Returns
    -------
    str
        The line, not yet made safe for a terminal.
    """
    if isinstance(error, SavefmtError):
        text = str(error)
        named = error.path is not None
    else:
        named = error.filename is not None
        reason = error.strerror or str(error) or type(error).__name__
        text = f"{os.fsdecode(error.filename)}: {reason}" if named else reason
    return text if named or path is None else f"{path}: {text}"


def print_trace(error: BaseException) -> None:
    """Print how an error came about; its text may come from a file."""
    import traceback

    for part in traceback.format_exception(error):
        for line in part.splitlines():
            to_stderr(plain(line))


def to_stderr(line: str) -> None:
    """Print a line on standard error, if there is one."""
    if sys.stderr is not None:
        print(line, file=sys.stderr, flush=True)
