"""The flags of RAM words are the same in Python and in C."""

from __future__ import annotations

import re
from pathlib import Path

from savefmt.format.wire import RamFlag

SCANNER = Path(__file__).parents[2] / "csrc" / "sf_scan.c"


def test_the_scanner_knows_the_same_flags() -> None:
    enum = re.findall(r"\bFLAG_(\w+) = (0x[0-9a-f]+)", SCANNER.read_text())

    assert {name: int(value, 16) for name, value in enum} == {
        flag.name: flag.value for flag in RamFlag
    }
