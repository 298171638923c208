"""Where the RAM blocks lie in the guest's physical address space (format.md 9)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import combinations

from savefmt.errors import UnsupportedError
from savefmt.format.devicetree import Struct
from savefmt.format.hardware import Hardware, MemoryDevice
from savefmt.format.ram import ListedBlock
from savefmt.frozen import dataclass
from savefmt.guest import pci
from savefmt.guest.acpi import memory_starts
from savefmt.guest.arch.machinerules import (
    ABOVE_1T,
    ABOVE_4G,
    GIB,
    HYPERTRANSPORT,
    MIB,
    UNPLACEABLE,
    MachineRules,
    has_amd_hole,
    is_amd,
)
from savefmt.guest.evidence import weigh
from savefmt.guest.layers import HOLE, Layer, flatten, overlaps
from savefmt.guest.needs import GuestSource, read_hardware, read_tree
from savefmt.model import Finding, PhysicalRange, Severity

NOBODYS = "nothing tells whose memory it is"

ADDRESS_LIMIT = 1 << 52
"""No processor has more physical address bits."""

# What hides what: QEMU's priorities of memory regions.
_FIRMWARE, _DEVICE, _RAM, _WINDOW = range(4)

_FIRMWARE_BLOCKS = re.compile(
    r"pc\.bios|pc\.rom|isa-bios|vga\.vram|system\.flash\d|virt\.flash\d|sbsa\.flash\d"
)
_TOP_OF_LOW = 4 * GIB
_ISA_BIOS_LENGTH = 128 << 10
_SHADOW_STEP = 16 << 10
_DIMM_ALIGN = 2 * MIB
_MAX_BACKENDS = 16
_MAX_PLUGGED_RUNS = 1 << 16
_HOTPLUG_SECTIONS = frozenset({"ICH9LPC", "piix4_pm"})
_VIRTIO_MEM_EARLY = "virtio-mem-device-early"


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
        reasons = (NOBODYS, *pci.UNKNOWN)
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
        main, others = self._backends(rules)
        if main:
            self._place_main(main, rules)
            self._place_dimms(others)
        for idstr in self.blocks:
            if "/" in idstr and not idstr.startswith("/rom@"):
                self._place_device_memory(idstr)
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
        if start < 0 or start + length > ADDRESS_LIMIT:
            self._warn(
                "memmap.address", f"{block!r} at {start:#x} lies outside of any address space"
            )
            return
        self.layers.append(
            (height, PhysicalRange(start, length, block, offset, kind, source, detail))
        )

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

    # --- main memory ---

    def _backends(self, rules: MachineRules) -> tuple[list[ListedBlock], list[ListedBlock]]:
        """Tell the blocks of main memory, in their order, from those of anything else."""
        aside = {*UNPLACEABLE, *rules.firmware, *(rules.secure[1] if rules.secure else ())}
        for idstr, reason in UNPLACEABLE.items():
            if idstr in self.blocks:
                self.unplaced[idstr] = reason
        free = [
            block
            for idstr, block in self.blocks.items()
            if "/" not in idstr
            and not _FIRMWARE_BLOCKS.fullmatch(idstr)
            and idstr not in aside
            and idstr not in pci.LOOSE
        ]
        free.sort(key=lambda block: _natural(block.idstr))
        main = [block for block in free if block.idstr == rules.main_memory]
        if not main:
            main = [block for block in free if re.fullmatch(r"ram-node\d+", block.idstr)]
        if not main:
            main = self._nodes_by_length(free)
        if not main and not self.said:
            names = ", ".join(repr(block.idstr) for block in free)
            raise UnsupportedError(
                "none of the RAM blocks is known to be main memory"
                + (f"; it may be among {names}, and --place says where they lie" if free else "")
            )
        return main, [block for block in free if block not in main]

    def _nodes_by_length(self, free: Sequence[ListedBlock]) -> list[ListedBlock]:
        """Choose the backends that make up what the CMOS says, in the order of their names.

        Without a CMOS there is main memory for certain only where there is but one block:
        every machine has some.
        """
        if len(free) == 1:
            return list(free)
        if self._cmos_lengths is None or len(free) > _MAX_BACKENDS:
            return []
        wanted = sum(self._cmos_lengths)
        chosen = [
            list(some)
            for count in range(1, len(free) + 1)
            for some in combinations(free, count)
            if sum(block.used_length for block in some) == wanted
        ]
        if not chosen:
            return []
        if len(chosen) > 1 or len(chosen[0]) > 1:
            self._warn(
                "memmap.numa-order",
                "main memory is taken to be "
                + ", ".join(repr(block.idstr) for block in chosen[0])
                + " in this order, going by names and lengths alone",
            )
        return chosen[0]

    def _place_main(self, main: Sequence[ListedBlock], rules: MachineRules) -> None:
        length = sum(block.used_length for block in main)
        low, source, detail = self._split(length, rules)
        high_base = self._high_base(length, low, rules)
        borders = ((rules.base, 0, low), (high_base, low, length))
        position = 0
        for block in main:
            end = position + block.used_length
            for base, first, last in borders:
                begin, stop = max(position, first), min(end, last)
                if begin < stop:
                    self._put(
                        *(_RAM, block.idstr, base + begin - first, stop - begin),
                        offset=begin - position,
                        source=source,
                        detail=detail,
                    )
            position = end
        self._end_of_main = high_base + length - low if length > low else rules.base + low
        self._high_base_used = high_base

    def _split(self, length: int, rules: MachineRules) -> tuple[int, str, str]:
        """Return how much lies below the hole, and how that is known."""
        rule = rules.split(length)
        if "x86_64" not in rules.architectures:
            return rule, "rule", self.proof
        cmos = self._cmos_lengths
        if cmos is None:
            self._warn("memmap.no-cmos", "no CMOS tells how main memory is split; the rule does")
        elif sum(cmos) == length:
            return cmos[0], "stream", "CMOS"
        else:
            self._warn(
                "memmap.cmos",
                f"CMOS tells of {cmos[0]:#x} + {cmos[1]:#x} bytes, but main memory has "
                f"{length:#x}; the rule for {rules.name} is taken",
            )
        return rule, "rule", self.proof

    @cached_property
    def _cmos_lengths(self) -> tuple[int, int] | None:
        """Bytes of main memory below and above 4 GiB as QEMU told the firmware."""
        clock = read_tree(self.source, "mc146818rtc", findings=self.findings)
        cmos = clock.data("cmos_data") if clock is not None else None
        if cmos is None or len(cmos) < 0x5E:
            return None
        extended = int.from_bytes(cmos[0x30:0x32], "little")
        low = MIB + (extended << 10)
        if extended == 0xFFFF:
            low = 16 * MIB + (int.from_bytes(cmos[0x34:0x36], "little") << 16)
        return low, int.from_bytes(cmos[0x5B:0x5E], "little") << 16

    def _high_base(self, length: int, low: int, rules: MachineRules) -> int:
        """Return where the part behind the hole begins (format.md 9.3)."""
        if rules.pci_window == 0 or not has_amd_hole(self.machine):
            return rules.high
        plugged = [region.start for region, _ in self._virtio_mem.values()]
        plugged += [device.base for device in self.hardware.devices if device.base is not None]
        if plugged:  # these lie right behind main memory
            return ABOVE_1T if min(plugged) >= ABOVE_1T else ABOVE_4G
        told = memory_starts(self.source)
        if told is not None:
            return ABOVE_1T if ABOVE_1T in told else ABOVE_4G
        most = max(self.hardware.max_memory or length, length)
        top = _round_up(ABOVE_4G + length - low, GIB)
        if most > length:
            top = _round_up(top + most - length + self.hardware.slots * GIB, GIB)
        if top + rules.pci_window - 1 < HYPERTRANSPORT:
            return ABOVE_4G
        amd = is_amd(self.hardware.cpu_vendor, self.hardware.cpu_model)
        if amd is None and length > low:
            self._warn(
                "memmap.relocation",
                "whether memory above 4 GiB was moved to 1 TiB depends on the processor's "
                "vendor, which the image does not tell; it is taken not to be AMD",
            )
        return ABOVE_1T if amd else ABOVE_4G

    # --- memory that can be plugged ---

    def _place_dimms(self, blocks: Sequence[ListedBlock]) -> None:
        """Place blocks that somebody proves to be DIMMs; others are nobody knows whose."""
        window = _round_up(max(self._end_of_main, self._high_base_used), GIB)
        known = {_backend_name(device): device for device in self.hardware.devices}
        taken = [(region.start, region.stop) for region, _ in self._virtio_mem.values()]
        loose, placed = [], 0
        for block in blocks:
            device = known.get(block.idstr)
            length = max(block.used_length - (device.label_length if device else 0), 0)
            if device is not None and device.base is not None:
                start, how = device.base, ("xml", "address of the memory device")
            elif block.guest_address is not None:
                start, how = window + block.guest_address, ("stream", "place in device memory")
            else:
                loose.append((block, length))
                continue
            placed += 1
            self._put_dimm(block, start, length, *how)
            taken.append((start, start + length))
        plugged = self._plugged_dimms - placed
        if not loose or plugged < len(loose):
            for block, _ in loose:
                self.unplaced[block.idstr] = NOBODYS
            if plugged > 0:
                self._warn(
                    "memmap.dimm",
                    f"{plugged} of {', '.join(repr(block.idstr) for block, _ in loose)} are "
                    "DIMMs, and nothing tells which; none of them is placed",
                )
            return
        for block, length in loose:
            start = _first_gap(taken, window, length)
            detail = "a plugged slot, first free place behind main memory"
            self._put_dimm(block, start, length, "rule", detail)
            taken.append((start, start + length))
        names = ", ".join(repr(block.idstr) for block, _ in loose)
        order = ", in the order of their names" if len(loose) > 1 else ""
        self._warn(
            "memmap.dimm",
            f"nothing tells the address of {names}; it is taken to be the first free one{order}, "
            "and --place says another",
        )

    @cached_property
    def _plugged_dimms(self) -> int:
        """Slots that the controller for memory hotplug, a part of another device, has filled."""
        for section in self.source.devices.sections:
            if section.idstr.rpartition("/")[2] in _HOTPLUG_SECTIONS:
                tree = read_tree(self.source, section.idstr, section.instance_id, self.findings)
                for field in tree.named("acpi_memory_hotplug") if tree else ():
                    if isinstance(field.value, Struct):
                        slots = field.value.structs("devs")
                        return sum(bool(slot.number("is_enabled")) for slot in slots)
        return 0

    def _put_dimm(
        self, block: ListedBlock, start: int, length: int, source: str, detail: str
    ) -> None:
        self._put(_RAM, block.idstr, start, length, kind="dimm", source=source, detail=detail)

    @cached_property
    def _virtio_mem(self) -> dict[str, tuple[range, list[tuple[int, int]]]]:
        """Addresses, and plugged (offset, length), of each virtio-mem device by its path."""
        found = {}
        for section in self.source.devices.sections:
            path, _, name = section.idstr.rpartition("/")
            if name != _VIRTIO_MEM_EARLY:
                continue
            tree = read_tree(self.source, section.idstr, section.instance_id, self.findings)
            facts = next(iter(tree.structs("tmp")), tree) if tree is not None else None
            if tree is None or facts is None:
                continue
            address, unit = facts.number("addr"), facts.number("block_size")
            length, bitmap = facts.number("region_size"), tree.data("bitmap")
            if address is None or not unit or length is None or bitmap is None:
                self._warn("memmap.virtio-mem", f"{section.idstr!r} is not as expected")
                continue
            runs = [(first * unit, count * unit) for first, count in _set_runs(bitmap)]
            found[path] = range(address, address + length), runs
        return found

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

    def _place_device_memory(self, idstr: str) -> None:
        block = self.blocks[idstr]
        path, _, name = idstr.rpartition("/")
        if path in self._virtio_mem:
            self._place_virtio_mem(block, path)
            return
        place = pci.find_memory(self.source, path, name, self.findings)
        if isinstance(place, str):
            self.unplaced[idstr] = place
            return
        start, detail = place
        kind = "rom" if name.endswith(".rom") else "vram"
        self._put(
            *(_DEVICE, idstr, start, block.used_length), kind=kind, source="stream", detail=detail
        )

    def _place_loose_device_memory(self) -> None:
        """Place memory of PCI devices whose blocks do not say whose they are."""
        for idstr, (device, bar) in pci.LOOSE.items():
            if idstr not in self.blocks:
                continue
            place = pci.find_loose(self.source, device, bar, self.findings)
            if isinstance(place, str):
                self.unplaced[idstr] = place
            else:
                self._put(
                    *(_DEVICE, idstr, place[0], self.blocks[idstr].used_length),
                    kind="vram",
                    source="stream",
                    detail=place[1],
                )

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
        shadowed = self._shadowed(rules)
        if shadowed is not None:
            for start in range(0xC0000, 0x100000, _SHADOW_STEP):
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
        """
        if rules.shadow is None:
            return None
        device, registers = rules.shadow
        config = pci.read_config(self.source, device.rpartition("/")[0], self.findings)
        every = set(range(0xC0000, 0x100000, _SHADOW_STEP))
        if config is None:
            self._warn("memmap.shadow", f"no {device!r} tells what lies below 1 MiB; RAM is taken")
            return every
        first, *others = config[registers : registers + 7]
        nibbles = [nibble for byte in others for nibble in (byte & 15, byte >> 4)]
        nibbles += [first >> 4] * 4
        return {start for start, nibble in zip(sorted(every), nibbles, strict=True) if nibble & 1}


def _natural(idstr: str) -> list[tuple[int, str]]:
    """Sort key under which ``r10`` comes behind ``r9``."""
    parts = re.split(r"([0-9]+)", idstr)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _backend_name(device: MemoryDevice) -> str | None:
    """Return the idstr that libvirt gives to a device's memory."""
    if device.slot is None or device.model not in ("dimm", "nvdimm"):
        return None
    return f"mem{device.model}{device.slot}"


def _first_gap(taken: Iterable[tuple[int, int]], start: int, length: int) -> int:
    """Return the first place from `start` on that is clear of all that is taken."""
    for begin, end in sorted(taken):
        if begin < start + length and start < end:
            start = _round_up(end, _DIMM_ALIGN)
    return start


def _round_up(number: int, unit: int) -> int:
    return -(-number // unit) * unit


def _set_runs(bitmap: bytes) -> list[tuple[int, int]]:
    """Return (first, count) for each run of set bits; bit i is bit i % 8 of byte i // 8."""
    bits = f"{int.from_bytes(bitmap, 'little'):b}"[::-1] if bitmap else ""
    return [(match.start(), len(match[0])) for match in re.finditer("1+", bits)]
