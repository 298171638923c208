"""Plugged memory: virtio-mem and DIMMs, as far as the image proves their addresses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from savefmt.format.devicetree import Struct
from savefmt.format.hardware import Hardware, MemoryDevice
from savefmt.format.ram import ListedBlock
from savefmt.guest.acpi import persistent_ranges
from savefmt.guest.needs import GuestSource, read_tree
from savefmt.model import Finding, Severity

NOBODYS = "nothing tells whose memory it is"
SOMEWHERE = "a DIMM, and nothing tells where it is plugged"

_VIRTIO_MEM_EARLY = "virtio-mem-device-early"
# Devices that have the controller for memory hotplug, and the field that it is.
_CONTROLLERS = {
    "ICH9LPC": "acpi_memory_hotplug",
    "piix4_pm": "acpi_memory_hotplug",
    "acpi-ged": "memhp_state",
}


class VirtioMem(NamedTuple):
    """A virtio-mem device: its addresses, and (offset, length) of what is plugged there."""

    region: range
    runs: list[tuple[int, int]]


class Dimm(NamedTuple):
    """Where a block lies as a DIMM, how much of it, and what proves that."""

    block: str
    start: int
    length: int
    source: str
    detail: str


def find_virtio_mem(source: GuestSource, findings: list[Finding]) -> dict[str, VirtioMem]:
    """Return the virtio-mem devices by their paths.

    Parameters
    ----------
    source : GuestSource
        The image.
    findings : list of Finding
        Receives what is damaged.

    Returns
    -------
    dict of str to VirtioMem
        As their own sections tell.
    """
    found = {}
    for section in source.devices.sections:
        path, _, name = section.idstr.rpartition("/")
        if name != _VIRTIO_MEM_EARLY:
            continue
        tree = read_tree(source, section.idstr, section.instance_id, findings)
        facts = next(iter(tree.structs("tmp")), tree) if tree is not None else None
        if tree is None or facts is None:
            continue
        address, unit = facts.number("addr"), facts.number("block_size")
        length, bitmap = facts.number("region_size"), tree.data("bitmap")
        if address is None or not unit or length is None or bitmap is None:
            findings.append(
                Finding(
                    "memmap.virtio-mem",
                    Severity.WARNING,
                    f"the state of {section.idstr!r} is not as expected, so its memory is not "
                    "placed",
                )
            )
            continue
        runs = [(first * unit, count * unit) for first, count in _set_runs(bitmap)]
        found[path] = VirtioMem(range(address, address + length), runs)
    return found


def place_dimms(
    source: GuestSource,
    hardware: Hardware,
    blocks: Sequence[ListedBlock],
    window: int | None,
    findings: list[Finding],
) -> tuple[list[Dimm], dict[str, str]]:
    """Place the blocks that something proves to be DIMMs.

    Parameters
    ----------
    source : GuestSource
        The image.
    hardware : Hardware
        What the domain XML says.
    blocks : sequence of ListedBlock
        All blocks that are neither main memory nor known to belong to a device.
    window : int or None
        Where plugged memory begins; None if that is not known.
    findings : list of Finding
        Receives findings about memory whose place is not known.

    Returns
    -------
    (list of Dimm, dict of str to str)
        The DIMMs, and why each of the other blocks is not placed.
    """
    known = {_backend_name(device): device for device in hardware.devices}
    placed = [
        Dimm(
            *(block.idstr, device.base, max(block.used_length - device.label_length, 0)),
            *("xml", "address of the memory device"),
        )
        for block in blocks
        if (device := known.get(block.idstr)) is not None and device.base is not None
    ]
    slots = _filled_slots(source, findings)
    slots -= sum(known[dimm.block].model == "dimm" for dimm in placed)
    placed += _persistent(source, _others(blocks, placed), placed)
    listed = [b for b in _others(blocks, placed) if b.guest_address is not None]
    if window is not None and len(listed) <= slots:
        slots -= len(listed)
        placed += [
            Dimm(
                *(block.idstr, window + (block.guest_address or 0), block.used_length),
                *("stream", "place in device memory"),
            )
            for block in listed
        ]
    loose = _others(blocks, placed)
    slots -= sum(block.idstr in source.places for block in loose)
    loose = [block for block in loose if block.idstr not in source.places]
    if loose and slots > 0:
        names = ", ".join(repr(block.idstr) for block in loose)
        findings.append(
            Finding(
                "memmap.dimm",
                Severity.WARNING,
                f"{slots} of {names} {'are DIMMs' if slots > 1 else 'is a DIMM'}, and nothing "
                "tells the address; none of them is placed, and --place tells savefmt where "
                "they are",
            )
        )
    reason = SOMEWHERE if 0 < len(loose) <= slots else NOBODYS
    return placed, {block.idstr: reason for block in loose}


def _others(blocks: Iterable[ListedBlock], placed: Iterable[Dimm]) -> list[ListedBlock]:
    names = {dimm.block for dimm in placed}
    return [block for block in blocks if block.idstr not in names]


def _persistent(
    source: GuestSource, loose: list[ListedBlock], placed: Sequence[Dimm]
) -> list[Dimm]:
    """Place NVDIMMs by the firmware's table of them (NFIT).

    Each range there has its block, which is no shorter.  The longest range comes first:
    where one block alone is long enough for it, it is that one.
    """
    ranges = persistent_ranges(source) if loose else []
    taken = {dimm.start for dimm in placed}
    found: list[Dimm] = []
    for start, length in sorted(ranges, key=lambda each: -each[1]):
        fitting = [block for block in _others(loose, found) if block.used_length >= length]
        if start in taken:
            continue
        if len(fitting) != 1:
            break
        found.append(Dimm(fitting[0].idstr, start, length, "stream", "NFIT of the firmware"))
    return found


def _filled_slots(source: GuestSource, findings: list[Finding]) -> int:
    """Count the slots that the controller for memory hotplug, a part of a device, has filled."""
    for section in source.devices.sections:
        name = _CONTROLLERS.get(section.idstr.rpartition("/")[2])
        if name is None:
            continue
        tree = read_tree(source, section.idstr, section.instance_id, findings)
        for field in tree.named(name) if tree else ():
            if isinstance(field.value, Struct):
                slots = field.value.structs("devs")
                return sum(bool(slot.number("is_enabled")) for slot in slots)
    return 0


def plugged_starts(hardware: Hardware, devices: Mapping[str, VirtioMem]) -> list[int]:
    """Return where plugged memory begins, as XML and devices tell."""
    told = [device.base for device in hardware.devices if device.base is not None]
    return told + [device.region.start for device in devices.values()]


def _backend_name(device: MemoryDevice) -> str | None:
    """Return the idstr that libvirt gives to a device's memory."""
    if device.slot is None or device.model not in ("dimm", "nvdimm"):
        return None
    return f"mem{device.model}{device.slot}"


def _set_runs(bitmap: bytes) -> list[tuple[int, int]]:
    """Return (first, count) for each run of set bits; bit i is bit i % 8 of byte i // 8."""
    bits = f"{int.from_bytes(bitmap, 'little'):b}"[::-1] if bitmap else ""
    return [(match.start(), len(match[0])) for match in re.finditer("1+", bits)]
