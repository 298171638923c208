"""What ``savefmt fleet`` prints: a line an image, and a table of the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from savefmt.cli.render.plain import plain
from savefmt.fleet.records import FleetRecord, Outcome

COLUMNS = (
    *("host", "path", "verb", "verdict", "domain", "machine", "reasons", "remedy"),
    *("seconds", "tries"),
)
"""Of ``--output=csv``; what is a list in a record is joined."""


def csv_row(record: FleetRecord) -> dict[str, object]:
    """Return a record as a row of a table."""
    found = {name: getattr(record, name) for name in COLUMNS}
    return {
        name: plain("; ".join(value) if isinstance(value, tuple) else str(value))
        for name, value in found.items()
    }


def record_line(record: FleetRecord) -> str:
    """Tell of one image."""
    why = f": {plain('; '.join(record.reasons))}" if record.reasons else ""
    remedy = f" ({plain('; '.join(record.remedy))})" if record.remedy else ""
    return f"{plain(record.path)}: {record.verdict}{why}{remedy}"


class Summary:
    """Counts records as they come."""

    def __init__(self) -> None:
        self.verdicts: Counter[Outcome] = Counter()
        self._machines: Counter[tuple[str, Outcome]] = Counter()

    def add(self, record: FleetRecord) -> None:
        """Count one."""
        self.verdicts[record.verdict] += 1
        self._machines[record.machine or "unknown", record.verdict] += 1

    def lines(self) -> Iterator[str]:
        """Yield the table: machine types down, verdicts across."""
        shown = [verdict for verdict in Outcome if self.verdicts[verdict]]
        machines = sorted({machine for machine, _ in self._machines})
        names = {machine: plain(machine) for machine in machines}
        width = max([12, *(len(name) for name in names.values())])
        yield f"{'machine type':<{width}}" + "".join(f"{verdict:>14}" for verdict in shown)
        for machine in machines:
            counts = (self._machines[machine, verdict] for verdict in shown)
            yield f"{names[machine]:<{width}}" + "".join(f"{count:>14}" for count in counts)
        yield f"{'all':<{width}}" + "".join(f"{self.verdicts[v]:>14}" for v in shown)
