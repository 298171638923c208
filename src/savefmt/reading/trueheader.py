"""What libvirt's header must say, judged by the data behind it.

The XML and the cookie behind it each end in a NUL, and zeros follow up to the stream, whose
magic is known. A header that says anything else is wrong, and these data tell what is right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress

from savefmt.codec.registry import detect
from savefmt.errors import CorruptError, FormatError, UnsupportedError
from savefmt.format.configuration import MAPPED_RAM
from savefmt.format.cursor import FileCursor
from savefmt.format.documents import find_cookie, is_cookie, is_domain
from savefmt.format.envelope import (
    FEATURE_MAPPED_RAM,
    FORMAT_NUMBERS,
    FORMATS,
    HEADER_LENGTH,
    MAX_DATA_LENGTH,
    NUMBER_OFFSETS,
    byte_order,
    is_envelope,
    wrong_cookie,
)
from savefmt.format.stream import STREAM_BEGINS, STREAM_HEADER, read_header
from savefmt.frozen import dataclass
from savefmt.model import Finding, Repair, Severity
from savefmt.reading.otherformats import HEAD_LENGTH

Pread = Callable[[int, int], bytes]
"""``pread(length, offset)`` returns bytes of the image."""

Numbers = Mapping[str, int]
"""Numbers of a header, by the names in `NUMBER_OFFSETS`."""

_PIECE_LENGTH = 64 << 10
_WORD = 4
_FEATURES_VERSION = 3


@dataclass(frozen=True, slots=True)
class TrueHeader:
    """A header put right.

    Attributes
    ----------
    data : bytes
        All of it.
    findings : tuple of Finding
        What is wrong with the one in the file.
    """

    data: bytes
    findings: tuple[Finding, ...]

    @property
    def error(self) -> CorruptError:
        """What to say of an image that cannot be opened with its own header."""
        names = dict.fromkeys(one.repair for one in self.findings if one.repair is not None)
        options = " ".join(f"--fix {name}" for name in names)
        words = [one.message for one in self.findings]
        words.append(f"`savefmt repair {options}` puts it right")
        return CorruptError("; ".join(words), offset=self.findings[0].offset)


def find_true_header(read: Pread, length: int) -> TrueHeader | None:
    """Find out what the header of an image must say that cannot be opened with its own.

    Parameters
    ----------
    read : callable
        Reads the image, never asked for what is behind its end.
    length : int
        Where that is.

    Returns
    -------
    TrueHeader or None
        None where the header is right, or nothing shows what is.
    """

    def pread(count: int, offset: int) -> bytes:
        return read(min(count, max(length - offset, 0)), offset)

    head = pread(HEADER_LENGTH, 0)
    if len(head) < HEADER_LENGTH or not is_envelope(head):
        return None
    try:
        told = read_numbers(head)
    except UnsupportedError:
        return None
    start = _find_stream(pread, told["data_len"], min(length, HEADER_LENGTH + MAX_DATA_LENGTH))
    if start is None:
        return None
    cookie = find_cookie(pread(start - HEADER_LENGTH, HEADER_LENGTH), told["cookie"])
    if cookie is None and told["cookie"] > start - HEADER_LENGTH:
        return None
    codec = detect(pread(HEAD_LENGTH, start)) or "raw"
    form = "sparse" if codec == "raw" and _is_mapped(pread, start, length) else codec
    right = _right_numbers(told["version"], start - HEADER_LENGTH, form, cookie)
    findings = tuple(_wrong(told, right, form))
    data = head
    for numbers in right.values():
        data = put_numbers(data, numbers)
    return TrueHeader(data, findings) if findings else None


def read_numbers(head: bytes) -> dict[str, int]:
    """Return all numbers of a header."""
    order = byte_order(head, 0)
    return {
        name: int.from_bytes(head[at : at + _WORD], order) for name, at in NUMBER_OFFSETS.items()
    }


def put_numbers(head: bytes, numbers: Numbers) -> bytes:
    """Return a header with other numbers."""
    changed = bytearray(head)
    for name, number in numbers.items():
        at = NUMBER_OFFSETS[name]
        changed[at : at + _WORD] = number.to_bytes(_WORD, byte_order(head, 0))
    return bytes(changed)


def _right_numbers(
    version: int, data_length: int, form: str, cookie: int | None
) -> dict[Repair, Numbers]:
    """Return what numbers of the header each repair sets; a cookie of None stays as it is."""
    right: dict[Repair, Numbers] = {Repair.LENGTH: {"data_len": data_length}}
    if version == _FEATURES_VERSION:
        mapped = form == "sparse"
        right[Repair.FORMAT] = {
            "format": 0 if mapped else FORMAT_NUMBERS[form],
            "features": FEATURE_MAPPED_RAM if mapped else 0,
        }
    elif version > 1 or form != "raw":  # version 1 means raw and ignores the format
        right[Repair.FORMAT] = {"version": 2, "format": FORMAT_NUMBERS[form]}
    if cookie is not None:
        right[Repair.COOKIE] = {"cookie": cookie}
    return right


def _wrong(told: Numbers, right: Mapping[Repair, Numbers], form: str) -> Iterator[Finding]:
    """Say what of a header is wrong."""
    length = right[Repair.LENGTH]["data_len"]
    if told["data_len"] != length:
        yield Finding(
            "envelope.length",
            Severity.ERROR,
            f"the header contradicts the file: {told['data_len']} bytes of XML and padding are "
            f"to come before the stream, and there are {length}",
            NUMBER_OFFSETS["data_len"],
            "libvirt looks for the stream in a wrong place, and QEMU refuses what it finds there",
            Repair.LENGTH,
        )
    if any(told[name] != number for name, number in right.get(Repair.FORMAT, {}).items()):
        yield mislabelled(told["format"], form)
    cookie = right.get(Repair.COOKIE, {}).get("cookie")
    if cookie not in (None, told["cookie"]):
        yield wrong_cookie(told["cookie"], cookie or 0)


def mislabelled(told: int, form: str) -> Finding:
    """Say that the header names another format than the stream has."""
    name = FORMATS.get(told, f"format {told}, which no libvirt known here writes")
    return Finding(
        "envelope.mislabelled",
        Severity.ERROR,
        f"the envelope says {name}, but the stream is {describe(form)}; libvirt cannot load that",
        NUMBER_OFFSETS["format"],
        "convert it with -O raw or -O sparse, which writes a truthful envelope",
        Repair.FORMAT,
    )


def describe(form: str) -> str:
    """Say in words what a stream is."""
    return {"raw": "sequential", "sparse": "mapped-ram"}.get(form, f"compressed with {form}")


# --- where the stream begins ---


def _find_stream(pread: Pread, told: int, end: int) -> int | None:
    """Find the stream where the header has it, or behind the documents and their padding."""
    if HEADER_LENGTH + told < end and _begins_stream(pread(HEAD_LENGTH, HEADER_LENGTH + told)):
        return HEADER_LENGTH + told
    at = HEADER_LENGTH
    for ends in (is_domain, is_cookie):
        document = _read_document(pread, at, end)
        if document is None or not ends(document):
            break
        following = _first_nonzero(pread, at + len(document), end)
        if following is None:
            return None
        at = following
        if _begins_stream(pread(HEAD_LENGTH, at)):
            return at
    return _search(pread, at, end) if at > HEADER_LENGTH else None


def _read_document(pread: Pread, at: int, end: int) -> bytes | None:
    """Read up to a NUL; None where none comes, or this is no XML."""
    document = bytearray()
    while piece := pread(min(_PIECE_LENGTH, end - at - len(document)), at + len(document)):
        if not (document or piece.lstrip().startswith(b"<")):
            return None
        found = piece.find(b"\0")
        if found >= 0:
            return bytes(document + piece[:found])
        document += piece
    return None


def _first_nonzero(pread: Pread, at: int, end: int) -> int | None:
    while piece := pread(min(_PIECE_LENGTH, end - at), at):
        if left := len(piece.lstrip(b"\0")):
            return at + len(piece) - left
        at += len(piece)
    return None


def _begins_stream(head: bytes) -> bool:
    return head.startswith(STREAM_HEADER) or detect(head) is not None


def _search(pread: Pread, at: int, end: int) -> int | None:
    """Find an uncompressed stream behind padding that is not zero."""
    overlap = len(STREAM_HEADER)
    while len(piece := pread(min(_PIECE_LENGTH + overlap, end - at), at)) > overlap:
        if (match := STREAM_BEGINS.search(piece)) is not None:
            return at + match.start()
        at += len(piece) - overlap
    return None


def _is_mapped(pread: Pread, start: int, length: int) -> bool:
    with suppress(FormatError, UnsupportedError):
        configuration = read_header(FileCursor(pread, start, length))
        return configuration is not None and MAPPED_RAM in configuration.capabilities
    return False
