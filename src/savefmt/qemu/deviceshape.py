"""Device properties that QEMU compares only while it loads: place behind a controller, ports."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

from savefmt.format.devicetree import Struct, Value
from savefmt.frozen import dataclass
from savefmt.guest.needs import read_tree
from savefmt.guest.pci import MSIX, PCIE, capabilities, msix_vectors
from savefmt.guest.virtiostate import SerialPorts, serial_ports
from savefmt.image import SaveImage
from savefmt.model import Section

_PLACE = r"(?P<place>[0-9a-f]{4}:[0-9a-f]{2}(?::[0-9a-f]{2}\.[0-7])+)"
_USB = re.compile(rf"{_PLACE}/(?P<port>\d+(?:\.\d+)*)/usb-[^/]+")
_SCSI = re.compile(rf"{_PLACE}/(?P<address>\d+:\d+:\d+)/(?P<name>[^/]+)")
_SERIAL = re.compile(rf"{_PLACE}/virtio-console")
_HOTPLUG = 1 << 5
"""Of a slot's capabilities: a device may come by surprise; the native kind may be hidden."""
_PLUGGING = re.compile(r"(?:.*/)?(?:ICH9LPC|piix4_pm|acpi-ged)")
"""Sections that have the slots for memory, if there are any."""

ReadConfig = Callable[[str], "bytes | None"]
"""Returns the configuration space of the device at a place."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a QEMU tells about the inside of its devices.

    Attributes
    ----------
    functions : mapping of str to mapping
        Properties of PCI functions, by place: those of `told_by`.
    usb_ports : tuple of str or None
        Of all USB devices; None where this QEMU does not tell.
    scsi : mapping of str to str
        Types (QOM) of SCSI devices, by ``place/channel:id:lun``.
    serial : mapping of str to SerialPorts
        Ports of virtio-serial devices, by place.
    slots : int or None
        For memory to be plugged.
    """

    functions: Mapping[str, Mapping[str, object]] = {}
    usb_ports: tuple[str, ...] | None = None
    scsi: Mapping[str, str] = {}
    serial: Mapping[str, SerialPorts] = {}
    slots: int | None = None


def told_by(properties: frozenset[str]) -> frozenset[str]:
    """Return which properties of a PCI function matter here."""
    port = {"port", "slot", "hotplug"} if "chassis" in properties else set()
    return properties & ({"vectors", "p2", "p3"} | port)


Difference = tuple[str, str]
"""What differs, and what to do."""


def compare_shapes(
    image: SaveImage, sections: Iterable[Section], shape: Shape, config: ReadConfig
) -> Iterator[Difference]:
    """Yield what QEMU would refuse after it has begun.

    Parameters
    ----------
    image : SaveImage
        Open.
    sections : iterable of Section
        All of its device sections.
    shape : Shape
        Of the QEMU.
    config : callable
        Reads a configuration space.

    Yields
    ------
    (str, str)
        What differs, and what to do.
    """
    idstrs = [section.idstr for section in sections]
    for place, values in shape.functions.items():
        yield from _compare_function(image, idstrs, place, values, config(place))
    yield from _compare_usb(idstrs, shape.usb_ports)
    yield from _compare_scsi(idstrs, shape)
    yield from _compare_serial(image, idstrs, shape)
    if shape.slots is not None:
        yield from _compare_slots(image, idstrs, shape.slots)


def _compare_function(
    image: SaveImage,
    idstrs: Iterable[str],
    place: str,
    values: Mapping[str, object],
    config: bytes | None,
) -> Iterator[Difference]:
    saved = _of_config(config) if config is not None else {}
    if "p2" in values and f"{place}/xhci" in idstrs:
        ports = _ports(read_tree(image, f"{place}/xhci"))
        here = _number(values["p2"]) + _number(values.get("p3"))
        if ports and ports != here:
            yield (
                f"the USB controller at {place} has {ports} ports in the image and {here} in "
                "this QEMU",
                f"give it p2= and p3= that make {ports}; libvirt's have p2=15,p3=15",
            )
    for name in sorted(saved.keys() & values.keys()):
        had, has = saved[name], _number(values[name])
        if had != has:
            yield (
                f"the device at {place} has {name}={had} in the image and {name}={has} in this "
                "QEMU",
                f"give it {_remedy(name, had)}",
            )


def _remedy(name: str, had: int) -> str:
    if name == "vectors":
        return f"the queues that it had, or vectors={had}"
    return f"{name}={had}" if name != "hotplug" else f"hotplug={'on' if had else 'off'}"


def _number(value: object) -> int:
    return int(value) if isinstance(value, int) else 0


def _of_config(config: bytes) -> dict[str, int]:
    """Return what a configuration space tells about a device's properties."""
    found: dict[str, int] = {}
    for kind, body in capabilities(config):
        if kind == MSIX and len(body) >= 4:
            found["vectors"] = msix_vectors(body)
        elif kind == PCIE and len(body) >= 0x18:
            slot = int.from_bytes(body[0x14:0x18], "little")
            found |= {"port": body[0x0F], "slot": slot >> 19, "hotplug": int(bool(slot & _HOTPLUG))}
    return found


def _ports(tree: Struct | None) -> int:
    """Return how many ports the state of an XHCI controller has."""
    return sum(_count(field.value) for field in tree.named("ports")) if tree is not None else 0


def _count(value: Value) -> int:
    return len(value) if isinstance(value, tuple) else 1


def _compare_usb(idstrs: Iterable[str], ports: tuple[str, ...] | None) -> Iterator[Difference]:
    if ports is None:
        return
    had = Counter(match["port"] for idstr in idstrs if (match := _USB.fullmatch(idstr)))
    if had.total() == len(ports) and had != Counter(ports):  # else the count is told already
        yield (
            f"the image has USB devices at the ports {_listed(had.elements())} and this QEMU at "
            f"{_listed(ports)}",
            "give each device the port= that it had",
        )


def _listed(ports: Iterable[str]) -> str:
    return ", ".join(sorted(ports))


def _compare_scsi(idstrs: Iterable[str], shape: Shape) -> Iterator[Difference]:
    had = {
        f"{match['place']}/{match['address']}": match["name"]
        for idstr in idstrs
        if (match := _SCSI.fullmatch(idstr))
    }
    if len(had) != len(shape.scsi):  # told already
        return
    for address in sorted(had.keys() - shape.scsi.keys()):
        channel, number, lun = address.rpartition("/")[2].split(":")
        yield (
            f"the image has a {had[address]} at {address} and this QEMU has nothing there",
            f"give it channel={channel},scsi-id={number},lun={lun}",
        )


def _compare_serial(image: SaveImage, idstrs: Iterable[str], shape: Shape) -> Iterator[Difference]:
    """Compare the ports of guest agents and the like."""
    for idstr in idstrs:
        match = _SERIAL.fullmatch(idstr)
        here = shape.serial.get(match["place"]) if match else None
        if match is None or here is None:
            continue
        tree = read_tree(image, idstr)
        state = tree.data("virtio") if tree is not None else None
        had = serial_ports(state) if state is not None else None
        if had is None or (had.numbers == here.numbers and had.console <= here.console):
            continue
        yield (
            f"the virtio-serial device at {match['place']} has the ports {_numbers(had)} in the "
            f"image and {_numbers(here)} in this QEMU",
            "give it the channels and consoles that the guest had, each with its nr=",
        )


def _numbers(ports: SerialPorts) -> str:
    numbers = sorted(ports.numbers | ({0} if ports.console else set()))
    return ", ".join(map(str, numbers)) or "none"


def _compare_slots(image: SaveImage, idstrs: Iterable[str], slots: int) -> Iterator[Difference]:
    for idstr in filter(_PLUGGING.fullmatch, idstrs):
        tree = read_tree(image, idstr)
        states = [field.value for field in tree.walk()] if tree is not None else []
        for state in states:
            if not isinstance(state, Struct) or state.name != "memory hotplug state":
                continue
            had = len(state.values("devs"))
            if had != slots:
                yield (
                    f"the image has {had} slots for memory and this QEMU has {slots}",
                    f"start it with slots={had} behind -m, and the maxmem= that the guest had"
                    if had
                    else "leave slots= and maxmem= out behind -m",
                )
