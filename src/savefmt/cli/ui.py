"""What the user sees: results on standard output, talk on standard error."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from savefmt.cli.render import common as render
from savefmt.errors import ImageIOError, SavefmtError
from savefmt.model import OnProgress

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from savefmt.image import SaveImage


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
        self.json: bool = getattr(args, "output", "human") in ("json", "jsonl")
        self.color = not self.json and wants_color(args.color, sys.stdout)
        self._error_color = wants_color(args.color, sys.stderr)
        self._show_progress: bool = getattr(args, "show_progress", False)
        self._progress_fd: int | None = getattr(args, "progress_fd", None)

    def say(self, lines: Iterable[str]) -> None:
        """Print a result, also with ``-q``: it is what was asked for."""
        for line in lines:
            print(line)

    def document(self, **content: object) -> None:
        """Print one JSON document with the schema's number."""
        import json

        print(json.dumps({"schema": render.SCHEMA, **content}, indent=2))

    def remark(self, line: str) -> None:
        """Print what is worth knowing, on standard error, unless quiet."""
        if not self.quiet:
            _to_stderr(f"savefmt: {render.plain(line)}")

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
            import traceback

            traceback.print_exception(error)
        _to_stderr(f"savefmt: {render.plain(error_text(error, path))}")

    def fail(self, error: SavefmtError | OSError, path: str | None = None) -> None:
        """Complain, and in a JSON run print the error as the document, too."""
        if is_broken_pipe(error):
            raise BrokenPipeError from error
        self.complain(error, path)
        if self.json:
            self.document(error=render.error_fields(error, path))

    @contextmanager
    def progress(self, label: str) -> Iterator[OnProgress | None]:
        """Give the callback that shows progress, None where nobody would see it.

        Parameters
        ----------
        label : str
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
        from savefmt.cli.progressbar import Meter

        meter = Meter(
            render.plain(label),
            bar=not self.quiet and (terminal or self._show_progress),
            terminal=terminal and os.environ.get("TERM") != "dumb",
            at_once=self._show_progress,
            color=self._error_color,
            descriptor=self._progress_fd,
            step=self.step,
        )
        with meter:
            yield meter

    def prepare(self, image: SaveImage) -> None:
        """Index or unpack an image now, where one can watch it."""
        from savefmt.progress import Meter

        with self.progress(os.fspath(image.filename)) as progress:
            image.memory.prepare(Meter(progress, image.length, "reading"))


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


def is_broken_pipe(error: BaseException) -> bool:
    """Whether our reader has gone, however deep the write was."""
    if isinstance(error, BrokenPipeError):
        return True
    import errno

    return isinstance(error, ImageIOError) and error.errno == errno.EPIPE


def _to_stderr(line: str) -> None:
    if sys.stderr is not None:
        print(line, file=sys.stderr, flush=True)
