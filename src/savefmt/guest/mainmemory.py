"""Main memory: which blocks make it up, in which order, and where it is split (format.md 9)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from savefmt.errors import UnsupportedError
from savefmt.format.hardware import Hardware
from savefmt.format.ram import ListedBlock
from savefmt.guest.acpi import affinities, node_lengths
from savefmt.guest.arch.machinerules import (
    ABOVE_1T,
    ABOVE_4G,
    GIB,
    HYPERTRANSPORT,
    MIB,
    MachineRules,
    has_amd_hole,
    is_amd,
)
from savefmt.guest.needs import GuestSource, read_tree
from savefmt.model import Finding, PhysicalRange, Severity

_CMOS_LIMIT = 1 << 40
"""The CMOS has no room for more; it counts memory above 4 GiB from 0 again."""


class MainMemory(NamedTuple):
    """Where main memory lies.

    Attributes
    ----------
    pieces : list of PhysicalRange
        In no order.
    window : int or None
        Where plugged memory begins; None if that is not known.
    """

    pieces: list[PhysicalRange]
    window: int | None


class MainMemoryFinder:
    """Looks for main memory in an image.

    Parameters
    ----------
    source : GuestSource
        The image.
    hardware : Hardware
        What the domain XML says.
    machine : str
        The machine type, empty where nobody tells.
    rules : MachineRules
        Of the machine.
    proof : str
        What proves that it is that machine.
    findings : list of Finding
        Receives what is damaged, uncertain or contradictory.
    """

    def __init__(
        self,
        source: GuestSource,
        hardware: Hardware,
        machine: str,
        rules: MachineRules,
        proof: str,
        findings: list[Finding],
    ) -> None:
        self._source = source
        self._hardware = hardware
        self._machine = machine
        self._rules = rules
        self._proof = proof
        self._findings = findings
        self._others = True  # blocks that are not main memory and may be plugged behind it
        self._cmos = _cmos_lengths(source, findings)

    def _warn(self, code: str, message: str) -> None:
        self._findings.append(Finding(code, Severity.WARNING, message))

    # --- which blocks ---

    def choose(self, free: Sequence[ListedBlock]) -> list[ListedBlock]:
        """Return the blocks that make up main memory, in their order.

        Parameters
        ----------
        free : sequence of ListedBlock
            Those that are not known to be anything else.

        Returns
        -------
        list of ListedBlock
            None at all where nothing proves it.
        """
        main = self._choose(free)
        self._others = len(free) > len(main)
        return main

    def _choose(self, free: Sequence[ListedBlock]) -> list[ListedBlock]:
        main = [block for block in free if block.idstr == self._rules.main_memory]
        if main:
            return main
        nodes = [block for block in free if re.fullmatch(r"ram-node\d+", block.idstr)]
        if nodes:
            nodes.sort(key=lambda block: int(block.idstr.removeprefix("ram-node")))
            return nodes if self._agrees(nodes) else []
        return self._by_length(free)

    def _agrees(self, nodes: Sequence[ListedBlock]) -> bool:
        """Whether the order of libvirt's names is that of the nodes in the firmware's table."""
        told = node_lengths(self._source)
        if not told or told == [block.used_length for block in nodes]:
            return True
        self._warn(
            "memmap.numa-order",
            "the lengths of the blocks by the names of their nodes are not those of the "
            "firmware's table (SRAT)",
        )
        return False

    def _by_length(self, free: Sequence[ListedBlock]) -> list[ListedBlock]:
        """Choose the backends that make up what firmware was told, in the order of nodes.

        Without that there is main memory for certain only where there is but one block:
        every machine has some.
        """
        if len(free) == 1:
            return list(free)
        told = node_lengths(self._source)
        if not told and self._cmos is not None:
            told = [sum(self._cmos)]
        fitting = [[block for block in free if block.used_length == length] for length in told]
        return [some[0] for some in fitting] if all(len(some) == 1 for some in fitting) else []

    # --- where ---

    def place(self, main: Sequence[ListedBlock], plugged: Sequence[int]) -> MainMemory:
        """Tell where main memory lies.

        Parameters
        ----------
        main : sequence of ListedBlock
            As `choose` returned them.
        plugged : sequence of int
            Where memory is known to be plugged.

        Returns
        -------
        MainMemory
            Main memory, without the part whose address is not known.
        """
        rules = self._rules
        length = sum(block.used_length for block in main)
        low, source, detail = self._split(length)
        high_base = self._high_base(length, low, plugged)
        borders = [(rules.base, 0, low)]
        if high_base is not None:
            borders.append((high_base, low, length))
        pieces, position = [], 0
        for block in main:
            end = position + block.used_length
            for base, first, last in borders:
                begin, stop = max(position, first), min(end, last)
                if begin < stop:
                    pieces.append(
                        PhysicalRange(
                            *(base + begin - first, stop - begin, block.idstr, begin - position),
                            *("ram", source, detail),
                        )
                    )
            position = end
        return MainMemory(pieces, rules.plugged_from(length, low, high_base))

    def _split(self, length: int) -> tuple[int, str, str]:
        """Return how much lies below the hole, and how that is known."""
        rule = self._rules.split(length)
        if "x86_64" not in self._rules.architectures:
            return rule, "rule", self._proof
        if self._cmos is None:
            self._warn("memmap.no-cmos", "no CMOS tells how main memory is split; the rule does")
        elif (length - sum(self._cmos)) % _CMOS_LIMIT == 0 and self._cmos[0] <= length:
            return self._cmos[0], "stream", "CMOS"
        else:
            self._warn(
                "memmap.cmos",
                f"CMOS tells of {self._cmos[0]:#x} + {self._cmos[1]:#x} bytes, but main memory has "
                f"{length:#x}; the rule for {self._rules.name} is taken",
            )
        return rule, "rule", self._proof

    def _high_base(self, length: int, low: int, plugged: Sequence[int]) -> int | None:
        """Return where the part behind the hole begins, None if nothing tells (format.md 9.3)."""
        if self._rules.pci_window == 0 or not has_amd_hole(self._machine):
            return self._rules.high
        if plugged:  # these are directly behind main memory
            return ABOVE_1T if min(plugged) >= ABOVE_1T else ABOVE_4G
        hardware = self._hardware
        most = max(hardware.max_memory or length, length)
        top = round_up(ABOVE_4G + length - low, GIB)
        if most > length:
            top = round_up(top + most - length + hardware.slots * GIB, GIB)
        fits = top + self._rules.pci_window - 1 < HYPERTRANSPORT
        # The firmware's table is among the pages, and finding it may take reading all of them.
        if (fits and hardware.machine is not None) or (length <= low and not self._others):
            return ABOVE_4G
        told = {each.start for each in affinities(self._source)}
        if told:
            return ABOVE_1T if ABOVE_1T in told else ABOVE_4G
        if fits:
            return ABOVE_4G
        amd = is_amd(hardware.cpu_vendor, hardware.cpu_model)
        if amd is None and length > low:
            self._warn(
                "memmap.relocation",
                "whether memory above 4 GiB was moved to 1 TiB depends on the processor's "
                "vendor, which the image does not tell; that memory is not placed",
            )
            return None
        return ABOVE_1T if amd else ABOVE_4G


def require_main(main: Sequence[ListedBlock], free: Sequence[ListedBlock]) -> None:
    """Refuse an image of whose blocks none is known to be main memory."""
    if not main:
        names = ", ".join(repr(block.idstr) for block in free)
        raise UnsupportedError(
            "none of the RAM blocks is known to be main memory"
            + (
                f"; it may be among {names}, and --place tells savefmt where they are"
                if free
                else ""
            )
        )


def round_up(number: int, unit: int) -> int:
    """Return the next multiple."""
    return -(-number // unit) * unit


def _cmos_lengths(source: GuestSource, findings: list[Finding]) -> tuple[int, int] | None:
    """Bytes of main memory below and above 4 GiB as QEMU told the firmware."""
    clock = read_tree(source, "mc146818rtc", findings=findings)
    cmos = clock.data("cmos_data") if clock is not None else None
    if cmos is None or len(cmos) < 0x5E:
        return None
    extended = int.from_bytes(cmos[0x30:0x32], "little")
    low = MIB + (extended << 10)
    if extended == 0xFFFF:
        low = 16 * MIB + (int.from_bytes(cmos[0x34:0x36], "little") << 16)
    return low, int.from_bytes(cmos[0x5B:0x5E], "little") << 16
