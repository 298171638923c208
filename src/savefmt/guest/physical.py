"""The guest's memory by guest-physical address."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property

from savefmt.errors import AddressError, LostMemoryError
from savefmt.guest.memorymap import MemoryMap, build_map
from savefmt.guest.needs import GuestSource
from savefmt.model import PhysicalRange


class PhysicalMemory:
    """Reads what a vCPU would read; made by `SaveImage.physical`.

    Parameters
    ----------
    source : GuestSource
        The image.
    """

    def __init__(self, source: GuestSource) -> None:
        self._source = source

    @cached_property
    def map(self) -> MemoryMap:
        """Which block lies where."""
        return build_map(self._source)

    @cached_property
    def _starts(self) -> list[int]:
        return [item.start for item in self.map.ranges]

    def find(self, address: int) -> PhysicalRange | None:
        """Return the range that contains an address, None if there is no such range."""
        number = bisect_right(self._starts, address) - 1
        if number < 0 or address >= self.map.ranges[number].end:
            return None
        return self.map.ranges[number]

    def pieces(self, address: int, length: int) -> Iterator[tuple[PhysicalRange, int, int]]:
        """Split a range of addresses.

        Parameters
        ----------
        address, length : int
            Guest-physical.

        Yields
        ------
        (PhysicalRange, int, int)
            Block, offset in that block, and length of each piece.

        Raises
        ------
        AddressError
            Where nothing lies.
        """
        end = address + length
        while address < end:
            found = self.find(address)
            if found is None:
                raise AddressError(f"there is no memory at guest-physical address {address:#x}")
            count = min(end, found.end) - address
            yield found, found.offset + address - found.start, count
            address += count

    def read(self, address: int, length: int) -> bytes:
        """Read guest-physical memory.

        Parameters
        ----------
        address, length : int
            Guest-physical.

        Returns
        -------
        bytes
            Pages that the image does not hold read as zeros.

        Raises
        ------
        AddressError
            If not all of it is memory.
        ValueError
            If `length` is negative.
        UnsupportedError
            If the memory was left out of the image (x-ignore-shared).
        """
        if length < 0:
            raise ValueError(f"cannot read {length} bytes")
        memory = self._source.memory
        pieces = list(self.pieces(address, length))
        return b"".join(memory.read(item.block, offset, count) for item, offset, count in pieces)

    def read_known(self, address: int, length: int) -> bytes:
        """Read guest-physical memory for those who would take zeros for what the guest had.

        Parameters
        ----------
        address, length : int
            Guest-physical.

        Returns
        -------
        bytes
            As `read` has them.

        Raises
        ------
        LostMemoryError
            If part of it is lost, of an image that was opened with `salvage`.
        AddressError, ValueError, UnsupportedError
            As `read` does.
        """
        if (rescue := self._source.rescue) is not None:
            for found, offset, count in self.pieces(address, length):
                for first, _ in rescue.lost_bytes(found.block, offset, count):
                    where = found.start + first - found.offset
                    raise LostMemoryError(f"guest-physical address {where:#x} is on a lost page")
        return self.read(address, length)
