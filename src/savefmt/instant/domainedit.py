"""Changes to a domain XML, as text: everything else stays the same, byte for byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

from savefmt.format.domain import check_document
from savefmt.frozen import dataclass

NAMESPACE = "http://libvirt.org/schemas/domain/qemu/1.0"
_COMMANDLINE, _ARG = f"{NAMESPACE} commandline", f"{NAMESPACE} arg"


@dataclass(frozen=True, slots=True)
class Span:
    """An element: its path with namespaces, and where it begins, its content ends, it ends.

    `inner_end` is None for an element that is closed in its start tag.
    """

    path: tuple[str, ...]
    value: str | None
    start: int
    inner_end: int | None
    end: int


def spans_of(xml: bytes) -> list[Span]:
    """Find all elements of a domain XML.

    Raises
    ------
    CorruptError
        If it is not well-formed, or not plain.
    """
    check_document(xml, "domain")
    parser = expat.ParserCreate("UTF-8", namespace_separator=" ")
    opened: list[tuple[tuple[str, ...], str | None, int]] = []
    found: list[Span] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        path = (*(opened[-1][0] if opened else ()), name)
        opened.append((path, attributes.get("value"), parser.CurrentByteIndex))

    def end(_name: str) -> None:
        path, value, begin = opened.pop()
        opened_until = _tag_end(xml, begin)
        if xml[opened_until - 2 : opened_until] == b"/>":
            found.append(Span(path, value, begin, None, opened_until))
        else:
            inner = parser.CurrentByteIndex
            found.append(Span(path, value, begin, inner, _tag_end(xml, inner)))

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.Parse(xml, True)
    return sorted(found, key=lambda span: span.start)


def _tag_end(xml: bytes, at: int) -> int:
    """Return where the tag at `at` ends; a quoted ``>`` ends none."""
    quote = None
    for place in range(at, len(xml)):
        letter = xml[place : place + 1]
        if quote is not None:
            quote = None if letter == quote else quote
        elif letter in (b"'", b'"'):
            quote = letter
        elif letter == b">":
            return place + 1
    return len(xml)


def with_texts(xml: bytes, texts: dict[tuple[str, ...], str]) -> bytes:
    """Give plain elements, such as the name, another text; those that are absent stay so."""
    edits = [
        (span.start, span.end, f"<{span.path[-1]}>{escape(texts[span.path])}</{span.path[-1]}>")
        for span in spans_of(xml)
        if span.path in texts
    ]
    return _edited(xml, edits)


def with_arguments(xml: bytes, arguments: Sequence[str]) -> bytes:
    """Add words to the command line that libvirt starts QEMU with."""
    words = "".join(f"<q:arg xmlns:q='{NAMESPACE}' value={quoteattr(word)}/>" for word in arguments)
    whole = f"<q:commandline xmlns:q='{NAMESPACE}'>{words}</q:commandline>"
    for span in reversed(spans_of(xml)):  # the root comes last
        if span.path == ("domain", _COMMANDLINE):
            if span.inner_end is None:
                return _edited(xml, [(span.start, span.end, whole)])
            return _edited(xml, [(span.inner_end, span.inner_end, words)])
        if span.path == ("domain",) and span.inner_end is not None:
            return _edited(xml, [(span.inner_end, span.inner_end, whole)])
    return _edited(xml, [(0, len(xml), f"<domain>{whole}</domain>")])


def without_arguments(xml: bytes, unwanted: Callable[[str], bool]) -> bytes:
    """Take options out of that command line: words before a value that is unwanted, and it."""
    spans = spans_of(xml)
    arguments = [span for span in spans if span.path == ("domain", _COMMANDLINE, _ARG)]
    dropped = set(_options(arguments, unwanted))
    lines = [span for span in spans if span.path == ("domain", _COMMANDLINE)]
    edits = [(span.start, span.end, "") for span in arguments if span.start in dropped]
    for line in lines:
        within = [s for s in spans if line.start < s.start < line.end]
        if within and all(span.start in dropped for span in within):
            edits = [e for e in edits if not line.start < e[0] < line.end]
            edits.append((line.start, line.end, ""))
    return _edited(xml, edits)


def _options(arguments: Sequence[Span], unwanted: Callable[[str], bool]) -> Iterator[int]:
    for before, argument in pairwise(arguments):
        if argument.value is not None and unwanted(argument.value):
            yield before.start
            yield argument.start


def _edited(xml: bytes, edits: Sequence[tuple[int, int, str]]) -> bytes:
    for start, end, text in sorted(edits, reverse=True):
        xml = xml[:start] + text.encode() + xml[end:]
    return xml
