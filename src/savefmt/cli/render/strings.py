"""What ``savefmt strings`` prints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypedDict

from savefmt.cli.render.document import Hex
from savefmt.cli.render.plain import plain

if TYPE_CHECKING:
    from savefmt.scan.results import Text
    from savefmt.scan.search import Places


class TextValues(TypedDict):
    """A text, and where it begins."""

    block: str
    offset: int
    physical: list[Hex]
    text: str


def text_lines(texts: Iterable[Text], places: Places, kind: str) -> Iterator[str]:
    """Show texts, one a line.

    Parameters
    ----------
    texts : iterable of Text
        In order.
    places : Places
        Tells physical addresses.
    kind : str
        What stands before each: ``block``, ``physical`` or ``none``.

    Yields
    ------
    str
        One line.
    """
    if kind == "physical":
        for block, offset, text in texts:
            addresses = places.physical(block, offset)
            yield f"{','.join(map(hex, addresses)) or '-'} {_shown(text)}"
    elif kind == "none":
        yield from (_shown(text) for _, _, text in texts)
    else:
        for block, offset, text in texts:
            yield f"{plain(block)}+{offset:#x} {_shown(text)}"


def _shown(text: str) -> str:
    return text.replace("\t", "\\t") if "\t" in text else text


def text_values(texts: Iterable[Text], places: Places) -> Iterator[TextValues]:
    """Turn texts into what JSON can hold, one by one."""
    for block, offset, text in texts:
        physical = [hex(at) for at in places.physical(block, offset)]
        yield {"block": block, "offset": offset, "physical": physical, "text": text}
