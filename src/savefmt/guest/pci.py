"""Device memory behind PCI base address registers (format.md 9.4)."""

from __future__ import annotations

from collections.abc import Iterable

from savefmt.guest.needs import GuestSource, read_tree
from savefmt.model import Finding, Section

HEADER_LENGTH = 64

_COMMAND = 0x04
_MEMORY_ENABLED = 0x02
_CLASS = 0x0A
_VGA_CLASS = 0x0300
_FIRST_BAR = 0x10
_ROM_BAR = 0x30

# The register that a block's memory is behind; of some devices another one.
_BARS = {
    "vga.vram": 0,
    "qxl.vgavram": 0,
    "bochs-display-vram": 0,
    "qxl.vram": 1,
    "erst.exchange": 1,
}
_BARS_OF = {("vmware_vga", "vga.vram"): 1}

LOOSE = {"vmsvga.fifo": ("vmware_vga", 2)}
"""Blocks without a path, the name of the device that has them, and the register."""

NO_REGISTER = "its place in the device is not known"
NO_DEVICE = "no device section tells its address"
UNKNOWN = (NO_REGISTER, NO_DEVICE)
"""Reasons for which a block may be seen by the guest for all that."""


def read_config(source: GuestSource, path: str, findings: list[Finding]) -> bytes | None:
    """Return the configuration space of a PCI device.

    Parameters
    ----------
    source : GuestSource
        The image.
    path : str
        The device's place as in idstrs, such as ``0000:00:02.0``.
    findings : list of Finding
        Receives what is damaged.

    Returns
    -------
    bytes or None
        None where no section has it.
    """
    for section in source.devices.sections:
        if section.idstr.rpartition("/")[0] != path:
            continue
        tree = read_tree(source, section.idstr, section.instance_id, findings)
        if tree is None:
            continue
        for field in tree.typed("pci config"):
            if isinstance(field.value, bytes) and len(field.value) >= HEADER_LENGTH:
                return field.value
        for field in tree.fields:  # virtio begins with a version, then it is the same
            opaque = field.type.startswith("virtio") and isinstance(field.value, bytes)
            if opaque and isinstance(field.value, bytes) and field.value[:4] == b"\0\0\0\2":
                return field.value[4 : 4 + 256]
    return None


def find_memory(
    source: GuestSource, path: str, name: str, findings: list[Finding]
) -> tuple[int, str] | str:
    """Find where a block of a PCI device lies.

    Parameters
    ----------
    source : GuestSource
        The image.
    path, name : str
        The two halves of the block's idstr.
    findings : list of Finding
        Receives what is damaged.

    Returns
    -------
    (int, str) or str
        Guest-physical address and how it is known, else why there is none.
    """
    is_rom = name.endswith(".rom")
    if not is_rom and name not in _BARS:
        return NO_REGISTER
    config = read_config(source, path, findings)
    if config is None:
        return NO_DEVICE
    if not config[_COMMAND] & _MEMORY_ENABLED:
        return "the device's memory is switched off"
    if is_rom:
        value = int.from_bytes(config[_ROM_BAR : _ROM_BAR + 4], "little")
        address = value & ~0x7FF
        if not value & 1 or not address:
            return "the device's ROM is switched off"
        return address, "PCI expansion ROM"
    devices = {s.idstr.rpartition("/")[2] for s in source.devices.sections if _path(s) == path}
    return _bar_address(config, _bar_of(devices, name))


def find_loose(
    source: GuestSource, device: str, number: int, findings: list[Finding]
) -> tuple[int, str] | str:
    """Find where the memory behind a register of the one device of that name lies.

    Parameters
    ----------
    source : GuestSource
        The image.
    device, number : str, int
        Name of the device's section without its path; the register.
    findings : list of Finding
        Receives what is damaged.

    Returns
    -------
    (int, str) or str
        Guest-physical address and how it is known, else why there is none.
    """
    paths = {_path(s) for s in source.devices.sections if s.idstr.rpartition("/")[2] == device}
    if len(paths) != 1:
        return NO_DEVICE
    config = read_config(source, paths.pop(), findings)
    if config is None:
        return NO_DEVICE
    if not config[_COMMAND] & _MEMORY_ENABLED:
        return "the device's memory is switched off"
    return _bar_address(config, number)


def _path(section: Section) -> str:
    return section.idstr.rpartition("/")[0]


def _bar_of(devices: Iterable[str], name: str) -> int:
    for device in devices:
        if (device, name) in _BARS_OF:
            return _BARS_OF[device, name]
    return _BARS[name]


def _bar_address(config: bytes, number: int) -> tuple[int, str] | str:
    at = _FIRST_BAR + 4 * number
    value = int.from_bytes(config[at : at + 4], "little")
    if value & 1:
        return "behind I/O ports"
    if value & 6 == 4:
        value |= int.from_bytes(config[at + 4 : at + 8], "little") << 32
    address = value & ~0xF
    if not address:
        return "the device's memory has no address"
    return address, f"PCI BAR {number}"


def has_vga(source: GuestSource, blocks: Iterable[str], findings: list[Finding]) -> bool:
    """Whether a device shows video memory from 640 KiB to 768 KiB."""
    for idstr in blocks:
        path, _, name = idstr.rpartition("/")
        if name == "vga.vram":
            config = read_config(source, path, findings) if path else None
            if (
                config is None
                or int.from_bytes(config[_CLASS : _CLASS + 2], "little") == _VGA_CLASS
            ):
                return True
    return False
