"""What a domain XML names outside of an image: disks, networks, devices of a host."""

from __future__ import annotations

import enum
from collections.abc import Iterator

from savefmt.format.domain import (
    MAX_DEPTH,
    Element,
    children,
    groups,
    integer,
    kibibytes,
    read_elements,
)
from savefmt.frozen import dataclass

_DEVICES = ("domain", "devices")
_CHANNELS = ("serial", "parallel", "console", "channel", "redirdev", "smartcard")
"""Devices whose other end is on the host, by their own ``type``."""
_REMOVABLE = ("cdrom", "floppy")
EMULATOR = "emulator"
"""The use of QEMU itself."""
_TEXTS = (
    ("os", "loader", "firmware"),
    ("os", "nvram", "variables of the firmware"),
    ("os", "kernel", "kernel"),
    ("os", "initrd", "initial RAM disk"),
    ("os", "dtb", "device tree"),
)


class Kind(enum.StrEnum):
    """What sort of thing it is, and so how one looks whether a host has it."""

    FILE = "file"
    """Or a block device, or a socket that somebody else listens on."""
    FOLDER = "folder"
    PLACE = "place"
    """A file or socket that is made when the guest starts; its folder must be there."""
    DEVICE = "device"
    PROGRAM = "program"
    NETWORK = "network"
    BRIDGE = "bridge"
    INTERFACE = "interface"
    PCI = "PCI device"
    USB = "USB device"
    SCSI = "SCSI device"
    MEDIATED = "mediated device"
    VOLUME = "volume"
    REMOTE = "remote disk"
    SECRET = "secret"
    PAGES = "huge pages"
    KVM = "KVM"
    MACHINE = "machine type"
    CPU = "CPU"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True)
class Outside:
    """Something that a guest has outside of its image.

    Attributes
    ----------
    kind : Kind
        What it is.
    name : str
        Path, name or address, as the XML has it.
    use : str
        What the guest has it for.
    format : str
        Of a disk, such as ``qcow2``.
    writable : bool
        Whether the guest writes to a disk.
    optional : bool
        Whether libvirt does without it.
    """

    kind: Kind
    name: str
    use: str
    format: str = ""
    writable: bool = False
    optional: bool = False


def outside_of(xml: bytes, *, at: int = 0) -> list[Outside]:
    """List what a domain XML names of its host.

    Parameters
    ----------
    xml : bytes
        The document, UTF-8, without the NUL that ends it in an image.
    at : int
        Offset of the document in the file, added to the offset of every error.

    Returns
    -------
    list of Outside
        Each thing once, in the order of the XML.

    Raises
    ------
    CorruptError
        If the document is not well-formed, not plain, or no domain.
    """
    elements = read_elements(xml, "domain", at, deepest=MAX_DEPTH)
    found: dict[tuple[Kind, str], Outside] = {}
    for thing in _outside(elements):
        if thing.name:
            found.setdefault((thing.kind, thing.name), thing)
    return list(found.values())


def _outside(elements: list[Element]) -> Iterator[Outside]:
    if elements[0].attributes.get("type") == "kvm":
        yield Outside(Kind.KVM, "/dev/kvm", "accelerator")
    for element in elements:
        if element.path == (*_DEVICES, "emulator"):
            yield Outside(Kind.PROGRAM, element.text.strip(), EMULATOR)
        for parent, name, use in _TEXTS:
            if element.path == ("domain", parent, name):
                yield Outside(Kind.FILE, element.text.strip(), use)
            elif element.path == ("domain", parent, name, "source"):
                yield Outside(Kind.FILE, element.attributes.get("file", ""), use)
    yield from _huge_pages(elements)
    for group in groups(elements, _DEVICES):
        for device in children(group):
            yield from _device(device)


def _device(device: list[Element]) -> Iterator[Outside]:
    name = device[0].path[-1]
    if name == "disk":
        yield from _disk(device)
    elif name == "interface":
        yield from _interface(device)
    elif name == "hostdev":
        yield from _host_device(device)
    elif name in _CHANNELS:
        yield from _channel(device[0], device, name)
    elif name == "rng":
        for backend in _all(device, "backend"):
            if backend.attributes.get("model") == "random":
                yield Outside(Kind.DEVICE, backend.text.strip() or "/dev/random", "random numbers")
            else:
                yield from _channel(backend, device, "random numbers", ("backend",))
    elif name == "tpm":
        yield from _tpm(device)
    elif name == "filesystem":
        yield from _filesystem(device)
    elif name == "input":
        for source in _all(device, "source"):
            path = source.attributes.get("evdev") or source.attributes.get("dev", "")
            yield Outside(Kind.DEVICE, path, "input")
    elif name == "memory":
        for source in _all(device, "source", "path"):
            yield Outside(Kind.FILE, source.text.strip(), "memory module", writable=True)
    elif name == "vsock":
        yield Outside(Kind.DEVICE, "/dev/vhost-vsock", "vsock")
    elif name == "graphics":
        for gl in _all(device, "gl"):
            yield Outside(Kind.DEVICE, gl.attributes.get("rendernode", ""), "graphics")


def _all(device: list[Element], *path: str) -> Iterator[Element]:
    whole = (*device[0].path, *path)
    return (element for element in device if element.path == whole)


def _one(device: list[Element], *path: str) -> dict[str, str]:
    """Return the attributes of an element, none where it is not there."""
    found = next(_all(device, *path), None)
    return found.attributes if found is not None else {}


# Disks


def _disk(device: list[Element]) -> Iterator[Outside]:
    target = _one(device, "target").get("dev", "")
    use = f"disk {target}".rstrip()
    removable = device[0].attributes.get("device") in _REMOVABLE
    writable = not removable and next(_all(device, "readonly"), None) is None
    optional = "startupPolicy" in _one(device, "source")
    yield from _image(device, (), use, writable=writable, optional=optional)
    depth: tuple[str, ...] = ("backingStore",)
    while next(_all(device, *depth), None) is not None:
        yield from _image(device, depth, f"backing file of {use}")
        depth = (*depth, "backingStore")
    for secret in (element for element in device if element.path[-1] == "secret"):
        yield Outside(Kind.SECRET, secret.attributes.get("uuid", ""), use)


def _image(
    device: list[Element],
    where: tuple[str, ...],
    use: str,
    *,
    writable: bool = False,
    optional: bool = False,
) -> Iterator[Outside]:
    source = _one(device, *where, "source")
    form = _one(device, *where, "format") if where else _one(device, "driver")
    if protocol := source.get("protocol"):
        host = _one(device, *where, "source", "host").get("name", "")
        place = f"{protocol}://{host}/{source.get('name', '')}"
        yield Outside(Kind.REMOTE, place, use)
    elif "pool" in source:
        yield Outside(Kind.VOLUME, f"{source['pool']}/{source.get('volume', '')}", use)
    elif source.get("type") == "pci":  # NVMe
        yield Outside(Kind.PCI, _pci(_one(device, *where, "source", "address")), use)
    elif "dir" in source:
        yield Outside(Kind.FOLDER, source["dir"], use)
    else:
        path = source.get("file") or source.get("dev") or source.get("path") or ""
        yield Outside(Kind.FILE, path, use, form.get("type", ""), writable, optional)


# Networks


def _interface(device: list[Element]) -> Iterator[Outside]:
    source = _one(device, "source")
    address = _one(device, "mac").get("address", "")
    use = f"network interface {address}".rstrip()
    match device[0].attributes.get("type"):
        case "network":
            yield Outside(Kind.NETWORK, source.get("network", ""), use)
        case "bridge":
            yield Outside(Kind.BRIDGE, source.get("bridge", ""), use)
        case "direct":
            yield Outside(Kind.INTERFACE, source.get("dev", ""), use)
        case "hostdev":
            yield Outside(Kind.PCI, _pci(_one(device, "source", "address")), use)
        case "vhostuser":
            kind = Kind.FILE if source.get("mode") == "client" else Kind.PLACE
            yield Outside(kind, source.get("path", ""), use)
        case "vdpa":
            yield Outside(Kind.DEVICE, source.get("dev", ""), use)


# Devices of the host


def _host_device(device: list[Element]) -> Iterator[Outside]:
    use, address = "host device", _one(device, "source", "address")
    match device[0].attributes.get("type"):
        case "pci":
            yield Outside(Kind.PCI, _pci(address), use)
        case "usb":
            vendor = _hex(_one(device, "source", "vendor").get("id"), 4)
            product = _hex(_one(device, "source", "product").get("id"), 4)
            if vendor and product:
                yield Outside(Kind.USB, f"{vendor}:{product}", use)
            else:
                place = f"bus {address.get('bus', '?')}, device {address.get('device', '?')}"
                yield Outside(Kind.USB, place, use)
        case "scsi":
            host = _one(device, "source", "adapter").get("name", "").removeprefix("scsi_host")
            where = (host, *(address.get(part, "") for part in ("bus", "target", "unit")))
            yield Outside(Kind.SCSI, ":".join(where) if host else "", use)
        case "mdev":
            yield Outside(Kind.MEDIATED, address.get("uuid", ""), use)


def _pci(address: dict[str, str]) -> str:
    parts = (("domain", 4), ("bus", 2), ("slot", 2), ("function", 1))
    domain, bus, slot, function = (_hex(address.get(name, "0"), width) for name, width in parts)
    return f"{domain}:{bus}:{slot}.{function}" if "slot" in address else ""


def _hex(text: str | None, width: int) -> str:
    """Read a number as libvirt writes it; empty if it is not a number."""
    number = integer(text)
    return "" if number is None else f"{number:0{width}x}"


# What else has another end on the host


def _channel(
    holder: Element, device: list[Element], use: str, where: tuple[str, ...] = ()
) -> Iterator[Outside]:
    source = _one(device, *where, "source")
    path = source.get("path", "")
    match holder.attributes.get("type"):
        case "dev":
            yield Outside(Kind.DEVICE, path, use)
        case "file" | "pipe":
            yield Outside(Kind.PLACE, path, use)
        case "unix":
            yield Outside(Kind.FILE if source.get("mode") == "connect" else Kind.PLACE, path, use)


def _tpm(device: list[Element]) -> Iterator[Outside]:
    match _one(device, "backend").get("type"):
        case "passthrough":
            path = _one(device, "backend", "device").get("path", "")
            yield Outside(Kind.DEVICE, path, "TPM")
        case "emulator":
            yield Outside(Kind.PROGRAM, "swtpm", "TPM")


def _filesystem(device: list[Element]) -> Iterator[Outside]:
    source = _one(device, "source")
    if "socket" in source:
        yield Outside(Kind.FILE, source["socket"], "file system")
    yield Outside(Kind.FOLDER, source.get("dir", ""), "file system")
    yield Outside(Kind.PROGRAM, _one(device, "binary").get("path", ""), "file system")


def _huge_pages(elements: list[Element]) -> Iterator[Outside]:
    here = ("domain", "memoryBacking", "hugepages")
    for _, *pages in groups(elements, here):
        sizes = [
            kibibytes(page.attributes.get("size", ""), page.attributes.get("unit"))
            for page in pages
            if page.path == (*here, "page")
        ]
        for size in sizes or [None]:
            yield Outside(Kind.PAGES, f"{size} KiB" if size else "of the default size", "memory")
