"""Where the RAM blocks are in the guest's physical address space (format.md 9)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cached_property

from savefmt.errors import UnsupportedError
from savefmt.format.hardware import Hardware
from savefmt.format.ram import ListedBlock
from savefmt.frozen import dataclass
from savefmt.guest import pci
from savefmt.guest.arch.machinerules import GIB, MIB, UNPLACEABLE, MachineRules
from savefmt.guest.evidence import weigh
from savefmt.guest.layers import HOLE, Layer, flatten, overlaps
from savefmt.guest.mainmemory import MainMemoryFinder, require_main
from savefmt.guest.needs import GuestSource, read_hardware
from savefmt.guest.plugged import (
    NOBODYS,
    SOMEWHERE,
    VirtioMem,
    find_virtio_mem,
    place_dimms,
    plugged_starts,
)
from savefmt.model import Finding, PhysicalRange, Severity

ADDRESS_LIMIT = 1 << 52
"""No processor has more physical address bits."""

# What hides what: QEMU's priorities of memory regions.
_FIRMWARE, _DEVICE, _RAM, _WINDOW = range(4)

_FIRMWARE_BLOCKS = re.compile(
    r"pc\.bios|pc\.rom|isa-bios|vga\.vram|system\.flash\d|virt\.flash\d|sbsa\.flash\d"
)
_TOP_OF_LOW = 4 * GIB
_ISA_BIOS_LENGTH = 128 << 10
_SHADOW, _SHADOW_STEP = 768 << 10, 16 << 10
_MAX_PLUGGED_RUNS = 1 << 16


@dataclass(frozen=True, slots=True)
class MemoryMap:
    """The guest-physical address space as the vCPUs see it.

    Attributes
    ----------
    ranges : tuple of PhysicalRange
        Ascending, none overlapping.
    unplaced : dict of str to str
        Blocks that the guest cannot address, and why.
    findings : tuple of Finding
        What is uncertain or contradictory.
    """

    ranges: tuple[PhysicalRange, ...]
    unplaced: dict[str, str]
    findings: tuple[Finding, ...]

    @property
    def unknown(self) -> tuple[str, ...]:
        """Blocks that the guest may well see, and nothing tells where."""
        reasons = (NOBODYS, SOMEWHERE, *pci.UNKNOWN)
        return tuple(idstr for idstr, reason in self.unplaced.items() if reason in reasons)


def build_map(source: GuestSource) -> MemoryMap:
    """Work out the memory map of an image.

    Parameters
    ----------
    source : GuestSource
        The image.

    Returns
    -------
    MemoryMap
        With its doubts.

    Raises
    ------
    UnsupportedError
        For a machine that this release does not know.
    """
    return _Builder(source).build()


class _Builder:
    def __init__(self, source: GuestSource) -> None:
        self.source = source
        self.findings: list[Finding] = []
        self.layers: list[Layer] = []
        self.unplaced: dict[str, str] = {}
        self.blocks = {block.idstr: block for block in source.head.blocks.blocks}
        if not self.blocks:
            raise UnsupportedError("the image holds no RAM, only devices")
        self.hardware: Hardware = read_hardware(source, self.findings)
        evidence = weigh(source, self.hardware, self.findings)
        self.machine = evidence.machine
        self.said = dict(source.places)
        for idstr in self.said.keys() - self.blocks.keys():
            raise UnsupportedError(
                f"the image has no block {idstr!r} to place, only {', '.join(self.blocks)}"
            )
        self.rules: MachineRules | None = None
        self.proof = ""
        try:
            self.rules, self.proof = evidence.machine_rules()
        except UnsupportedError as error:
            if not self.said:
                raise
            if source.dump is None:
                self._warn("memmap.unknown", error.message)

    def build(self) -> MemoryMap:
        if self.rules is not None:
            self._place_by_rules(self.rules)
        self._place_said()
        self._complain_about_overlaps()
        ranges = flatten(self.layers)
        self._note_unplaced(ranges)
        return MemoryMap(tuple(ranges), self.unplaced, tuple(self.findings))

    def _place_by_rules(self, rules: MachineRules) -> None:
        self._place_memory(rules)
        for idstr in self.blocks:
            if "/" in idstr and not idstr.startswith("/rom@"):
                self._place_device_memory(idstr, rules)
        if rules.pci_direct:
            self._place_loose_device_memory()
        self._place_firmware(rules)
        if "x86_64" in rules.architectures:
            self._place_first_mib(rules)

    def _place_said(self) -> None:
        """Put blocks where the caller says, and nowhere else."""
        self.layers = [layer for layer in self.layers if layer[1].block not in self.said]
        for idstr, start in self.said.items():
            length = self.blocks[idstr].used_length
            if self.source.dump is not None and self.source.dump.places.get(idstr) == start:
                self._put(_RAM, idstr, start, length, source="stream", detail="memory dump")
                continue
            self._put(_RAM, idstr, start, length, source="said", detail="--place")
            self._warn(
                "memmap.said",
                f"{idstr!r} lies at {start:#x} because the caller says so",
                Severity.NOTE,
            )

    # --- the layers ---

    def _put(
        self,
        height: int,
        block: str,
        start: int,
        length: int,
        *,
        offset: int = 0,
        kind: str = "ram",
        source: str = "rule",
        detail: str = "",
    ) -> None:
        self._put_range(height, PhysicalRange(start, length, block, offset, kind, source, detail))

    def _put_range(self, height: int, item: PhysicalRange) -> None:
        if item.start < 0 or item.end > ADDRESS_LIMIT:
            self._warn(
                "memmap.address",
                f"{item.block!r} at {item.start:#x} lies outside of any address space",
            )
            return
        self.layers.append((height, item))

    def _warn(self, code: str, message: str, severity: Severity = Severity.WARNING) -> None:
        self.findings.append(Finding(code, severity, message))

    def _complain_about_overlaps(self) -> None:
        """Say where memory lies on memory, which no machine has."""
        ram = [item for height, item in self.layers if height == _RAM]
        for first, second in overlaps(ram):
            self._warn(
                "memmap.overlap",
                f"{second.block!r} at {second.start:#x} overlaps {first.block!r}, which ends at "
                f"{first.end:#x}; one of them is not where this map has it",
                Severity.ERROR,
            )

    def _note_unplaced(self, ranges: Iterable[PhysicalRange]) -> None:
        placed = {item.block for item in ranges}
        for idstr in self.blocks:
            if idstr in placed:
                self.unplaced.pop(idstr, None)
            elif idstr == "vga.vram":  # of a device that is not on the PCI bus
                self.unplaced[idstr] = pci.NO_DEVICE
            elif idstr.startswith("/rom@"):
                self.unplaced[idstr] = "for the firmware only, which copies it"
            else:
                self.unplaced.setdefault(idstr, "not visible to the guest as it was saved")

    # --- main memory, and plugged memory ---

    def _place_memory(self, rules: MachineRules) -> None:
        free = self._free_blocks(rules)
        finder = MainMemoryFinder(
            self.source, self.hardware, self.machine, rules, self.proof, self.findings
        )
        main = finder.choose(free)
        if not main:
            if not self.said:
                require_main(main, free)
            return
        found = finder.place(main, plugged_starts(self.hardware, self._virtio_mem))
        for item in found.pieces:
            self._put_range(_RAM, item)
        others = [block for block in free if block not in main]
        dimms, reasons = place_dimms(
            self.source, self.hardware, others, found.window, self.findings
        )
        for block, start, length, source, detail in dimms:
            self._put(_RAM, block, start, length, kind="dimm", source=source, detail=detail)
        self.unplaced |= reasons

    def _free_blocks(self, rules: MachineRules) -> list[ListedBlock]:
        """Return the blocks that may be main memory, for nothing says that they are not."""
        aside = {*UNPLACEABLE, *rules.firmware, *(rules.secure[1] if rules.secure else ())}
        for idstr, reason in UNPLACEABLE.items():
            if idstr in self.blocks:
                self.unplaced[idstr] = reason
        return [
            block
            for idstr, block in self.blocks.items()
            if "/" not in idstr
            and not _FIRMWARE_BLOCKS.fullmatch(idstr)
            and idstr not in aside
            and idstr not in pci.LOOSE
        ]

    @cached_property
    def _virtio_mem(self) -> dict[str, VirtioMem]:
        return find_virtio_mem(self.source, self.findings)

    def _place_virtio_mem(self, block: ListedBlock, path: str) -> None:
        region, runs = self._virtio_mem[path]
        if len(runs) > _MAX_PLUGGED_RUNS:
            self._warn(
                "memmap.virtio-mem",
                f"{block.idstr!r} is plugged in {len(runs)} pieces; it is shown as one",
            )
            runs = [(0, block.used_length)]
        for offset, length in runs:
            length = min(length, block.used_length - offset)
            if length > 0:
                self._put(
                    *(_RAM, block.idstr, region.start + offset, length),
                    offset=offset,
                    kind="virtio-mem",
                    source="stream",
                    detail="virtio-mem device",
                )
        if not runs:
            self.unplaced[block.idstr] = "no part of it is plugged"

    # --- devices and firmware ---

    def _place_device_memory(self, idstr: str, rules: MachineRules) -> None:
        path, _, name = idstr.rpartition("/")
        length = self.blocks[idstr].used_length
        if path in self._virtio_mem:
            self._place_virtio_mem(self.blocks[idstr], path)
        elif not rules.pci_direct:
            self.unplaced[idstr] = pci.TRANSLATED
        else:
            found = pci.find_memory(self.source, path, name, length, self.findings)
            self._put_device(idstr, "rom" if name.endswith(".rom") else "vram", found)

    def _place_loose_device_memory(self) -> None:
        """Place memory of PCI devices whose blocks do not say whose they are."""
        for idstr, (device, bar) in pci.LOOSE.items():
            if idstr in self.blocks:
                length = self.blocks[idstr].used_length
                found = pci.find_loose(self.source, device, bar, length, self.findings)
                self._put_device(idstr, "vram", found)

    def _put_device(self, idstr: str, kind: str, found: tuple[int, str] | str) -> None:
        """Put a device's memory where it was found, or note why it was not."""
        if isinstance(found, str):
            self.unplaced[idstr] = found
            return
        start, detail = found
        length = self.blocks[idstr].used_length
        self._put(_DEVICE, idstr, start, length, kind=kind, source="stream", detail=detail)

    def _place_firmware(self, rules: MachineRules) -> None:
        at = _TOP_OF_LOW
        for idstr in ("pc.bios", "system.flash0", "system.flash1"):
            if idstr in self.blocks and "x86_64" in rules.architectures:
                at -= self.blocks[idstr].used_length
                self._put_rom(_FIRMWARE, idstr, at, f"firmware ends at 4 GiB; {self.proof}")
        hidden = rules.secure[1] if rules.secure and rules.secure[0] in self.blocks else ()
        for idstr in hidden:
            if idstr in self.blocks:
                self.unplaced[idstr] = "seen in the secure world only"
        for idstr, start in rules.firmware.items():
            if idstr in self.blocks and idstr not in hidden:
                self._put_rom(_FIRMWARE, idstr, start, self.proof)

    def _put_rom(
        self, height: int, idstr: str, start: int, detail: str, *, offset: int = 0
    ) -> None:
        block = self.blocks[idstr]
        self._put(
            *(height, idstr, start, block.used_length - offset),
            offset=offset,
            kind="rom",
            detail=detail,
        )

    def _place_first_mib(self, rules: MachineRules) -> None:
        """Put the video window and the ROMs where the guest sees them instead of RAM."""
        if pci.has_vga(self.source, self.blocks, self.findings):
            self._put(_WINDOW, HOLE, 0xA0000, 0x20000)
        try:
            shadowed = self._shadowed(rules)
        except UnsupportedError as error:
            self._put(_WINDOW, HOLE, _SHADOW, MIB - _SHADOW)
            self._warn("memmap.shadow", error.message)
            return
        if shadowed is not None:
            for start in range(_SHADOW, MIB, _SHADOW_STEP):
                if start not in shadowed:
                    self._put(_WINDOW, HOLE, start, _SHADOW_STEP)
        roms = [layer for layer in self._low_roms(rules) if layer.length > 0]
        for rom in roms:
            for start in range(rom.start, rom.end, _SHADOW_STEP):
                if shadowed is None or start & -_SHADOW_STEP not in shadowed:
                    stop = min((start & -_SHADOW_STEP) + _SHADOW_STEP, rom.end)
                    self._put(
                        *(_WINDOW + 1, rom.block, start, stop - start),
                        offset=rom.offset + start - rom.start,
                        kind="rom",
                        source=rom.source,
                        detail=rom.detail,
                    )

    def _low_roms(self, rules: MachineRules) -> Iterator[PhysicalRange]:
        how = ("stream", "PAM registers") if rules.shadow else ("rule", "ROM below 1 MiB")
        if "pc.rom" in self.blocks:
            length = min(self.blocks["pc.rom"].used_length, 0x20000)
            yield PhysicalRange(0xC0000, length, "pc.rom", 0, "rom", *how)
        for idstr in ("isa-bios", "pc.bios", "system.flash0"):
            if idstr in self.blocks:
                whole = self.blocks[idstr].used_length
                length = min(whole, _ISA_BIOS_LENGTH)
                yield PhysicalRange(MIB - length, length, idstr, whole - length, "rom", *how)
                return

    def _shadowed(self, rules: MachineRules) -> set[int] | None:
        """Return the 16 KiB steps from 768 KiB on where the guest reads RAM.

        Returns
        -------
        set of int or None
            Their addresses; None for a machine that cannot read RAM under its ROMs.

        Raises
        ------
        UnsupportedError
            If nothing tells.
        """
        if rules.shadow is None:
            return None
        device, registers = rules.shadow
        config = pci.read_config(self.source, device.rpartition("/")[0], self.findings)
        every = set(range(_SHADOW, MIB, _SHADOW_STEP))
        if config is None:
            raise UnsupportedError(
                f"no {device!r} tells whether RAM or ROM lies from 768 KiB to 1 MiB; nothing is "
                "placed there"
            )
        first, *others = config[registers : registers + 7]
        nibbles = [nibble for byte in others for nibble in (byte & 15, byte >> 4)]
        nibbles += [first >> 4] * 4
        return {start for start, nibble in zip(sorted(every), nibbles, strict=True) if nibble & 1}
