"""A run of ``savefmt fleet`` as a table in a file: CSV, or Parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from savefmt.cli.render.fleet import COLUMNS, csv_row
from savefmt.cli.render.plain import plain
from savefmt.errors import ConversionError, MissingPackageError
from savefmt.fleet.records import FleetRecord
from savefmt.writing.output import OutputFile

_AT_ONCE = 1000
"""Rows that are handed over together."""

_TYPES = {
    "host": "VARCHAR",
    "path": "VARCHAR",
    "verb": "VARCHAR",
    "verdict": "VARCHAR",
    "domain": "VARCHAR",
    "machine": "VARCHAR",
    "reasons": "VARCHAR[]",
    "remedy": "VARCHAR[]",
    "seconds": "DOUBLE",
    "tries": "INTEGER",
    "version": "VARCHAR",
    "options": "VARCHAR",
    "inode": "UBIGINT",
    "length": "UBIGINT",
    "modified": "TIMESTAMP_NS",
    "result": "VARCHAR",
}
"""Columns of the Parquet file; `options` and `result` are JSON."""

_IDENTITY = {
    "inode": (0, (1 << 64) - 1),
    "length": (0, (1 << 64) - 1),
    "modified": (2 - (1 << 63), (1 << 63) - 2),
}
"""What an identity is made of: the least and the most of it that a column holds.

A file may well be of a later time than 2262.
"""


def writer(suffix: str) -> Callable[[Iterable[FleetRecord], OutputFile], None]:
    """Return what writes a table of that kind.

    Raises
    ------
    UnsupportedError
        If the package for it is not installed.
    """
    if suffix == ".csv":
        return _write_csv
    try:
        import duckdb  # noqa: F401
    except ImportError as error:
        raise MissingPackageError("fleet -o FILE.parquet", "duckdb", "tables") from error
    return _write_parquet


def _write_csv(records: Iterable[FleetRecord], output: OutputFile) -> None:
    offset = 0
    rows: Iterator[dict[str, object]] = map(csv_row, records)
    head = dict(zip(COLUMNS, COLUMNS, strict=True))
    while True:
        text = io.StringIO()
        table = csv.DictWriter(text, COLUMNS)
        if offset == 0:
            table.writerow(head)
        table.writerows(islice(rows, _AT_ONCE))
        data = text.getvalue().encode()
        if not data:
            return
        output.file.write(data, offset)
        offset += len(data)


def _write_parquet(records: Iterable[FleetRecord], output: OutputFile) -> None:
    import duckdb

    # It is to make no file but this one, and to fetch nothing.
    closed: dict[str, str | bool | int | float | list[str]] = {
        "temp_directory": "",
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    shape = json.dumps([{name: _passed(kind) for name, kind in _TYPES.items()}])
    columns = ", ".join(
        f"make_timestamp_ns({name})" if kind == "TIMESTAMP_NS" else name
        for name, kind in _TYPES.items()
    )
    rows = map(_row, records)
    try:
        with duckdb.connect(":memory:", config=closed) as base:
            kinds = ", ".join(f"{name} {kind}" for name, kind in _TYPES.items())
            base.execute(f"CREATE TABLE run ({kinds})")
            while piece := list(islice(rows, _AT_ONCE)):
                base.execute(
                    f"INSERT INTO run SELECT {columns} FROM"
                    " (SELECT unnest(from_json_strict(?::JSON, ?), recursive := true))",
                    [json.dumps(piece), shape],
                )
            how = "FORMAT parquet, COMPRESSION zstd, USE_TMP_FILE false"
            base.execute(f"COPY run TO '{output.path}' ({how})")
    except duckdb.Error as error:
        why = plain(str(error).splitlines()[0])
        raise ConversionError(f"no table could be made: {why}", path=output.target) from error


def _passed(kind: str) -> object:
    """Return how a column is passed as JSON, in duckdb's notation."""
    if kind == "TIMESTAMP_NS":
        return "BIGINT"
    return ["VARCHAR"] if kind == "VARCHAR[]" else kind


def _fits(name: str, number: int) -> bool:
    least, most = _IDENTITY[name]
    return least <= number <= most


def _row(record: FleetRecord) -> dict[str, Any]:
    identity = record.identity if len(record.identity) == 3 else ()
    known = {name: n for name, n in zip(_IDENTITY, identity, strict=False) if _fits(name, n)}
    found = {name: getattr(record, name, None) for name in _TYPES}
    values = {
        name: plain(value) if isinstance(value, str) else value for name, value in found.items()
    }
    return values | {
        "reasons": list(map(plain, record.reasons)),
        "remedy": list(map(plain, record.remedy)),
        **{name: known.get(name) for name in _IDENTITY},
        "options": json.dumps(record.options),
        "result": json.dumps(record.result),
    }
