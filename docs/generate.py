"""Write the tables of choosing-a-format.md from the data that savefmt uses.

``python docs/generate.py`` updates the page; a test checks that it is current.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from savefmt.compat import machines
from savefmt.compat.machines import Machine
from savefmt.compat.pitfalls import PITFALLS, Span
from savefmt.compat.releases import FACTS, MILESTONES, Reader
from savefmt.compat.rules import Obstacle, Weight, obstacles
from savefmt.compat.traits import Form, Traits
from savefmt.format.features import FEATURES
from savefmt.model import Layout

PAGE = Path(__file__).parent / "choosing-a-format.md"
_PLACE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

FORMS = {
    "version 1, raw": Form(1, Layout.SEQUENTIAL, "raw"),
    "version 2, raw": Form(2, Layout.SEQUENTIAL, "raw"),
    "version 2, gzip, bzip2, xz or lzop": Form(2, Layout.SEQUENTIAL, "gzip"),
    "version 2, zstd": Form(2, Layout.SEQUENTIAL, "zstd"),
    "`upstream`: version 2, sparse": Form(2, Layout.MAPPED_RAM, "raw"),
    "version 3, raw": Form(3, Layout.SEQUENTIAL, "raw"),
    "version 3, sparse": Form(3, Layout.MAPPED_RAM, "raw"),
    "raw, with command 11": Form(None, Layout.SEQUENTIAL, "raw", switchover=True),
}
"""The columns; libvirt loads none of the last, which stands for bare streams."""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def judged(form: Form, reader: Reader) -> list[Obstacle]:
    """What keeps a reader from loading a form, without the machine type."""
    found = obstacles(Traits(form, Machine.parse("none")), reader)
    return [obstacle for obstacle in found if obstacle.code != "machine"]


def readers() -> str:
    """Who loads what, with the conditions as notes."""
    conditions: list[str] = []

    def cell(form: Form, reader: Reader) -> str:
        found = judged(form, reader)
        if any(obstacle.weight is Weight.BLOCK for obstacle in found):
            return "no"
        for obstacle in found:
            if obstacle.reason not in conditions:
                conditions.append(obstacle.reason)
        marks = sorted(conditions.index(obstacle.reason) + 1 for obstacle in found)
        return "yes" + "".join(f" [{mark}]" for mark in marks)

    rows = [
        [str(reader), *(cell(form, reader) for form in FORMS.values())] for reader in MILESTONES
    ]
    notes = "".join(f"\n{number}. {text}" for number, text in enumerate(conditions, 1))
    return f"{table(['reader', *FORMS], rows)}\nThe conditions:\n{notes}\n"


def facts() -> str:
    """What releases added and removed, with sources."""

    def rows() -> Iterator[Sequence[str]]:
        for fact in FACTS:
            since = str(fact.since) if fact.since is not None else "never released"
            about = "" if fact.certain else "about "
            until = str(fact.until) if fact.until is not None else ""
            name = "QEMU" if fact.program == "qemu" else "libvirt"
            yield name, fact.what, about + since, until, fact.source

    return table(["program", "what", "came with", "removed in", "source"], rows())


def pitfalls() -> str:
    """What goes wrong between two releases."""

    def span(ends: Span) -> str:
        first, end = ends
        words = (f"from {first} on" if first else "", f"before {end}" if end else "")
        return ", ".join(filter(None, words))

    rows = [
        [span(p.libvirt), span(p.qemu), p.what, p.remedy.replace("|", "\\|"), p.source]
        for p in PITFALLS
    ]
    return table(["libvirt", "QEMU", "what happens", "what to do", "source"], rows)


def types() -> str:
    """Machine types that were removed by name."""
    rows = [
        [f"`{family}`", f"up to {newest}", str(gone)] for family, newest, gone in machines.REMOVED
    ]
    return table(["family", "versions", "removed in QEMU"], rows)


def features() -> str:
    """Bits of version 3's word."""
    rows = [[str(f.bit), f"`{f.name}`", f.meaning, f.since] for f in FEATURES]
    return table(["bit", "name", "meaning", "since"], rows)


TABLES: dict[str, Callable[[], str]] = {
    "readers": readers,
    "facts": facts,
    "pitfalls": pitfalls,
    "types": types,
    "features": features,
}


def renewed(page: str) -> str:
    """Return the page with new tables."""
    return _PLACE.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}{found[3]}", page)


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text()))
