"""Virtual memory as a vCPU sees it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Self

from savefmt.errors import UnsupportedError
from savefmt.guest.arch.base import GuestArch
from savefmt.guest.arch.table import Registers
from savefmt.guest.paging import PageTables, Read, Translation

_TABLE_PIECE = 4096
_TABLES_KEPT = 1024


class AddressSpace:
    """Virtual memory through page tables.

    Parameters
    ----------
    tables : PageTables
        The paging.
    read : callable
        Reads guest-physical memory: ``read(address, length)``.
    """

    def __init__(self, tables: PageTables, read: Read) -> None:
        self.tables = tables
        self._read = read

    @classmethod
    def of(
        cls,
        arch: GuestArch,
        registers: Registers,
        read: Read,
        root: int | None = None,
        read_table: Read | None = None,
    ) -> Self:
        """Return what a vCPU sees.

        Parameters
        ----------
        arch : GuestArch
            The guest's architecture.
        registers : X86Registers, Arm64Registers or CpuRegisters
            The vCPU.
        read : callable
            Reads guest-physical memory.
        root : int, optional
            Another page table root than its own: CR3, TTBR0, satp and so on.
        read_table : callable, optional
            Reads what is in the page tables; by default `read` does.

        Returns
        -------
        AddressSpace
            In the vCPU's mode.

        Raises
        ------
        UnsupportedError
            If the vCPU is in a mode that gives no meaning to the tables.
        """
        if arch.tables is None:
            raise UnsupportedError(f"savefmt does not read the page tables of {arch.name}")
        return cls(arch.tables(registers, _keep_tables(read_table or read), root), read)

    def translate(self, address: int) -> Translation:
        """Walk to the page of a virtual address; AddressError if there is no page."""
        return self.tables.translate(address)

    def pieces(self, address: int, length: int) -> Iterator[tuple[int, int]]:
        """Yield (guest-physical address, length) for each page of a range.

        Parameters
        ----------
        address, length : int
            Virtual.

        Yields
        ------
        (int, int)
            In order.

        Raises
        ------
        AddressError
            Where nothing is mapped.
        """
        end = address + length
        while address < end:
            found = self.translate(address)
            count = min(found.left, end - address)
            yield found.physical, count
            address += count

    def read(self, address: int, length: int) -> bytes:
        """Read virtual memory.

        Parameters
        ----------
        address, length : int
            Virtual.

        Returns
        -------
        bytes
            All of it.

        Raises
        ------
        AddressError
            If part of it is not mapped, or mapped to where no memory is.
        ValueError
            If `length` is negative.
        """
        if length < 0:
            raise ValueError(f"cannot read {length} bytes")
        return b"".join(self._read(at, count) for at, count in self.pieces(address, length))


def _keep_tables(read: Read) -> Read:
    """Read table entries through a small cache, for walks of neighbours share them."""

    @lru_cache(maxsize=_TABLES_KEPT)
    def piece(number: int) -> bytes:
        return read(number * _TABLE_PIECE, _TABLE_PIECE)

    def read_kept(address: int, length: int) -> bytes:
        number, offset = divmod(address, _TABLE_PIECE)
        if offset + length > _TABLE_PIECE:  # whole tables, which are longer on some
            return read(address, length)
        return piece(number)[offset : offset + length]

    return read_kept
