"""The vmdescription: JSON behind a stream that tells its shape (format.md 3.6, 7)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from savefmt.errors import CorruptError, FormatError, TruncatedError, UnsupportedError
from savefmt.format.configuration import (
    CAPABILITIES_SUBSECTION,
    PAGE_BITS_SUBSECTION,
    VALIDATED_CAPABILITIES,
)
from savefmt.format.cursor import Cursor
from savefmt.format.wire import ItemType, encode_name
from savefmt.frozen import dataclass, field

MAX_JSON_LENGTH = 64 << 20
MAX_DEPTH = 64
MAX_SECTION_LENGTH = 1 << 40

SUBSECTION_OVERHEAD = 1 + 1 + 4
"""Bytes that a subsection takes besides its name and content: mark, length, version."""

_HEAD_LENGTH = 5
_FIRST_STEP = 128 << 10
# JSON has no control characters but white space.
_JSON_BYTES = bytes({*range(0x20, 0x100), *b"\t\n\r"})
_CONTROL = re.compile(rb"[^\x20-\xff\t\n\r]")
_EOF_AND_MARK = bytes([ItemType.EOF, ItemType.VMDESCRIPTION])


@dataclass(frozen=True, slots=True)
class Description:
    """What the writer says the stream consists of.

    Attributes
    ----------
    document : dict
        The parsed JSON; the first of duplicate keys counts.
    raw : bytes
        The JSON as it is in the file.
    offset : int
        Of the mark byte before it.
    sections : mapping of (str, int) to int
        Payload length by idstr and instance, for each section whose length is certain.
    """

    document: dict[str, Any] = field(repr=False)
    raw: bytes = field(repr=False)
    offset: int
    sections: Mapping[tuple[str, int], int] = field(repr=False)

    @classmethod
    def parse(cls, raw: bytes, offset: int) -> Description:
        """Read the JSON text.

        Parameters
        ----------
        raw : bytes
            The text.
        offset : int
            Of the mark byte, five bytes before the text.

        Returns
        -------
        Description
            With all lengths computed.
        """
        import json  # late: `savefmt info` hardly ever parses one

        start = offset + _HEAD_LENGTH
        with _complaints_at(start):
            try:
                document = json.loads(
                    raw.decode("utf-8", "surrogateescape"),
                    object_pairs_hook=_first_wins,
                    parse_constant=_no_constant,
                )
            except json.JSONDecodeError as error:
                message = f"the vmdescription is not valid JSON: {error.msg}"
                raise CorruptError(message, offset=start + error.pos) from error
            except ValueError as error:
                raise CorruptError("vmdescription holds an absurd number") from error
            return cls(document, raw, offset, _section_lengths(document))

    @classmethod
    def read(cls, cursor: Cursor) -> Description | None:
        """Read the description that may follow EOF.

        Parameters
        ----------
        cursor : Cursor
            Behind the EOF mark.

        Returns
        -------
        Description or None
            None where something else or nothing follows.
        """
        if cursor.peek(1) != bytes([ItemType.VMDESCRIPTION]):
            return None
        offset = cursor.tell()
        cursor.skip(1)
        length = cursor.u32("vmdescription length")
        if length > MAX_JSON_LENGTH:
            raise UnsupportedError(
                f"the vmdescription claims {length} bytes, and this release reads no longer one",
                offset=offset + 1,
            )
        return cls.parse(cursor.read(length, "vmdescription"), offset)

    @property
    def end(self) -> int:
        """Behind the text."""
        return self.offset + _HEAD_LENGTH + len(self.raw)

    @property
    def page_size(self) -> int | None:
        """Target page size as described."""
        value = self.document.get("page_size")
        return value if isinstance(value, int) else None

    def pack(self) -> bytes:
        """Return mark, length and text as they stand behind EOF."""
        return bytes([ItemType.VMDESCRIPTION]) + len(self.raw).to_bytes(4, "big") + self.raw

    @classmethod
    def with_member(cls, description: Description | None, key: str, value: object) -> Description:
        """Return a description with one member more, in front of the others; QEMU skips it.

        Parameters
        ----------
        description : Description or None
            None makes a new one.
        key, value : str, object
            The member.

        Returns
        -------
        Description
            Byte for byte the same elsewhere.
        """
        import json

        text = description.raw if description is not None else b'{"devices": []}'
        member = json.dumps({key: value})[:-1].encode("ascii")
        rest = text[text.index(b"{") + 1 :].lstrip()
        joined = member + (b"" if rest.startswith(b"}") else b", ") + rest
        return cls.parse(joined, description.offset if description is not None else 0)

    def with_capability(self, name: str, on: bool) -> Description:
        """Describe a stream whose configuration lists, or does not list, a capability.

        The text names no capability: it tells how many there are and how long the first
        is, enough to know which of `VALIDATED_CAPABILITIES` they are.

        Parameters
        ----------
        name : str
            The capability.
        on : bool
            Whether the stream lists it.

        Returns
        -------
        Description
            Byte for byte the same elsewhere.
        """
        with _complaints_at(self.offset + _HEAD_LENGTH):
            names = self._described_capabilities()
        if on == (name in names):
            return self
        if on:
            return self.with_capabilities((*names, name))
        return self.with_capabilities([other for other in names if other != name])

    def with_capabilities(self, names: Sequence[str]) -> Description:
        """Describe a configuration that lists exactly these capabilities (format.md 6.3).

        Parameters
        ----------
        names : sequence of str
            In the order of the stream.

        Returns
        -------
        Description
            Byte for byte the same elsewhere; unchanged if it describes no configuration
            at all, as old releases of QEMU do not.
        """
        text = self.raw.decode("latin-1")  # one character per byte: indices are offsets
        with _complaints_at(self.offset + _HEAD_LENGTH):
            configuration = _member(text, text.index("{"), "configuration")
            if configuration is None:
                return self
            entry = _capabilities_entry(names) if names else ""
            edited = _with_subsection(text, configuration, entry)
        return Description.parse(edited.encode("latin-1"), self.offset)

    def _described_capabilities(self) -> tuple[str, ...]:
        for subsection in _objects(_object(self.document.get("configuration")).get("subsections")):
            if subsection.get("vmsd_name") != CAPABILITIES_SUBSECTION:
                continue
            for entry in _objects(subsection.get("fields")):
                if entry.get("type") == "capability":
                    return _capabilities_by_size(entry.get("array_len", 1), entry.get("size"))
        return ()


def find_ahead(cursor: Cursor) -> Description | None:
    """Find the next thing that may be a description behind an EOF mark.

    JSON has no control characters and its mark is one, so two descriptions never overlap. The
    time grows only with the number of bytes, whatever they are.

    Parameters
    ----------
    cursor : Cursor
        Where to begin; left behind the mark.

    Returns
    -------
    Description or None
        Whether it is that of a stream only a walk can tell.
    """
    while True:
        try:
            cursor.skip_to(_EOF_AND_MARK)
        except TruncatedError:
            return None
        cursor.skip(1)
        offset = cursor.tell()
        length = int.from_bytes(cursor.peek(_HEAD_LENGTH)[1:], "big")
        raw = _text_ahead(cursor, length) if length <= MAX_JSON_LENGTH else b""
        cursor.skip(1)
        if raw:
            with suppress(FormatError):
                return Description.parse(raw, offset)


def _text_ahead(cursor: Cursor, length: int) -> bytes:
    """Peek at the JSON of that length behind the next mark; b"" if there is no such JSON."""
    text = b""
    known = 1
    while len(text) < length:
        known = min(known * 16, length)
        data = cursor.peek(_HEAD_LENGTH + known)[_HEAD_LENGTH:]
        if len(data) < known or data[:1] != b"{" or _CONTROL.search(data, len(text)):
            return b""
        text = data
    return text


def find_at_end(pread: Callable[[int, int], bytes], end: int) -> Description | None:
    """Find the description that ends a file, without walking the stream.

    Parameters
    ----------
    pread : callable
        ``pread(length, offset)`` returns bytes of the file, fewer only at its end.
    end : int
        Length of the file.

    Returns
    -------
    Description or None
        None where the file does not end in one.
    """
    text = text_at_end(pread, end)
    return Description.parse(text, end - len(text) - _HEAD_LENGTH) if text else None


def text_at_end(pread: Callable[[int, int], bytes], end: int) -> bytes:
    """Find the text of the description that ends a file.

    JSON has no control characters, and the length before it begins with one, so the
    last control character of the file lies in that length.

    Parameters
    ----------
    pread : callable
        ``pread(length, offset)`` returns bytes of the file, fewer only at its end.
    end : int
        Length of the file.

    Returns
    -------
    bytes
        Empty where the file does not end in one.
    """
    tail = b""
    step = _FIRST_STEP
    while len(tail) < min(end, MAX_JSON_LENGTH + _HEAD_LENGTH):
        length = min(step, end - len(tail))
        step *= 4
        piece = _pread_all(pread, length, end - len(tail) - length)
        tail = piece + tail
        last_control = len(piece.rstrip(_JSON_BYTES)) - 1
        if last_control < 0:
            continue
        # The length's first byte is that character, or comes before it.
        if last_control < _HEAD_LENGTH - 1 and len(tail) < end:
            more = min(_HEAD_LENGTH, end - len(tail))
            tail = _pread_all(pread, more, end - len(tail) - more) + tail
            last_control += more
        for mark in range(last_control - 1, max(last_control - _HEAD_LENGTH, -1), -1):
            text = tail[mark + _HEAD_LENGTH :]
            head = ItemType.VMDESCRIPTION << 32 | len(text)
            if tail[mark : mark + _HEAD_LENGTH] == head.to_bytes(5, "big") and text[:1] == b"{":
                return text
        return b""
    return b""


def _pread_all(pread: Callable[[int, int], bytes], length: int, offset: int) -> bytes:
    data = bytearray()
    while len(data) < length and (piece := pread(length - len(data), offset + len(data))):
        data += piece
    return bytes(data)


@contextmanager
def _complaints_at(offset: int) -> Iterator[None]:
    try:
        yield
    except CorruptError as error:
        if error.offset is None:
            error.offset = offset
        raise
    except RecursionError as error:
        raise CorruptError("vmdescription nests too deeply", offset=offset) from error


# Sizes.


def _first_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):  # inlined list types repeat their keys (format.md 7.1)
        members.update(reversed(pairs))
    return members


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _section_lengths(document: object) -> dict[tuple[str, int], int]:
    if not isinstance(document, dict):
        raise CorruptError("the vmdescription is not a JSON object")
    lengths: dict[tuple[str, int], int] = {}
    for device in _objects(document.get("devices")):
        name = device.get("name")
        if not isinstance(name, str):
            raise CorruptError("vmdescription holds a device without a name")
        key = name, _number(device, "instance_id")
        length = _length(device, 0) if "vmsd_name" in device else _number(device, "size")
        if length is None:
            continue
        if length > MAX_SECTION_LENGTH:
            raise CorruptError(f"vmdescription makes section {name!r} {length} bytes long")
        if lengths.setdefault(key, length) != length:
            raise CorruptError(f"vmdescription describes {name!r} twice, with different lengths")
    return lengths


def _length(vmsd: dict[str, Any], depth: int) -> int | None:
    """Sum up what a device or subsection takes on the wire, None where sizes cannot tell."""
    if depth > MAX_DEPTH:
        raise CorruptError(f"vmdescription nests subsections more than {MAX_DEPTH} deep")
    total = 0
    for entry in _objects(vmsd.get("fields")):
        if entry.get("type") == "capability":  # an array has the size of its first (6.3)
            return None
        # The size covers everything inside a struct, including its subsections.
        count = _number(entry, "array_len") if "array_len" in entry else 1
        total += _number(entry, "size") * count
    for subsection in _objects(vmsd.get("subsections")):
        name = subsection.get("vmsd_name")
        if not isinstance(name, str):
            raise CorruptError("vmdescription holds a subsection without a name")
        inner = _length(subsection, depth + 1)
        if inner is None:
            return None
        total += SUBSECTION_OVERHEAD + len(encode_name(name)) + inner
    return total


def _object(value: object) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise CorruptError("vmdescription holds something else where an object belongs")
    return value


def _objects(value: object) -> Iterator[dict[str, Any]]:
    if value is None:
        return
    if not isinstance(value, list):
        raise CorruptError("vmdescription holds something else where a list belongs")
    yield from map(_object, value)


def _number(entry: dict[str, Any], key: str) -> int:
    value = entry.get(key)
    if type(value) is not int or not 0 <= value <= MAX_SECTION_LENGTH:
        raise CorruptError(f"the vmdescription has {value!r} as {key}")
    return value


# The capabilities in the text.


def _capabilities_by_size(count: object, first_size: object) -> tuple[str, ...]:
    for start in range(len(VALIDATED_CAPABILITIES)):
        names = VALIDATED_CAPABILITIES[start:]
        if first_size == 1 + len(names[0]) and isinstance(count, int) and 1 <= count <= len(names):
            return names[:count]
    raise UnsupportedError("vmdescription counts capabilities that this release does not know")


def _capabilities_entry(names: Sequence[str]) -> str:
    import json

    array = {"array_len": len(names)} if len(names) > 1 else {}
    size = 1 + len(encode_name(names[0]))
    return json.dumps(
        {
            "vmsd_name": CAPABILITIES_SUBSECTION,
            "version": 1,
            "fields": [
                {"name": "caps_count", "type": "uint32", "size": 4},
                {"name": "capabilities", **array, "type": "capability", "size": size},
            ],
        }
    )


def _with_subsection(text: str, configuration: _Span, entry: str) -> str:
    """Put `entry` in the place of the capabilities' subsection; "" takes it away."""
    _expect(text, configuration.start, "{")
    subsections = _member(text, configuration.start, "subsections")
    if subsections is None:
        if not entry:
            return text
        members = list(_spans(text, configuration.start))
        before = ", " if members else ""
        place = members[-1].end if members else configuration.start + 1
        return f'{text[:place]}{before}"subsections": [{entry}]{text[place:]}'

    import json

    _expect(text, subsections.start, "[")
    entries = list(_spans(text, subsections.start))
    names = [_object(json.loads(text[span.start : span.end])).get("vmsd_name") for span in entries]
    if CAPABILITIES_SUBSECTION not in names:
        if not entry:
            return text
        # QEMU puts it here: after the page bits, before the UUID.
        if PAGE_BITS_SUBSECTION in names:
            at = entries[names.index(PAGE_BITS_SUBSECTION)].end
            return f"{text[:at]}, {entry}{text[at:]}"
        at = entries[0].start if entries else subsections.start + 1
        return f"{text[:at]}{entry}{', ' if entries else ''}{text[at:]}"

    index = names.index(CAPABILITIES_SUBSECTION)
    if entry:
        return text[: entries[index].start] + entry + text[entries[index].end :]
    if len(entries) > 1:
        return _without(text, entries, index)
    members = list(_spans(text, configuration.start))
    return _without(text, members, [member.key for member in members].index("subsections"))


@dataclass(frozen=True, slots=True)
class _Span:
    """Where a value lies in the text; `first` is where its key begins, if it has one."""

    key: str | None
    first: int
    start: int
    end: int


def _without(text: str, spans: list[_Span], index: int) -> str:
    """Cut one of several members or elements out, with the separator it leaves over."""
    if index > 0:
        return text[: spans[index - 1].end] + text[spans[index].end :]
    if len(spans) > 1:
        return text[: spans[0].first] + text[spans[1].first :]
    return text[: spans[0].first] + text[spans[0].end :]


def _expect(text: str, start: int, opening: str) -> None:
    if text[start] != opening:
        raise CorruptError(f"vmdescription holds {text[start]!r} where {opening!r} belongs")


def _member(text: str, start: int, key: str) -> _Span | None:
    return next((span for span in _spans(text, start) if span.key == key), None)


def _spans(text: str, start: int) -> Iterator[_Span]:
    """Find the members of the object, or the elements of the list, that begins at `start`.

    The text has been parsed before, so it is well-formed.
    """
    import json

    decoder = json.JSONDecoder()
    closing = {"{": "}", "[": "]"}[text[start]]
    at = _after_space(text, start + 1)
    while text[at] != closing:
        first, key = at, None
        if closing == "}":
            key, at = decoder.raw_decode(text, at)
            at = _after_space(text, _after_space(text, at) + 1)
        _, end = decoder.raw_decode(text, at)
        yield _Span(key, first, at, end)
        at = _after_space(text, end)
        if text[at] == ",":
            at = _after_space(text, at + 1)


def _after_space(text: str, at: int) -> int:
    while text[at] in " \t\n\r":
        at += 1
    return at
