"""How an image lies in its file."""

from __future__ import annotations

import os
from collections.abc import Callable

from savefmt.errors import (
    CorruptError,
    IncompleteImageError,
    NotASaveImageError,
    SavefmtError,
)
from savefmt.format.cursor import Cursor
from savefmt.format.envelope import Envelope, is_envelope
from savefmt.format.stream import QEVM_MAGIC
from savefmt.frozen import dataclass
from savefmt.model import Finding, StrPath
from savefmt.reading.plainstream import Packing

_MAGIC_LENGTH = 16
_LAST_CODEC_FORMAT = 5
_FIRST_LOOKS = (64 << 10, 2 << 20)
"""Compressed bytes that give the first plain ones: few do nearly always, and bzip2 and lzop
may want a whole block."""


@dataclass(frozen=True, slots=True)
class Form:
    """How an image lies in its file.

    Attributes
    ----------
    envelope : Envelope or None
        None for a bare stream.
    packing : Packing
        How the stream is compressed.
    stored_offset : int
        Where in the file the stream begins, or what it is compressed into.
    stream_offset : int
        Where the stream begins in its own terms: these count the bytes of the file, and
        plain bytes from the compressed ones on.
    """

    envelope: Envelope | None
    packing: Packing
    stored_offset: int
    stream_offset: int


def read_form(
    cursor: Cursor,
    unpack: Callable[[str], Cursor],
    *,
    name: StrPath,
    strict: bool = True,
    findings: list[Finding] | None = None,
) -> Form:
    """Tell envelope, codec and container by how a file begins.

    Parameters
    ----------
    cursor : Cursor
        At its beginning; left behind an envelope, if one stands there uncompressed.
    unpack : callable
        Gives a cursor over the plain bytes of a file that the named codec compressed as a
        whole; left behind the envelope there.
    name : str or os.PathLike
        Of the file.
    strict : bool
        False takes unfinished images too.
    findings : list of Finding, optional
        Receives oddities.

    Returns
    -------
    Form
        Of an image.

    Raises
    ------
    NotASaveImageError, IncompleteImageError, CorruptError, UnsupportedError
        What it is instead.
    """
    start = cursor.tell()
    if not cursor.peek(1):
        raise NotASaveImageError("the file is empty")
    outer = _outer_codec(cursor)
    if outer != "raw":
        cursor = unpack(outer)
    envelope = None
    if is_envelope(cursor.peek(_MAGIC_LENGTH)):
        envelope = Envelope.read(cursor, findings)
        if not envelope.finished and strict:
            raise IncompleteImageError(
                'the save never finished (libvirt\'s "Part" magic); save the guest again',
                offset=start,
            )
    offset = cursor.tell()
    codec = _find_codec(cursor, envelope, os.fspath(name))
    if outer == "raw":
        return Form(envelope, Packing(codec), offset, offset)
    return Form(envelope, Packing(codec, outer, offset - start), start, offset)


def _outer_codec(cursor: Cursor) -> str:
    """Return the codec that was run over envelope and all: evidence is sent so."""
    head = cursor.peek(_MAGIC_LENGTH)
    if is_envelope(head) or head.startswith(QEVM_MAGIC):
        return "raw"
    from savefmt.codec.registry import detect

    codec = detect(head)
    if codec is None:
        return "raw"
    plain = _first_plain(cursor, codec)
    if is_envelope(plain):
        return codec
    if len(plain) >= _MAGIC_LENGTH and not plain.startswith(QEVM_MAGIC):
        from savefmt.reading.otherformats import not_an_image

        error = not_an_image(plain, "", offset=cursor.tell())
        error.message = f"inside of the {codec} data: {error.message}"
        raise error
    return "raw"


def _first_plain(cursor: Cursor, codec: str) -> bytes:
    """Return the first plain bytes of a compressed file; as few as there are."""
    from savefmt.codec.base import refuse_foreign
    from savefmt.codec.registry import find_codec
    from savefmt.reading.otherformats import HEAD_LENGTH

    for length in _FIRST_LOOKS:
        plain = b""
        pieces = find_codec(codec).open_reader(iter([cursor.peek(length)]), offset=cursor.tell())
        try:
            for piece in refuse_foreign(pieces):
                plain += piece[: HEAD_LENGTH - len(plain)]
                if len(plain) == HEAD_LENGTH:
                    return plain
        except SavefmtError:  # these bytes end anywhere; who reads the file will say so
            pass
    return plain


def _find_codec(cursor: Cursor, envelope: Envelope | None, name: str) -> str:
    number = envelope.stream_format if envelope is not None else 0
    packed = 0 < number <= _LAST_CODEC_FORMAT
    if not packed and cursor.peek(_MAGIC_LENGTH).startswith(QEVM_MAGIC):
        return "raw"  # as most images are: no codec is to be loaded
    from savefmt.codec.registry import codec_for_format, detect
    from savefmt.reading.otherformats import HEAD_LENGTH, not_an_image

    if packed:
        return codec_for_format(number).name
    head = cursor.peek(HEAD_LENGTH)
    found = detect(head)
    if found is None and envelope is not None and not envelope.finished:
        return "raw"  # the stream has not begun
    if found is None:
        raise not_an_image(head, name, offset=cursor.tell())
    if envelope is not None:
        raise CorruptError(
            f"the envelope says {envelope.format_name}, but the stream is compressed with {found}",
            offset=cursor.tell(),
        )
    return found
