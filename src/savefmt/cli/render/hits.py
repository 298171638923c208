"""Matches and texts, one after the other, in each form of output."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from savefmt.cli.render.common import SCHEMA, plain
from savefmt.scan.results import Hit

_SHOWN_LENGTH = 64
_FLUSHED = 100
"""The first ones are to be seen at once; later on whole buffers do."""
_MARK, _RESET = "\x1b[1;31m", "\x1b[0m"
_COLUMNS = (
    "pattern",
    "block",
    "offset",
    "length",
    "physical",
    "virtual",
    "data",
    "before",
    "after",
)


def visible(data: bytes) -> str:
    """Show bytes as text, a dot for each that is no printable character of ASCII."""
    return "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in data)


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


def hit_fields(hit: Hit) -> dict[str, Any]:
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


def show_text(hits: Iterator[Hit], color: bool) -> int:
    """Print lines, each at once; return how many."""
    count = 0
    for hit in hits:
        print(hit_line(hit, color), flush=count < _FLUSHED)
        count += 1
    return count


def stream_json(output: str, name: str, items: Iterable[dict[str, Any]]) -> int:
    """Print items as they come; return how many.

    Parameters
    ----------
    output : str
        ``jsonl`` for one object a line; else one document, which is whole even when
        reading fails half-way.
    name : str
        Its member that holds the items.
    items : iterable of dict
        What JSON can hold.

    Returns
    -------
    int
        How many there were.
    """
    count = 0
    if output == "jsonl":
        for item in items:
            print(json.dumps({"schema": SCHEMA, **item}), flush=count < _FLUSHED)
            count += 1
        return count
    complete = False
    print(f'{{"schema": {SCHEMA}, "{name}": [', end="")
    try:
        for item in items:
            print(f"{',' if count else ''}\n  {json.dumps(item)}", end="")
            count += 1
        complete = True
    finally:
        print(f'\n], "complete": {json.dumps(complete)}}}')
    return count


def show_csv(hits: Iterator[Hit], color: bool = False) -> int:
    """Print a table with a heading, as RFC 4180 has it."""
    writer = csv.writer(sys.stdout)
    writer.writerow(_COLUMNS)
    count = 0
    for hit in hits:
        row = hit_fields(hit) | {
            "pattern": plain(hit.pattern),
            "block": plain(hit.block),
            "offset": hex(hit.offset),
            "physical": " ".join(map(hex, hit.physical)),
            "virtual": " ".join(map(hex, hit.virtual)),
        }
        writer.writerow([row[column] for column in _COLUMNS])
        count += 1
        if count < _FLUSHED:
            sys.stdout.flush()
    return count


def show_count(count: int, output: str) -> None:
    """Print how many there are."""
    print(json.dumps({"schema": SCHEMA, "count": count}) if output.startswith("json") else count)


SHOWN_AS: dict[str, Callable[[Iterator[Hit], bool], int]] = {
    "human": show_text,
    "json": lambda hits, _: stream_json("json", "hits", map(hit_fields, hits)),
    "jsonl": lambda hits, _: stream_json("jsonl", "hits", map(hit_fields, hits)),
    "csv": show_csv,
}
