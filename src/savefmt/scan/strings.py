"""Texts in the guest's memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from savefmt.image import SaveImage
from savefmt.model import IOOptions, OnProgress
from savefmt.native.content import TEXT_ENCODINGS, text_runs
from savefmt.scan.values import Text
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
    memory = Memory(image, blocks, io=io, progress=progress)
    return _texts(memory, least, encoding)


@dataclass(slots=True)
class _Open:
    """A text that touches the end of its window and may go on in the next.

    `told` is set when a piece of it was yielded: then any rest of it counts.
    """

    block: str
    start: int
    data: bytes
    told: bool = False

    def leads_to(self, other: _Open) -> bool:
        """Whether the other one follows without a gap."""
        return self.block == other.block and self.start + len(self.data) == other.start


def _texts(memory: Memory, least: int, encoding: str) -> Iterator[Text]:
    width = 1 if encoding == "ascii" else 2

    def work(window: Window) -> tuple[Window, list[tuple[int, bytes]]]:
        content = bytes(window.content)
        runs = text_runs(content, encoding, least)
        found = [(at, content[at : at + length]) for at, length in runs]
        return Window(window.stretch, window.stretch.start, b""), found

    def told(part: _Open | None) -> Iterator[Text]:
        if part is not None and part.data and (part.told or len(part.data) >= least * width):
            yield Text(part.block, part.start, part.data.decode(encoding))

    pending: _Open | None = None
    for window, found in memory.each(work):
        block, base, length = window.stretch.block, window.base, window.stretch.length
        for at, data in found:
            part = _Open(block, base + at, data)
            if pending is not None and pending.leads_to(part):
                part = _Open(block, pending.start, pending.data + data, pending.told)
            else:
                yield from told(pending)
            pending = None
            if at + len(data) < length:
                yield from told(part)
            elif len(part.data) >= PIECE_LENGTH * width:
                yield from told(part)
                pending = _Open(block, part.start + len(part.data), b"", told=True)
            else:
                pending = part
    yield from told(pending)
