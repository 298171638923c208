"""Texts in the guest's memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from savefmt.image import SaveImage
from savefmt.model import IOOptions, OnProgress
from savefmt.native.content import TEXT_ENCODINGS, LineFormat, text_lines, text_runs
from savefmt.scan.results import Text
from savefmt.scan.windows import Memory, Stretch, Window

T = TypeVar("T")

LEAST = 4
"""Characters that make a text, unless asked for otherwise."""

PIECE_LENGTH = 64 << 10
"""Characters of a text, about: a longer one comes in pieces, so that memory is bounded."""


class TextLines(Protocol):
    """What lines about texts look like."""

    def form(self, stretch: Stretch) -> LineFormat | None:
        """Return the form of the lines of a stretch; None where one form does not fit all."""

    def line(self, text: Text) -> str:
        """Write one line, with its end."""


def strings(
    image: SaveImage,
    *,
    least: int = LEAST,
    encoding: str = "ascii",
    blocks: Sequence[str] | None = None,
    memory: Memory | None = None,
    io: IOOptions = IOOptions(),
    progress: OnProgress | None = None,
) -> Iterator[Text]:
    """Yield the stretches of printable characters in all of memory.

    Printable are the characters of ASCII from space to tilde, and tab.  Those of UTF-16
    lie at even offsets.  A text may go over pages, yet not over one that is zero.

    Parameters
    ----------
    image : SaveImage
        Of any form.
    least : int
        Fewer characters make no text; at least 1.
    encoding : str
        ``ascii``, ``utf-16le`` or ``utf-16be``.
    blocks : sequence of str, optional
        Only these.
    memory : Memory, optional
        What to go through instead of the image's blocks: that of processes.
    io : IOOptions
        Threads.
    progress : callable, optional
        Called with the work done so far; it cancels by returning False.

    Yields
    ------
    Text
        In the order of the blocks and of places in them.

    Raises
    ------
    ValueError
        If the encoding is not known, or `least` is no length.
    """
    _refuse_nonsense(least, encoding)
    memory = memory or Memory(image, blocks, io=io, progress=progress)

    def whole(window: Window, content: bytes) -> list[Text]:
        return list(_inner(window, content, least, encoding))

    return _each_text(memory, least, encoding, whole)


def _each_text(
    memory: Memory, least: int, encoding: str, whole: Callable[[Window, bytes], list[Text]]
) -> Iterator[Text]:
    for found in _joined(memory, least, encoding, whole):
        if isinstance(found, Text):
            yield found
        else:
            yield from found


def string_lines(
    image: SaveImage,
    lines: TextLines,
    *,
    least: int = LEAST,
    encoding: str = "ascii",
    blocks: Sequence[str] | None = None,
    memory: Memory | None = None,
    io: IOOptions = IOOptions(),
    progress: OnProgress | None = None,
) -> Iterator[bytes]:
    """Yield lines about the texts that `strings` yields, many at a time.

    The C core makes them where the lines of a window differ in place and text alone.

    Parameters
    ----------
    image, least, encoding, blocks, memory, io, progress
        As for `strings`.
    lines : TextLines
        What the lines look like.

    Yields
    ------
    bytes
        Whole lines, in ASCII.

    Raises
    ------
    ValueError
        As for `strings`.
    """
    _refuse_nonsense(least, encoding)
    memory = memory or Memory(image, blocks, io=io, progress=progress)

    def whole(window: Window, content: bytes) -> bytes:
        form = lines.form(window.stretch)
        if form is not None:
            return text_lines(content, encoding, least, form)
        return "".join(map(lines.line, _inner(window, content, least, encoding))).encode()

    return (
        lines.line(found).encode() if isinstance(found, Text) else found
        for found in _joined(memory, least, encoding, whole)
    )


def _refuse_nonsense(least: int, encoding: str) -> None:
    if encoding not in TEXT_ENCODINGS:
        raise ValueError(f"encoding {encoding!r} is not one of {', '.join(TEXT_ENCODINGS)}")
    if not 1 <= least <= PIECE_LENGTH:
        raise ValueError(f"a text has 1 to {PIECE_LENGTH} characters at least, not {least}")


class _Fragment:
    """A stretch of characters that touches an end of its window, and may go on there.

    `told` is set when a piece of it was yielded: then any rest of it counts.
    """

    __slots__ = ("block", "end", "start", "text", "told")

    def __init__(self, block: str, start: int, end: int, text: str, told: bool = False) -> None:
        self.block = block
        self.start = start
        self.end = end
        self.text = text
        self.told = told

    def joined(self, other: _Fragment) -> _Fragment | None:
        """Return both as one where the other follows without a gap."""
        if self.block != other.block or self.end != other.start:
            return None
        return _Fragment(self.block, self.start, other.end, self.text + other.text, self.told)


class _Found(Generic[T]):
    """Texts of one window: whole ones, and the parts at its ends, which may be one."""

    def __init__(self, first: _Fragment | None, whole: T, last: _Fragment | None) -> None:
        self.first = first
        self.whole = whole
        self.last = last


def _joined(
    memory: Memory, least: int, encoding: str, whole: Callable[[Window, bytes], T]
) -> Iterator[Text | T]:
    """Yield what `whole` makes of each window, and between these the texts at their ends."""

    def told(part: _Fragment | None) -> Iterator[Text]:
        if part is not None and part.text and (part.told or len(part.text) >= least):
            yield Text(part.block, part.start, part.text)

    def look(window: Window) -> _Found[T]:
        whole_window = len(window.data) == window.stretch.length
        content = window.data if whole_window else bytes(window.content)
        first, last = _ends(window, content, encoding)
        return _Found(first, whole(window, content), last)

    pending: _Fragment | None = None
    for found in memory.each(look):
        first, last = found.first, found.last
        if first is not None and pending is not None and (joined := pending.joined(first)):
            last = joined if last is first else last
            first, pending = joined, None
        yield from told(pending)
        pending = last
        if first is not last:
            yield from told(first)
        yield found.whole
        if pending is not None and len(pending.text) >= PIECE_LENGTH:
            yield from told(pending)
            pending = _Fragment(pending.block, pending.end, pending.end, "", told=True)
    yield from told(pending)


def _ends(
    window: Window, content: bytes, encoding: str
) -> tuple[_Fragment | None, _Fragment | None]:
    """Return the characters at the beginning and at the end; one part where all are."""
    block, base = window.stretch.block, window.stretch.start

    def part(at: int, length: int) -> _Fragment:
        text = _characters(content, encoding, at, length)
        return _Fragment(block, base + at, base + at + length, text)

    # No run is as long as this, so only those that touch an end are told.
    runs = list(text_runs(content, encoding, len(content) + 1))
    first = part(*runs[0]) if runs and runs[0][0] == 0 else None
    if first is not None and first.end - base == len(content):
        return first, first
    last = part(*runs[-1]) if runs and sum(runs[-1]) == len(content) else None
    return first, last


def _inner(window: Window, content: bytes, least: int, encoding: str) -> Iterator[Text]:
    """Yield the texts of a window that touch neither end of it."""
    block, base = window.stretch.block, window.stretch.start
    for at, length in text_runs(content, encoding, least):
        if at > 0 and at + length < len(content):
            yield Text(block, base + at, _characters(content, encoding, at, length))


def _characters(content: bytes, encoding: str, at: int, length: int) -> str:
    # A character is a byte, or the one of two that is not zero.
    step, skipped = (1, 0) if encoding == "ascii" else (2, int(encoding == "utf-16be"))
    return content[at + skipped : at + length : step].decode("ascii")
