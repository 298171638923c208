"""What ``savefmt fleet`` prints: a line an image, and a table of the run."""

from __future__ import annotations

from collections import Counter, defaultdict

from savefmt.cli.render.plain import cell, plain
from savefmt.fleet.records import FleetRecord, Outcome

COLUMNS = (
    *("host", "path", "verb", "verdict", "domain", "machine", "reasons", "remedy"),
    *("seconds", "tries"),
)
"""Of a table as CSV; what is a list in a record is joined."""

_WIDE = 10_000
"""Columns of what is no terminal: nothing is to be folded there."""


def csv_row(record: FleetRecord) -> dict[str, object]:
    """Return a record as a row of a table."""
    found = {name: getattr(record, name) for name in COLUMNS}
    return {
        name: cell("; ".join(value) if isinstance(value, tuple) else str(value))
        for name, value in found.items()
    }


def record_line(record: FleetRecord) -> str:
    """Describe one image."""
    why = f": {plain('; '.join(record.reasons))}" if record.reasons else ""
    remedy = f" ({plain('; '.join(record.remedy))})" if record.remedy else ""
    return f"{plain(record.path)}: {record.verdict}{why}{remedy}"


_STYLES = {
    Outcome.GOOD: "green",
    Outcome.FINDINGS: "yellow",
    Outcome.REFUSED: "red",
    Outcome.DAMAGED: "red",
    Outcome.NOT_AN_IMAGE: "yellow",
    Outcome.FAILED: "magenta",
}

_SHOWN = 40
"""Rows of the table for each of machine types and hosts: a fleet has thousands of hosts."""


class Summary:
    """Counts records as they come."""

    def __init__(self) -> None:
        self.verdicts: Counter[Outcome] = Counter()
        self._machines: defaultdict[str, Counter[Outcome]] = defaultdict(Counter)
        self._hosts: defaultdict[str, Counter[Outcome]] = defaultdict(Counter)

    def add(self, record: FleetRecord) -> None:
        """Count one."""
        self.verdicts[record.verdict] += 1
        self._machines[record.machine or "unknown"][record.verdict] += 1
        self._hosts[record.host or "unknown"][record.verdict] += 1

    def print(self, *, color: bool) -> None:
        """Print a table on standard error: machine types and hosts down, verdicts across."""
        import sys

        from rich.box import SIMPLE
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        if sys.stderr is None:
            return
        shown = [verdict for verdict in Outcome if self.verdicts[verdict]]
        table = Table("machine type", box=SIMPLE, show_edge=False, pad_edge=False)
        for verdict in shown:
            table.add_column(verdict, justify="right", style=_STYLES[verdict])

        def add(name: str, counts: Counter[Outcome]) -> None:
            table.add_row(Text(plain(name)), *(str(counts[verdict]) for verdict in shown))

        def add_all(rows: dict[str, Counter[Outcome]]) -> None:
            # Bad results come first: of many rows the last ones are left out.
            order = sorted(rows, key=lambda name: (-_bad(rows[name]), name))
            for name in order[:_SHOWN]:
                add(name, rows[name])
            if rest := order[_SHOWN:]:
                add(f"({len(rest)} more)", sum((rows[name] for name in rest), Counter()))

        add_all(self._machines)
        table.add_section()
        if len(self._hosts) > 1:
            table.add_row(Text("host", style="bold"))
            add_all(self._hosts)
            table.add_section()
        add("all", self.verdicts)
        width = None if sys.stderr.isatty() else _WIDE
        Console(
            file=sys.stderr,
            color_system="standard" if color else None,
            force_terminal=color,
            width=width,
        ).print(table)


def _bad(counts: Counter[Outcome]) -> int:
    return counts.total() - counts[Outcome.GOOD]
