"""The table of symbols in all its layouts, and what only looks like it."""

from __future__ import annotations

import random
import time

import pytest
from kernelparts import BASE, LAYOUTS, pack_kallsyms

from savefmt.linux.kallsyms import DIGITS, Symbols, find

SYMBOLS = [
    (BASE + 16 * number, f"{'tTdD'[number % 4]}{kind}_{number:05}")
    for number, kind in zip(range(1500), ["init", "sys_task", "the_node"] * 500, strict=True)
]
PER_CPU = [(number * 8, f"Aper_cpu_{number}") for number in range(20)]


def told(symbols: Symbols | None) -> list[tuple[int, str]]:
    """Return all that a table holds."""
    assert symbols is not None
    return [(address, kind + name) for address, kind, name in symbols]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout(layout: str) -> None:
    wanted = SYMBOLS if layout in ("4.6", "7") else PER_CPU + SYMBOLS
    image = pack_kallsyms(wanted, layout)

    symbols = find(image, BASE, {"init_00000": BASE})

    assert told(symbols) == wanted
    assert symbols is not None
    assert symbols.get("sys_task_00001") == BASE + 16
    assert symbols.get("nobody") is None
    assert symbols.at(BASE + 17) == ("sys_task_00001", BASE + 16, 16)
    assert symbols.is_function(BASE) == (SYMBOLS[0][1][0] in "tT")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_without_a_known_symbol(layout: str) -> None:
    symbols = find(pack_kallsyms(SYMBOLS, layout), BASE, {})

    assert told(symbols) == SYMBOLS


def test_a_long_name() -> None:
    wanted = [*SYMBOLS, (BASE + (1 << 20), "t" + "q" * 300)]

    assert told(find(pack_kallsyms(wanted, "6.1"), BASE, {})) == wanted


def test_addresses_that_do_not_agree_are_none() -> None:
    image = pack_kallsyms(SYMBOLS, "6.1")

    assert find(image, BASE, {"init_00000": BASE + 4096}) is None


def test_what_lies_elsewhere_does_not_matter() -> None:
    noise = random.Random(16).randbytes(300_000)
    image = DIGITS + noise + DIGITS
    image += bytes(-len(image) % 8)

    symbols = find(image + pack_kallsyms(SYMBOLS, "6.4"), BASE, {"init_00000": BASE})

    assert told(symbols) == SYMBOLS


def test_tables_that_are_none_cost_little() -> None:
    table = pack_kallsyms(SYMBOLS, "6.4")
    tokens_at = table.index(DIGITS)
    # Tokens and their index, a hundred times, and before them what may be a count each.
    forged = (b"\x00\x10\x00\x00" * 4096 + table[tokens_at - 512 : tokens_at + 4096]) * 100
    start = time.process_time()

    assert find(forged, BASE, {}) is None
    assert time.process_time() - start < 10


@pytest.mark.parametrize("length", [0, 1, 47, 4096, 9000])
def test_a_piece_that_ends_early(length: int) -> None:
    assert find(pack_kallsyms(SYMBOLS, "6.4")[:length], BASE, {}) is None
