"""Documents that a user hands in: from a file or standard input, of a bounded length."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from savefmt.pipes import STANDARD_INPUT

_MAX_LINE_LENGTH = 1 << 16


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
        raise CorruptError(f"this is no {kind}: it is longer than 64 MiB", path=shown(path))
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
