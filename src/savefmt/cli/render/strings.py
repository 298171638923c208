"""What ``savefmt strings`` prints: a line a text."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import TypedDict

from savefmt.cli.render.document import SCHEMA, Hex
from savefmt.cli.render.plain import plain
from savefmt.native.content import LineFormat
from savefmt.scan.results import Text
from savefmt.scan.search import Places
from savefmt.scan.strings import TextLines
from savefmt.scan.windows import Stretch


class TextValues(TypedDict):
    """A text, and where it begins."""

    block: str
    offset: int
    physical: list[Hex]
    text: str


class _Bare:
    """The text, and nothing else."""

    def form(self, stretch: Stretch) -> LineFormat | None:
        return LineFormat([("text", 0), b"\n"])

    def line(self, text: Text) -> str:
        return f"{_shown(text.text)}\n"


class _InBlock:
    """Block and offset before the text."""

    def form(self, stretch: Stretch) -> LineFormat | None:
        block = plain(stretch.block).encode()
        return LineFormat([block + b"+", ("hex", stretch.start), b" ", ("text", 0), b"\n"])

    def line(self, text: Text) -> str:
        return f"{plain(text.block)}+{text.offset:#x} {_shown(text.text)}\n"


class _Physical:
    """Guest-physical addresses before the text; a dash where the guest sees it nowhere."""

    def __init__(self, places: Places) -> None:
        self._places = places

    def form(self, stretch: Stretch) -> LineFormat | None:
        starts = self._places.physical_of(stretch)
        if starts is None:
            return None
        return LineFormat([*_listed(starts, b"", b","), b" ", ("text", 0), b"\n"])

    def line(self, text: Text) -> str:
        addresses = self._places.physical(text.block, text.offset)
        return f"{','.join(map(hex, addresses)) or '-'} {_shown(text.text)}\n"


class _Json:
    """One JSON object a text: a line of its own, or an item behind a comma."""

    def __init__(self, places: Places, *, item: bool) -> None:
        self._places = places
        self._begin, self._end = (",\n  ", "") if item else ("", "\n")
        self._common = {} if item else {"schema": SCHEMA}

    def form(self, stretch: Stretch) -> LineFormat | None:
        starts = self._places.physical_of(stretch)
        if starts is None:
            return None
        head = self._begin + json.dumps({**self._common, "block": stretch.block})[:-1]
        return LineFormat(
            [
                f'{head}, "offset": '.encode(),
                ("decimal", stretch.start),
                b', "physical": [',
                *(_listed(starts, b'"', b", ") if starts else ()),
                b'], "text": "',
                ("json", 0),
                b'"}' + self._end.encode(),
            ]
        )

    def line(self, text: Text) -> str:
        physical = [hex(at) for at in self._places.physical(text.block, text.offset)]
        fields = {**self._common, "block": text.block, "offset": text.offset}
        found = json.dumps({**fields, "physical": physical, "text": text.text})
        return self._begin + found + self._end


def _listed(starts: tuple[int, ...], quote: bytes, between: bytes) -> list[bytes | tuple[str, int]]:
    """Write addresses one after the other."""
    parts: list[bytes | tuple[str, int]] = []
    for number, start in enumerate(starts):
        parts += [(between if number else b"") + quote, ("hex", start), quote]
    return parts or [b"-"]


def _shown(text: str) -> str:
    return text.replace("\t", "\\t") if "\t" in text else text


_STYLES: dict[str, Callable[[Places], TextLines]] = {
    "block": lambda _: _InBlock(),
    "physical": _Physical,
    "none": lambda _: _Bare(),
    "json": partial(_Json, item=True),
    "jsonl": partial(_Json, item=False),
}


def lines_as(style: str, places: Places) -> TextLines:
    """Return the lines of a style.

    Parameters
    ----------
    style : str
        ``block``, ``physical``, ``none``, ``json`` (items of a list, each behind a comma) or
        ``jsonl``.
    places : Places
        Knows the addresses.

    Returns
    -------
    TextLines
        For `savefmt.scan.strings.string_lines`.
    """
    return _STYLES[style](places)
