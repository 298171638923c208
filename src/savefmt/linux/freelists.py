"""Free pages that each processor keeps for itself: the allocator does not mark them as free."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from savefmt.linux.kernel import Kernel
from savefmt.linux.walks import error_types, list_items, note

if TYPE_CHECKING:
    import drgn

_MAX_NODES = 1 << 10
_KINDS = 3
"""Of use: each has a list of its own for each order."""
_ORDERS = 4
"""With lists for each kind; behind them stand those of huge pages."""
_HUGE_ORDER = 9


def free_at_hand(kernel: Kernel) -> Iterator[tuple[int, int]]:
    """Yield address of the ``struct page`` and number of pages of each free piece.

    Parameters
    ----------
    kernel : Kernel
        Whose lists they are.

    Yields
    ------
    tuple of int
        Of the piece's first page, and how many pages it has.
    """
    try:
        for zone in _zones(kernel):
            for lists in _lists(kernel, zone):
                for number, head in enumerate(lists):
                    pages = 1 << _order(number, len(lists))
                    for page in list_items(
                        *(kernel, head.address_, "struct page", "lru"),
                        "free pages that a processor keeps",
                    ):
                        yield page.address_, pages
    except error_types():
        note(kernel, "list-damaged", "the lists of free pages that processors keep are damaged")


def _zones(kernel: Kernel) -> Iterator[drgn.Object]:
    found = list(_nodes(kernel))
    if not found:
        note(kernel, "no-free-lists", "free pages that a processor keeps count as the kernel's")
    for node in found:
        yield from node.node_zones


def _nodes(kernel: Kernel) -> Iterator[drgn.Object]:
    table, alone = kernel.variable("node_data"), kernel.variable("contig_page_data")
    if table is not None:
        for number in range(_MAX_NODES):
            if not table[number].value_():
                return
            yield table[number][0]
    elif alone is not None:
        yield alone


def _lists(kernel: Kernel, zone: drgn.Object) -> Iterator[drgn.Object]:
    from drgn.helpers.linux.percpu import per_cpu_ptr

    newer = zone.type_.has_member("per_cpu_pageset")  # 5.14
    shared = zone.per_cpu_pageset if newer else zone.pageset
    for number in range(len(kernel.image.guest.cpus)):
        own = per_cpu_ptr(shared, number)
        yield own.lists if newer else own.pcp.lists


def _order(number: int, lists: int) -> int:
    if lists <= _KINDS:  # before 5.14 there were lists of single pages alone
        return 0
    return number // _KINDS if number < _KINDS * _ORDERS else _HUGE_ORDER
