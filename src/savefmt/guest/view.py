"""The guest in an image: its vCPUs and its memory."""

from __future__ import annotations

from functools import cached_property

from savefmt.errors import UnsupportedError, located
from savefmt.guest.arch.base import GuestArch
from savefmt.guest.arch.table import Registers
from savefmt.guest.needs import GuestSource
from savefmt.guest.physical import PhysicalMemory
from savefmt.guest.registers import find_arch, read_registers
from savefmt.guest.space import AddressSpace


class Guest:
    """What the image means to the guest; made by `SaveImage.guest`.

    Parameters
    ----------
    source : GuestSource
        The image.
    """

    def __init__(self, source: GuestSource) -> None:
        self._source = source

    @cached_property
    def physical(self) -> PhysicalMemory:
        """Memory by guest-physical address."""
        return PhysicalMemory(self._source)

    @cached_property
    def arch(self) -> GuestArch:
        """The architecture, as the vCPUs prove it.

        Raises
        ------
        UnsupportedError
            If the stream has no vCPU, or one of an unknown architecture.
        CorruptError
            If parts of the image disagree.
        """
        with located(self._source.path):
            return find_arch(self._source)

    @cached_property
    def cpus(self) -> tuple[Registers, ...]:
        """Registers of all vCPUs, in the order of the stream.

        Raises
        ------
        UnsupportedError
            If the stream has no vCPU, or one of an unknown architecture.
        """
        with located(self._source.path):
            return read_registers(self._source)

    def cpu(self, index: int | None = None) -> Registers:
        """Return the registers of a vCPU.

        Parameters
        ----------
        index : int, optional
            As QEMU counts them; the first one by default.

        Returns
        -------
        X86Registers, Arm64Registers or CpuRegisters
            As the architecture has it.

        Raises
        ------
        UnsupportedError
            If there is no such vCPU.
        """
        for registers in self.cpus:
            if index is None or registers.cpu == index:
                return registers
        there = ", ".join(str(registers.cpu) for registers in self.cpus)
        raise UnsupportedError(
            f"the image has no vCPU {index}, only {there}", path=self._source.path
        )

    def space(self, cpu: int | None = None, root: int | None = None) -> AddressSpace:
        """Return virtual memory as a vCPU sees it.

        Parameters
        ----------
        cpu : int, optional
            Its index; the first one by default.
        root : int, optional
            Another page table root than its own: CR3, TTBR0, satp and so on.

        Returns
        -------
        AddressSpace
            In the vCPU's mode.
        """
        memory = self.physical
        return AddressSpace.of(self.arch, self.cpu(cpu), memory.read, root, memory.read_known)
