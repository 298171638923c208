"""The kernel's ``struct page`` for each page of memory, and what it says about that page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from savefmt.errors import SavefmtError, UnsupportedError
from savefmt.linux.kernel import Kernel
from savefmt.linux.kernelmemory import KERNEL_HALF, PAGE

_ENTRY = 8
_PRESENT = 1
_MAX_ROOTS = 1 << 16
_MAX_ORDER = 20

_BEFORE_TYPES = {"buddy": 0x80, "table": 0x200}
"""Bits that are off in the type of a page, in releases before 6.11."""
_TYPES = {"buddy": 0xF0, "table": 0xF2, "slab": 0xF5}
"""Upper byte of the type since then."""


class PageStructs:
    """Where they lie, and how to read them.

    Parameters
    ----------
    kernel : Kernel
        Of the guest.

    Raises
    ------
    UnsupportedError
        If they were not found.
    """

    def __init__(self, kernel: Kernel) -> None:
        import drgn

        self._kernel = kernel
        structure = kernel.program.type("struct page")
        self.size: int = drgn.sizeof(structure)
        if self.size % 8 or not 32 <= self.size <= 256:
            raise UnsupportedError(f"struct page has {self.size} bytes, which no kernel has")
        self.head_at = self._offset(structure, "compound_head", "compound_info")
        self.mapping_at = self._offset(structure, "mapping")
        self.index_at = self._offset(structure, "index", "__folio_index", "share")
        self.private_at = self._offset(structure, "private")
        self.type_at = self._offset(structure, "page_type", "_mapcount")
        self.base = self._find()

    @staticmethod
    def _offset(structure: Any, *names: str) -> int:
        import drgn

        for name in names:
            if structure.has_member(name):
                return int(drgn.offsetof(structure, name))
        raise UnsupportedError(f"struct page has no member {names[0]!r}")

    def _find(self) -> int:
        """Return where the one of page 0 would lie."""
        base = self._kernel.variable("vmemmap_base")
        if base is not None:
            return int(base.value_())
        told = self._kernel.anchors.symbols.get("vmemmap")
        return told if told else self._from_sections()

    def _from_sections(self) -> int:
        """Follow the table of sections to the first that has memory."""
        kernel = self._kernel
        roots = kernel.anchors.numbers.get("mem_section", 0)
        size = kernel.program.type("struct mem_section").size or 16
        try:
            for number in range(_MAX_ROOTS if roots else 0):
                root = kernel.word(roots + _ENTRY * number)
                if not root:
                    continue
                for place in range(0, PAGE, size):
                    coded = kernel.word(root + place)
                    if coded & _PRESENT:
                        return coded & -PAGE
        except SavefmtError:
            pass
        raise UnsupportedError("the table of pages (vmemmap) was not found")

    def number_of(self, address: int) -> int:
        """Return the number of the page that a ``struct page`` is of."""
        return (address - self.base) // self.size

    def read(self, first: int, count: int) -> bytes:
        """Return that many of them; missing ones read as zeros."""
        return self._kernel.memory.read_sparse(self.base + first * self.size, count * self.size)

    # --- what they say ---

    @cached_property
    def flags(self) -> dict[str, int]:
        """Bits of the flags: those that this release has of the ones asked for."""
        found = {}
        for name in ("slab", "reserved", "head"):
            try:
                found[name] = 1 << self._kernel.program.constant(f"PG_{name}").value_()
            except LookupError:
                continue
        return found

    @cached_property
    def _typed(self) -> dict[str, int] | None:
        """Upper bytes of types, by name; None where types are bits that are off."""
        found = {}
        for name in _TYPES:
            try:
                found[name] = int(self._kernel.program.constant(f"PGTY_{name}").value_())
            except LookupError:
                return None
        return found

    def kind(self, flags: int, word: int) -> str:
        """Tell what a page is by its flags and its type.

        Parameters
        ----------
        flags, word : int
            The two members.

        Returns
        -------
        str
            ``free``, ``table``, ``slab``, or nothing: then its mapping tells.
        """
        if self._typed is not None:
            upper = word >> 24
            for name, byte in self._typed.items():
                if upper == byte & 0xFF:
                    return "free" if name == "buddy" else name
        elif word & 0xF000_0000 == 0xF000_0000 and word != 0xFFFF_FFFF:
            if not word & _BEFORE_TYPES["buddy"]:
                return "free"
            if not word & self._table_bit:
                return "table"
        if flags & self.flags.get("slab", 0):
            return "slab"
        return ""

    @cached_property
    def _table_bit(self) -> int:
        match = re.match(r"(\d+)\.(\d+)", self._kernel.release)
        release = (int(match[1]), int(match[2])) if match else (6, 0)
        return 0x400 if release < (5, 11) else _BEFORE_TYPES["table"]

    def head_of(self, number: int, word: int) -> int | None:
        """Return the number of the first page of the compound that a page is in.

        Parameters
        ----------
        number : int
            Of the page.
        word : int
            The word at `head_at`.

        Returns
        -------
        int or None
            None for a page that is none, or the first itself.
        """
        if not word & 1:
            return None
        if word >= KERNEL_HALF:
            head = self.number_of(word - 1)
            if head <= number and number - head < 1 << _MAX_ORDER:
                return head
        # Newer kernels keep a mask instead: the head is what its bits leave of the address.
        address = self.base + number * self.size
        head = self.number_of(address & (word & -2))
        return head if 0 <= number - head < 1 << _MAX_ORDER else None


def ram_ranges(kernel: Kernel) -> Iterator[tuple[int, int]]:
    """Yield first page and count of each range of RAM."""
    for item in kernel.image.guest.physical.map.ranges:
        if item.kind in ("ram", "dimm", "virtio-mem"):
            first = -(-item.start // PAGE)
            yield first, max(item.end // PAGE - first, 0)
