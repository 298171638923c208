"""How an image is stored in its file."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from savefmt.errors import (
    CorruptError,
    FormatError,
    IncompleteImageError,
    NotASaveImageError,
    SavefmtError,
    TruncatedError,
)
from savefmt.format.cursor import Cursor, FileCursor
from savefmt.format.envelope import FORMATS, Envelope, is_envelope
from savefmt.format.stream import QEVM_MAGIC
from savefmt.frozen import dataclass
from savefmt.model import Finding, StrPath
from savefmt.reading.plainstream import Packing

if TYPE_CHECKING:  # most headers are right
    from savefmt.reading.trueheader import TrueHeader

_MAGIC_LENGTH = 16
_LAST_CODEC_FORMAT = 5
_FIRST_LOOKS = (64 << 10, 2 << 20)
"""Compressed bytes that give the first plain ones: few do nearly always, and bzip2 and lzop
may want a whole block."""


@dataclass(frozen=True, slots=True)
class Form:
    """How an image is stored in its file.

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
        At its beginning; it is moved behind the envelope, if an uncompressed one is there.
    unpack : callable
        Returns a cursor over the plain bytes of a file that the named codec compressed as a
        whole; this cursor is then moved behind the envelope.
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
    try:
        return _read_form(cursor, unpack, name=name, strict=strict, findings=findings)
    except IncompleteImageError:
        raise
    except FormatError as error:
        right = _find_true_header(cursor)
        if right is None:
            raise
        raise right.error from error


def _find_true_header(cursor: Cursor) -> TrueHeader | None:
    """Find out what the header should say; None where it is right, or that cannot be told."""
    if not isinstance(cursor, FileCursor):
        return None
    from savefmt.reading.trueheader import find_true_header

    return find_true_header(cursor.pread, cursor.end)


def _read_form(
    cursor: Cursor,
    unpack: Callable[[str], Cursor],
    *,
    name: StrPath,
    strict: bool,
    findings: list[Finding] | None,
) -> Form:
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
                'the save never finished (libvirt\'s "Part" magic); save the guest again, or let '
                "`savefmt repair` tell whether the stream is whole all the same",
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
    plain = cursor.peek(_MAGIC_LENGTH).startswith(QEVM_MAGIC)
    if plain and not packed:
        return "raw"  # as most images are: no codec is to be loaded
    from savefmt.codec.registry import detect, find_codec
    from savefmt.reading.otherformats import HEAD_LENGTH, not_an_image

    head = cursor.peek(HEAD_LENGTH)
    if packed and find_codec(FORMATS[number]).begins(head):
        return FORMATS[number]
    found = "raw" if plain else detect(head)
    if envelope is None:
        if found is None:
            raise not_an_image(head, name, offset=cursor.tell())
        return found
    if found is not None:
        what = "not compressed" if plain else f"compressed with {found}"
        raise CorruptError(
            f"the envelope says {envelope.format_name}, but the stream is {what}",
            offset=cursor.tell(),
        )
    if envelope.finished or _find_true_header(cursor) is not None:
        if not head:
            raise TruncatedError(
                "the file ends before the stream begins; it was cut short, so get a complete copy",
                offset=cursor.tell(),
            )
        raise CorruptError(
            f"no stream begins behind the {envelope.data_length} bytes of XML and padding that "
            "the header names",
            offset=cursor.tell(),
        )
    return FORMATS[number] if packed else "raw"  # the stream has not begun
