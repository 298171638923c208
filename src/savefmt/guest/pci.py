"""Device memory behind PCI base address registers (format.md 9.4)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from savefmt.guest.needs import GuestSource, read_tree
from savefmt.model import Finding, Section

HEADER_LENGTH = 64
MSIX, PCIE = 0x11, 0x10
"""Kinds of capabilities."""
VIRTIO_VERSION = b"\0\0\0\2"
"""What the state of a virtio device begins with; the configuration space follows."""

_COMMAND = 0x04
_MEMORY_ENABLED = 0x02
_CLASS = 0x0A
_VGA_CLASS = 0x0300
_FIRST_BAR = 0x10
_ROM_BAR = 0x30
_ROM = -1

# The register that a block's memory is behind; of some devices another one.
_BARS = {
    "vga.vram": 0,
    "qxl.vgavram": 0,
    "bochs-display-vram": 0,
    "qxl.vram": 1,
    "erst.exchange": 1,
}
_BARS_OF = {("vmware_vga", "vga.vram"): 1}
# Devices with all of their blocks, of any name, behind one register.
_SHARED_MEMORY = {"ivshmem-plain": 2}

LOOSE = {"vmsvga.fifo": ("vmware_vga", 2)}
"""Blocks without a path, the name of the device that has them, and the register."""

_MEMORY_WINDOW = 0x20
_PREFETCHABLE_WINDOW = 0x24

NO_REGISTER = "its place in the device is not known"
NO_DEVICE = "no device section tells its address"
TRANSLATED = "the machine's PCI bridges translate addresses, and nothing here tells how"
UNKNOWN = (NO_REGISTER, NO_DEVICE, TRANSLATED)
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
            if opaque and isinstance(field.value, bytes) and field.value[:4] == VIRTIO_VERSION:
                return field.value[4 : 4 + 256]
    return None


def capabilities(config: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield kind and bytes of the capabilities, each to the end of the space at most.

    Parameters
    ----------
    config : bytes
        A configuration space.

    Yields
    ------
    (int, bytes)
        Such as `MSIX`, and the bytes from the kind on.
    """
    space, at, seen = config[:256], config[0x34] & 0xFC, set[int]()
    while 0x40 <= at < len(space) - 1 and at not in seen:
        seen.add(at)
        yield space[at], space[at:]
        at = space[at + 1] & 0xFC


def msix_vectors(capability: bytes) -> int:
    """Return how many vectors the capability of that kind states."""
    return (int.from_bytes(capability[2:4], "little") & 0x7FF) + 1


def find_memory(
    source: GuestSource, path: str, name: str, length: int, findings: list[Finding]
) -> tuple[int, str] | str:
    """Find where a block of a PCI device lies.

    Parameters
    ----------
    source : GuestSource
        The image.
    path, name : str
        The two halves of the block's idstr.
    length : int
        Bytes of the block.
    findings : list of Finding
        Receives what is damaged.

    Returns
    -------
    (int, str) or str
        Guest-physical address and how it is known, else why there is no address.
    """
    names = {s.idstr.rpartition("/")[2] for s in source.devices.sections if _path(s) == path}
    number = _ROM if name.endswith(".rom") else _bar_of(names, name)
    if number is None:
        return NO_REGISTER
    return _find_behind(source, path, number, length, findings)


def _find_behind(
    source: GuestSource, path: str, number: int, length: int, findings: list[Finding]
) -> tuple[int, str] | str:
    """Find the memory behind a register of a device."""
    config = read_config(source, path, findings)
    if config is None:
        return NO_DEVICE
    if not config[_COMMAND] & _MEMORY_ENABLED:
        return "the device's memory is switched off"
    found = _rom_address(config) if number == _ROM else _bar_address(config, number)
    if isinstance(found, str):
        return found
    if _hidden(source, path, range(found[0], found[0] + length), findings):
        return "a bridge above the device does not pass its memory on"
    return found


def _hidden(source: GuestSource, path: str, addresses: range, findings: list[Finding]) -> bool:
    """Whether a bridge between the root and a device lets no access to its memory through."""
    root, *slots = path.rsplit(":", path.count(":") - 1)
    for depth in range(1, len(slots)):
        bridge = read_config(source, ":".join((root, *slots[:depth])), findings)
        if bridge is None or not bridge[_COMMAND] & _MEMORY_ENABLED:
            return True
        windows = (_window(bridge, _MEMORY_WINDOW), _window(bridge, _PREFETCHABLE_WINDOW))
        if not any(addresses.start >= w.start and addresses.stop <= w.stop for w in windows):
            return True
    return False


def _window(bridge: bytes, at: int) -> range:
    """Return the addresses that a bridge passes on by one pair of registers."""
    base, limit = (int.from_bytes(bridge[n : n + 2], "little") for n in (at, at + 2))
    upper = [0, 0]
    if at == _PREFETCHABLE_WINDOW and base & 15 == 1:
        upper = [int.from_bytes(bridge[n : n + 4], "little") for n in (at + 4, at + 8)]
    first, last = (
        word >> 4 << 20 | high << 32 for word, high in zip((base, limit), upper, strict=True)
    )
    return range(first, last + (1 << 20))


def find_loose(
    source: GuestSource, device: str, number: int, length: int, findings: list[Finding]
) -> tuple[int, str] | str:
    """Find where the memory behind a register of the one device of that name lies.

    Parameters
    ----------
    source : GuestSource
        The image.
    device, number, length : str, int, int
        Name of the device's section without its path; the register; bytes of the block.
    findings : list of Finding
        Receives what is damaged.

    Returns
    -------
    (int, str) or str
        Guest-physical address and how it is known, else why there is no address.
    """
    paths = {_path(s) for s in source.devices.sections if s.idstr.rpartition("/")[2] == device}
    if len(paths) != 1:
        return NO_DEVICE
    return _find_behind(source, paths.pop(), number, length, findings)


def _path(section: Section) -> str:
    return section.idstr.rpartition("/")[0]


def _bar_of(devices: Iterable[str], name: str) -> int | None:
    for device in devices:
        if device in _SHARED_MEMORY:
            return _SHARED_MEMORY[device]
        if (device, name) in _BARS_OF:
            return _BARS_OF[device, name]
    return _BARS.get(name)


def _rom_address(config: bytes) -> tuple[int, str] | str:
    value = int.from_bytes(config[_ROM_BAR : _ROM_BAR + 4], "little")
    address = value & ~0x7FF
    if not value & 1 or not address:
        return "the device's ROM is switched off"
    return address, "PCI expansion ROM"


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
