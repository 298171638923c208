"""Texts in the guest's memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from savefmt.image import SaveImage
from savefmt.model import IOOptions, OnProgress
from savefmt.native.content import TEXT_ENCODINGS, text_runs
from savefmt.scan.results import Text
from savefmt.scan.windows import Memory, Window

LEAST = 4
"""Characters that make a text, unless asked for otherwise."""

PIECE_LENGTH = 64 << 10
"""Characters of a text, about: a longer one comes in pieces, so that memory is bounded."""


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
        Told of the work done; returning False cancels.

    Yields
    ------
    Text
        In the order of the blocks and of places in them.

    Raises
    ------
    ValueError
        If the encoding is not known, or `least` is no length.
    """
    if encoding not in TEXT_ENCODINGS:
        raise ValueError(f"encoding {encoding!r} is none of {', '.join(TEXT_ENCODINGS)}")
    if not 1 <= least <= PIECE_LENGTH:
        raise ValueError(f"a text has 1 to {PIECE_LENGTH} characters at least, not {least}")
    memory = memory or Memory(image, blocks, io=io, progress=progress)
    return _texts(memory, least, encoding)


@dataclass(slots=True)
class _Part:
    """A stretch of characters that touches an end of its window, and may go on there.

    `told` is set when a piece of it was yielded: then any rest of it counts.
    """

    block: str
    start: int
    end: int
    text: str
    told: bool = False

    def joined(self, other: _Part) -> _Part | None:
        """Return both as one where the other follows without a gap."""
        if self.block != other.block or self.end != other.start:
            return None
        return _Part(self.block, self.start, other.end, self.text + other.text, self.told)


@dataclass(frozen=True, slots=True)
class _Found:
    """Texts of one window: whole ones, and the parts at its ends, which may be one."""

    first: _Part | None
    whole: list[Text]
    last: _Part | None


def _texts(memory: Memory, least: int, encoding: str) -> Iterator[Text]:
    def told(part: _Part | None) -> Iterator[Text]:
        if part is not None and part.text and (part.told or len(part.text) >= least):
            yield Text(part.block, part.start, part.text)

    pending: _Part | None = None
    for found in memory.each(lambda window: _look(window, least, encoding)):
        first, last = found.first, found.last
        if first is not None and pending is not None and (joined := pending.joined(first)):
            last = joined if last is first else last
            first, pending = joined, None
        yield from told(pending)
        pending = last
        if first is not last:
            yield from told(first)
        yield from found.whole
        if pending is not None and len(pending.text) >= PIECE_LENGTH:
            yield from told(pending)
            pending = _Part(pending.block, pending.end, pending.end, "", told=True)
    yield from told(pending)


def _look(window: Window, least: int, encoding: str) -> _Found:
    content = bytes(window.content)
    # All at once: a character is a byte, or the one of two that is not zero.
    step, skipped = (1, 0) if encoding == "ascii" else (2, int(encoding == "utf-16be"))
    characters = content[skipped::step].decode("latin-1")
    block, base = window.stretch.block, window.stretch.start
    runs = list(text_runs(content, encoding, least))
    edges: list[_Part | None] = [None, None]
    for edge, touches in (
        (0, runs and runs[0][0] == 0),
        (1, runs and sum(runs[-1]) == len(content)),
    ):
        if touches:
            at, length = runs[-edge]
            text = characters[at // step : (at + length) // step]
            edges[edge] = _Part(block, base + at, base + at + length, text)
    first, last = edges
    if first is not None and last is not None and len(runs) == 1:
        return _Found(first, [], first)
    inner = runs[first is not None : len(runs) - (last is not None)]
    whole = [
        Text(block, base + at, characters[at // step : (at + length) // step])
        for at, length in inner
    ]
    return _Found(first, whole, last)
