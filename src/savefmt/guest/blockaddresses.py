"""From a place in a RAM block to the addresses at which the guest sees it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from savefmt.model import PhysicalRange


class BlockAddresses:
    """Guest-physical addresses of offsets in the blocks.

    Parameters
    ----------
    ranges : iterable of PhysicalRange
        The memory map.
    """

    def __init__(self, ranges: Iterable[PhysicalRange]) -> None:
        self._pieces: dict[str, list[PhysicalRange]] = {}
        self._longest: dict[str, int] = {}
        for item in sorted(ranges, key=lambda item: item.offset):
            self._pieces.setdefault(item.block, []).append(item)
            self._longest[item.block] = max(self._longest.get(item.block, 0), item.length)

    def addresses(self, block: str, offset: int) -> tuple[int, ...]:
        """Return where the guest sees a byte of a block.

        Parameters
        ----------
        block : str
            Its idstr.
        offset : int
            In the block.

        Returns
        -------
        tuple of int
            Guest-physical addresses, ascending.  None where the byte is hidden or the
            block's place is unknown, several where it is seen more than once.
        """
        pieces = self._pieces.get(block, [])
        found = []
        number = bisect_right(pieces, offset, key=lambda item: item.offset)
        while number > 0:
            number -= 1
            item = pieces[number]
            if item.offset + self._longest[block] <= offset:
                break
            if offset < item.offset + item.length:
                found.append(item.start + offset - item.offset)
        return tuple(sorted(found))

    def addresses_of(self, block: str, start: int, end: int) -> tuple[int, ...] | None:
        """Return where the guest sees neighbouring bytes of a block.

        Parameters
        ----------
        block : str
            Its idstr.
        start, end : int
            In the block, before `end`.

        Returns
        -------
        tuple of int
            Guest-physical addresses of the first byte, as `addresses` has them; None
            unless those of all bytes follow from these.
        """
        for item in self._pieces.get(block, ()):
            for border in (item.offset, item.offset + item.length):
                if start < border < end:
                    return None
        return self.addresses(block, start)
