"""Time exports against ``cp --sparse=always`` of what they write, taking turns.

The copy reads the result, which lies on the disk as densely as the image does, and is
synced as ours is.  ``python benchmarks/export.py --help`` tells the options.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from convert import MIB, Row, Turn, facts, pair, run, table
from images import make_mapped

import savefmt
from savefmt import Layout

PEER = "cp --sparse=always, sync"


def copy(source: Path, target: Path) -> Turn:
    """Copy a file with its holes, and sync it."""
    target.unlink(missing_ok=True)
    script = 'cp --sparse=always "$1" "$2" && sync "$2"'
    return run("sh", "-c", script, "sh", source, target)


def export(source: Path, target: Path, format: str) -> Turn:
    """Run our command."""
    target.unlink(missing_ok=True)
    command = [sys.executable, "-m", "savefmt", "-q", "export"]
    return run(*command, source, target, "--format", format)


def rows(folder: Path, ram: int, data: int, turns: int) -> list[Row]:
    """Compare exports of both layouts with copies of their results."""
    from golden.load import unpack

    template = unpack("q35-smp-mapped", folder)
    sparse, raw = folder / "guest.sparse", folder / "guest.raw"
    make_mapped(template, sparse, ram=ram, data=data)
    savefmt.convert(sparse, raw, layout=Layout.SEQUENTIAL, codec="raw")
    found = []
    for format in ("raw", "elf"):
        result = folder / f"result.{format}"
        savefmt.export(sparse, result, format=format)
        for name, source in (("sparse", sparse), ("raw", raw)):
            found.append(
                pair(
                    f"{name} to {'memory' if format == 'raw' else format}",
                    PEER,
                    lambda source=source, format=format: export(  # type: ignore[misc]
                        source, folder / "out", format
                    ),
                    lambda result=result: copy(result, folder / "copy"),  # type: ignore[misc]
                    turns,
                )
            )
        result.unlink()
    return found


def main() -> int:
    """Run all rows; print the table, and write the raw figures where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, help="where to make the images; a real disk")
    parser.add_argument("--ram", type=int, default=2048, help="guest memory, MiB")
    parser.add_argument("--data", type=int, default=1024, help="of it not zero, MiB")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the raw figures there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="savefmt-bench-", dir=args.dir) as name:
        found = rows(Path(name), args.ram * MIB, args.data * MIB, args.turns)
    if args.json:
        document = {"facts": facts(), "rows": [{**asdict(r), "ratio": r.ratio} for r in found]}
        args.json.write_text(json.dumps(document, indent=1) + "\n")
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
