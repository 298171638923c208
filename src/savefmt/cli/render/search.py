"""What ``savefmt search`` prints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import TypedDict

from savefmt.cli.render.document import Hex, json_text
from savefmt.cli.render.plain import cell, plain
from savefmt.scan.results import Hit

_SHOWN_LENGTH = 64
_VISIBLE = bytes(byte if 0x20 <= byte < 0x7F else ord(".") for byte in range(256))
_MARK, _RESET = "\x1b[1;31m", "\x1b[0m"


class HitValues(TypedDict):
    """A match: its place and its addresses; bytes are hexadecimal digits."""

    pattern: str
    block: str
    offset: int
    length: int
    physical: list[Hex]
    virtual: list[Hex]
    data: str
    before: str
    after: str


COLUMNS = tuple(HitValues.__annotations__)
"""Of ``--output=csv``."""


def visible(data: bytes) -> str:
    """Show bytes as text, a dot for each that is no printable character of ASCII."""
    return data.translate(_VISIBLE).decode("ascii")


def hit_line(hit: Hit, color: bool) -> str:
    """Give one line of ``savefmt search``: block and offset, addresses, content."""
    place = f"{plain(hit.block)}+{hit.offset:#x}"
    physical = ",".join(f"{address:#x}" for address in hit.physical) or "-"
    virtual = "".join(f" v={address:#x}" for address in hit.virtual)
    shown = visible(hit.data[:_SHOWN_LENGTH])
    if color:
        shown = f"{_MARK}{shown}{_RESET}"
    more = "..." if hit.length > _SHOWN_LENGTH else visible(hit.after)
    return f"{place:<24} p={physical}{virtual}  {visible(hit.before)}{shown}{more}"


def hit_values(hit: Hit) -> HitValues:
    """Turn a match into what JSON can hold: addresses as numbers in text, bytes as digits."""
    return {
        "pattern": hit.pattern.encode("utf-8", "surrogateescape").decode("utf-8", "replace"),
        "block": hit.block,
        "offset": hit.offset,
        "length": hit.length,
        "physical": [hex(address) for address in hit.physical],
        "virtual": [hex(address) for address in hit.virtual],
        "data": hit.data.hex(),
        "before": hit.before.hex(),
        "after": hit.after.hex(),
    }


def hit_object(hit: Hit) -> str:
    """Write what `hit_values` returns as JSON, in a quarter of the time."""
    physical = ", ".join([f'"{address:#x}"' for address in hit.physical])
    virtual = ", ".join([f'"{address:#x}"' for address in hit.virtual])
    return (
        f"{_named(hit.pattern, hit.block)}"
        f'"offset": {hit.offset}, "length": {hit.length}, '
        f'"physical": [{physical}], "virtual": [{virtual}], "data": "{hit.data.hex()}", '
        f'"before": "{hit.before.hex()}", "after": "{hit.after.hex()}"}}'
    )


@lru_cache(1024)
def _named(pattern: str, block: str) -> str:
    """Begin the object of a match."""
    pattern = pattern.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return f'{{"pattern": {json_text(pattern)}, "block": {json_text(block)}, '


def csv_rows(hits: Iterable[Hit]) -> Iterator[dict[str, object]]:
    """Yield a row of ``--output=csv`` for each match, by `COLUMNS`."""
    for hit in hits:
        yield {
            **hit_values(hit),
            "pattern": cell(hit.pattern),
            "block": cell(hit.block),
            "offset": hex(hit.offset),
            "physical": " ".join(map(hex, hit.physical)),
            "virtual": " ".join(map(hex, hit.virtual)),
        }
