"""Documents from the user: from a file or standard input, of limited length."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from savefmt.pipes import STANDARD_INPUT

_MAX_LINE_LENGTH = 1 << 16
_MAX_NAME_LENGTH = 8192  # twice that of a path
_MAX_TEXTS = 100_000
_MAX_TEXTS_LENGTH = 16 << 20


def document(path: str, kind: str) -> bytes:
    """Read a document for an image's envelope.

    Parameters
    ----------
    path : str
        The file; ``-`` is standard input.
    kind : str
        What it should be, for errors.

    Returns
    -------
    bytes
        All of it.

    Raises
    ------
    CorruptError
        If it is longer than an envelope can be.
    OSError
        If it cannot be read.
    """
    from savefmt.errors import CorruptError
    from savefmt.format.envelope import MAX_DATA_LENGTH

    with _opened(path) as file:
        text = file.read(MAX_DATA_LENGTH + 1)
    if len(text) > MAX_DATA_LENGTH:
        raise CorruptError(f"this is not a {kind}: it is longer than 64 MiB", path=shown(path))
    return text


def domain_document(path: str) -> bytes:
    """Read a domain XML and see that it is one; otherwise as `document`."""
    from savefmt.errors import CorruptError
    from savefmt.format.domain import parse_domain

    xml = document(path, "domain XML")
    try:
        parse_domain(xml)
    except CorruptError as error:
        error.path = shown(path)
        raise
    return xml


@contextmanager
def lines_of(path: str) -> Iterator[Iterator[str]]:
    """Open a text for its lines; one that does not end soon comes in pieces.

    Parameters
    ----------
    path : str
        The file; ``-`` is standard input.

    Yields
    ------
    iterator of str
        The lines, with their ends.
    """
    with _opened(path) as file:
        pieces = iter(lambda: file.readline(_MAX_LINE_LENGTH), b"")
        yield (piece.decode("utf-8", "surrogateescape") for piece in pieces)


def names_of(path: str) -> Iterator[str]:
    """Yield the names in a file, one a line; empty lines are skipped.

    Raises
    ------
    FormatError
        If a line is longer than any name.
    OSError
        If it cannot be read.
    """
    from savefmt.errors import FormatError

    with lines_of(path) as lines:
        for number, line in enumerate(lines, 1):
            if len(line) > _MAX_NAME_LENGTH:
                raise FormatError(f"line {number} is too long for a name", path=shown(path))
            if name := line.removesuffix("\n"):
                yield name


def texts_of(path: str) -> list[str]:
    """Read the texts in a file, one a line, with their line ends.

    Raises
    ------
    ValueError
        If there are too many to look for at once, or none.
    OSError
        If it cannot be read.
    """
    texts: list[str] = []
    length = 0
    with lines_of(path) as lines:
        for line in lines:
            texts.append(line)
            length += len(line)
            if len(texts) > _MAX_TEXTS or length > _MAX_TEXTS_LENGTH:
                raise ValueError(
                    f"{shown(path)} has more than {_MAX_TEXTS} lines, or {_MAX_TEXTS_LENGTH >> 20} "
                    "MiB of text; look for fewer at a time"
                )
    if not "".join(texts).strip("\n"):
        raise ValueError(f"{shown(path)} has no text to look for")
    return texts


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    if path == "-":
        yield sys.stdin.buffer
        return
    with open(path, "rb") as file:
        yield file


def shown(path: str) -> str:
    """Name a file for people."""
    return STANDARD_INPUT if path == "-" else path
