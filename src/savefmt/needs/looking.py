"""Whether this host has a thing that an image names.

The writer of the image chose the names. They are looked up and never run. Only a plain file
that the XML calls a qcow2 disk is opened, to read its first bytes.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from savefmt.errors import FormatError
from savefmt.format.outside import Kind, Outside
from savefmt.format.qcow2 import MAGIC, backing_name
from savefmt.frozen import dataclass
from savefmt.reports import Presence

_NETWORK_INTERFACES = Path("/sys/class/net")
_BUSES = Path("/sys/bus")
_HUGE_PAGES = Path("/sys/kernel/mm/hugepages")
_DEFINED = Path("/etc/libvirt")
_ACTIVE = Path("/run/libvirt")
_MOST_LAYERS = 200
_SOONER = 1.0
"""Seconds by which a disk may be newer than the image: libvirt writes both at once."""

Answer = tuple[Presence, str]
HERE: Answer = (Presence.HERE, "")


@dataclass(frozen=True, slots=True)
class Looker:
    """Looks for things on this host.

    Attributes
    ----------
    saved : float
        When the image was written, in seconds since the epoch.
    memory : int
        Bytes that the guest has.
    """

    saved: float
    memory: int

    def look(self, thing: Outside) -> Answer:
        """Tell whether a thing is here, and why it is not, or what is odd about it."""
        ways: dict[Kind, Callable[[Outside], Answer]] = {
            Kind.FILE: self._file,
            Kind.FOLDER: _folder,
            Kind.PLACE: _place,
            Kind.DEVICE: _device,
            Kind.PROGRAM: _program,
            Kind.KVM: _device,
            Kind.NETWORK: _network,
            Kind.BRIDGE: _interface,
            Kind.INTERFACE: _interface,
            Kind.PCI: _on_bus("pci"),
            Kind.SCSI: _on_bus("scsi"),
            Kind.MEDIATED: _on_bus("mdev"),
            Kind.USB: _usb,
            Kind.VOLUME: _volume,
            Kind.SECRET: _secret,
            Kind.PAGES: self._pages,
        }
        way = ways.get(thing.kind)
        if way is None:
            return Presence.UNKNOWN, "savefmt does not look for this"
        presence, reason = way(thing)
        if presence is Presence.MISSING and thing.optional:
            return Presence.UNKNOWN, f"{reason}; libvirt goes on without it"
        return presence, reason

    def _file(self, thing: Outside) -> Answer:
        status = _status(thing.name)
        if not isinstance(status, os.stat_result):
            return status
        if stat.S_ISDIR(status.st_mode):
            return _missing("this is a folder")
        if thing.format == "qcow2" and stat.S_ISREG(status.st_mode):
            head = _head(thing.name)
            if head is None:
                return Presence.UNKNOWN, "it cannot be read by this user"
            if head[:4] != MAGIC:
                return _missing("this is not a qcow2 disk image")
        if thing.writable and status.st_mtime > self.saved + _SOONER:
            return (
                Presence.HERE,
                "written after the image was, so that the guest may not know what is on it",
            )
        return HERE

    def _pages(self, thing: Outside) -> Answer:
        folder = _HUGE_PAGES / f"hugepages-{thing.name.replace(' KiB', 'kB')}"
        if folder.name not in _names(_HUGE_PAGES):
            if thing.name[0].isdigit():
                return _missing("this host has no pages of that size")
            return Presence.UNKNOWN, "savefmt does not look for this"
        try:
            free = int((folder / "free_hugepages").read_text())
        except (OSError, ValueError):
            return Presence.UNKNOWN, "this host does not tell"
        needed = -(-self.memory // (int(thing.name.partition(" ")[0]) << 10))
        if free < needed:
            return _missing(f"{free} are free, and {needed} are needed")
        return HERE


def layers_of(disk: Outside) -> Iterator[Outside]:
    """Yield the backing files that a qcow2 disk on this host has, from the uppermost down.

    Parameters
    ----------
    disk : Outside
        A disk by its path.

    Yields
    ------
    Outside
        Its name may be one that is no path, such as ``nbd://host/export``.
    """
    path, seen = disk.name, {disk.name}
    for _ in range(_MOST_LAYERS):
        head = _head(path)
        try:
            backing = backing_name(head or b"")
        except FormatError:
            return
        if backing is None:
            return
        name, form = backing
        if name.startswith("json:") or "://" in name:
            yield Outside(Kind.REMOTE, name, f"backing file of {disk.use}")
            return
        path = os.path.join(os.path.dirname(path), name.removeprefix("file:"))
        if path in seen:
            return
        seen.add(path)
        yield Outside(Kind.FILE, path, f"backing file of {disk.use}", form)


def _head(path: str) -> bytes | None:
    """Return the first cluster of a plain file; None if it cannot be read."""
    try:
        # To open a FIFO frees who waits at its other end, and some devices act on it.
        if not stat.S_ISREG(os.stat(path).st_mode):
            return None
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        return os.pread(descriptor, 1 << 16, 0)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _status(path: str) -> os.stat_result | Answer:
    if not os.path.isabs(path):
        return Presence.UNKNOWN, "the name is not an absolute path"
    try:
        return os.stat(path)
    except FileNotFoundError:
        return _missing("")
    except PermissionError:
        return Presence.UNKNOWN, "this user may not look there"
    except (OSError, ValueError) as error:
        return _missing(getattr(error, "strerror", None) or str(error))


def _missing(reason: str) -> Answer:
    return Presence.MISSING, reason


def _folder(thing: Outside) -> Answer:
    status = _status(thing.name)
    if isinstance(status, os.stat_result):
        return HERE if stat.S_ISDIR(status.st_mode) else _missing("this is not a folder")
    return status


def _place(thing: Outside) -> Answer:
    if not os.path.isabs(thing.name):
        return Presence.UNKNOWN, "the name is not an absolute path"
    folder = os.path.dirname(thing.name)
    status = _status(folder)
    if isinstance(status, os.stat_result):
        return HERE
    return status[0], status[1] or "the folder for it is not there"


def _device(thing: Outside) -> Answer:
    status = _status(thing.name)
    if isinstance(status, os.stat_result):
        if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
            return HERE
        return _missing("this is not a device")
    return status


def _program(thing: Outside) -> Answer:
    if not os.path.isabs(thing.name):
        return HERE if shutil.which(thing.name) else _missing("it is not in PATH")
    status = _status(thing.name)
    if isinstance(status, os.stat_result):
        return HERE if os.access(thing.name, os.X_OK) else _missing("it cannot be run")
    return status


# What libvirt knows by name


def _names(folder: Path) -> set[str]:
    """Return the names in a folder, so that no name from an image becomes a path."""
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()


def _known_to_libvirt(name: str, kind: str, defined: str) -> Answer:
    file = f"{name}.xml"
    if file in _names(_ACTIVE / kind):
        return HERE
    try:
        there = file in os.listdir(_DEFINED / defined)
    except FileNotFoundError:
        there = False
    except OSError:
        return Presence.UNKNOWN, "this user may not ask libvirt's files"
    return _missing("it is defined and not active" if there else "libvirt here does not know it")


def _network(thing: Outside) -> Answer:
    return _known_to_libvirt(thing.name, "network", "qemu/networks")


def _volume(thing: Outside) -> Answer:
    pool = thing.name.partition("/")[0]
    presence, reason = _known_to_libvirt(pool, "storage", "storage")
    if presence is Presence.HERE:
        return Presence.UNKNOWN, "its pool is active; virsh vol-list tells what is in it"
    return presence, f"the pool {pool}: {reason}"


def _secret(thing: Outside) -> Answer:
    defined = f"{thing.name}.xml" in _names(_DEFINED / "secrets")
    return HERE if defined else (Presence.UNKNOWN, "virsh secret-list tells")


# Devices


def _interface(thing: Outside) -> Answer:
    if thing.name not in _names(_NETWORK_INTERFACES):
        return _missing("")
    if thing.kind is Kind.BRIDGE and "bridge" not in _names(_NETWORK_INTERFACES / thing.name):
        return _missing("this is not a bridge")
    return HERE


def _on_bus(bus: str) -> Callable[[Outside], Answer]:
    def look(thing: Outside) -> Answer:
        devices = _BUSES / bus / "devices"
        if thing.name not in _names(devices):
            return _missing("")
        if bus == "pci" and "iommu_group" not in _names(devices / thing.name):
            return _missing("it is in no IOMMU group, so VFIO cannot use it")
        return HERE

    return look


def _usb(thing: Outside) -> Answer:
    devices = _BUSES / "usb" / "devices"
    if ":" not in thing.name:
        return Presence.UNKNOWN, "nothing tells where another host has it plugged in"
    for device in _names(devices):
        vendor, product = (_word(devices / device / part) for part in ("idVendor", "idProduct"))
        if f"{vendor}:{product}" == thing.name:
            return HERE
    return _missing("")


def _word(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ""
