"""QEMU's options for the devices of a libvirt guest, at the addresses that its XML gives.

Host files and networks are not taken from the XML, since its author chose them: disks, networks
and channels get stand-ins of the same kind, and a remark names each stand-in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from savefmt.format.domain import Element, children, groups, integer
from savefmt.frozen import dataclass

Words = tuple[str, ...]
_NAME = re.compile(r"[\w.-]{1,32}")
_MAC = re.compile(r"([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}")
_BUILT_IN = frozenset({"pci-root", "pcie-root", "ide", "fdc", "isa"})
"""Controllers that come with the machine."""


@dataclass(frozen=True, slots=True)
class DeviceWords:
    """Options, and what is said of them.

    Attributes
    ----------
    options : tuple of tuple of str
        Each an option and its value.
    unknown : tuple of str
        Devices of the XML that must be added by hand.
    stand_ins : tuple of str
        What must be put in the place of stand-ins.
    """

    options: tuple[Words, ...]
    unknown: tuple[str, ...] = ()
    stand_ins: tuple[str, ...] = ()


def device_words(elements: Iterable[Element], root_bus: str) -> DeviceWords:
    """Make options of the devices in a domain XML.

    Parameters
    ----------
    elements : iterable of Element
        Of the domain, as deep as there are addresses.
    root_bus : str
        QEMU's name for the first PCI bus: ``pci.0`` or ``pcie.0``.

    Returns
    -------
    DeviceWords
        Controllers first.
    """
    maker = _Maker(root_bus)
    elements = list(elements)
    devices = [d for group in groups(elements, ("domain", "devices")) for d in children(group)]
    if root_bus == "pci.0" and not any(_is_usb(device[0]) for device in devices):
        maker.options.append(_DEFAULT_USB)
    devices.sort(key=_rank)
    for device in devices:
        maker.add(device)
    return DeviceWords(tuple(maker.options), tuple(maker.unknown), tuple(maker.stand_ins))


def _rank(device: list[Element]) -> tuple[int, int]:
    """Put what others sit on before them."""
    if device[0].path[-1] != "controller":
        return 2, 0
    given = device[0].attributes
    return (0, integer(given.get("index")) or 0) if given.get("type") == "pci" else (1, 0)


def _is_usb(device: Element) -> bool:
    return device.path[-1] == "controller" and device.attributes.get("type") == "usb"


_DEFAULT_USB = ("-device", "piix3-usb-uhci,id=usb,bus=pci.0,addr=0x1.0x2")
"""Of i440fx, which libvirt leaves out of the XML that it saves."""
_VIDEO = {
    "vga": "VGA",
    "cirrus": "cirrus-vga",
    "qxl": "qxl-vga",
    "bochs": "bochs-display",
    "virtio-vga": "virtio-vga",
    "virtio-vga-gl": "virtio-vga-gl",
    "virtio-gpu": "virtio-gpu-pci",
    "virtio-gpu-gl": "virtio-gpu-gl-pci",
}
"""By the model, and of virtio by the device, which libvirt tells from 12.5 on."""
_INPUTS = {
    ("usb", "tablet"): "usb-tablet",
    ("usb", "mouse"): "usb-mouse",
    ("usb", "keyboard"): "usb-kbd",
    ("virtio", "tablet"): "virtio-tablet-pci",
    ("virtio", "mouse"): "virtio-mouse-pci",
    ("virtio", "keyboard"): "virtio-keyboard-pci",
}
_USB = {
    "piix3-uhci": "piix3-usb-uhci",
    "qemu-xhci": "qemu-xhci",
    "nec-xhci": "nec-usb-xhci",
    "ich9-ehci1": "ich9-usb-ehci1",
}
_NETWORK_CARDS = {"virtio": "virtio-net-pci", "e1000": "e1000", "e1000e": "e1000e"}
_NETWORK_CARDS |= {"rtl8139": "rtl8139"}


class _Maker:
    """Turns one device after the other into options."""

    def __init__(self, root_bus: str) -> None:
        self.options: list[Words] = []
        self.unknown: list[str] = []
        self.stand_ins: list[str] = []
        self._root_bus = root_bus
        self._counts: dict[str, int] = {}
        self._ways: dict[str, Callable[[list[Element]], bool]] = {
            "controller": self._controller,
            "disk": self._disk,
            "interface": self._interface,
            "serial": self._serial,
            "channel": self._channel,
            "input": self._input,
            "video": self._video,
            "watchdog": self._watchdog,
            "memballoon": self._balloon,
            "rng": self._rng,
        }

    def add(self, device: list[Element]) -> None:
        """Add one, or note that it is not known here."""
        name = device[0].path[-1]
        if name in ("emulator", "console", "graphics", "audio", "alias"):
            return  # of the host, or another view of a serial port
        way = self._ways.get(name)
        if way is None or not way(device):
            model = device[0].attributes.get("model") or device[0].attributes.get("type") or ""
            self.unknown.append(f"{name} {model}".strip())

    # Addresses

    def _place(self, device: list[Element]) -> str | None:
        """Return where a PCI device sits, as properties; None where the XML does not say."""
        address = _one(device, "address")
        parts = [integer(address.get(part)) for part in ("bus", "slot", "function")]
        if address.get("type") != "pci" or None in parts:
            return None
        bus, slot, function = parts
        more = ",multifunction=on" if address.get("multifunction") == "on" else ""
        name = f"pci.{bus}" if bus else self._root_bus
        return f"bus={name},addr={slot:#x}" + (f".{function:#x}" if function else "") + more

    def _on_pci(self, kind: str, device: list[Element], *properties: str) -> bool:
        place = self._place(device)
        if place is None:
            return False
        self.options.append(("-device", ",".join((kind, *filter(None, properties), place))))
        return True

    def _number(self, kind: str) -> int:
        self._counts[kind] = self._counts.get(kind, -1) + 1
        return self._counts[kind]

    # One way for each kind

    def _controller(self, device: list[Element]) -> bool:
        given = device[0].attributes
        kind, model, index = given.get("type"), given.get("model", ""), integer(given.get("index"))
        if index is None:
            return False
        if kind in _BUILT_IN or model in _BUILT_IN or (kind == "sata" and index == 0):
            return True
        if kind == "usb" and model == "none":
            return True
        if kind == "pci" and model == "pcie-root-port":
            target = _one(device, "target")
            chassis, port = integer(target.get("chassis")), integer(target.get("port"))
            if chassis is None or port is None:
                return False
            properties = (f"port={port:#x}", f"chassis={chassis}", f"id=pci.{index}")
            return self._on_pci("pcie-root-port", device, *properties)
        if kind == "pci" and model == "pcie-to-pci-bridge":
            return self._on_pci(model, device, f"id=pci.{index}")
        if kind == "virtio-serial":
            return self._on_pci("virtio-serial-pci", device, f"id=virtio-serial{index}")
        if kind == "scsi" and model == "virtio-scsi":
            return self._on_pci("virtio-scsi-pci", device, f"id=scsi{index}")
        if kind == "usb" and model in _USB:
            name = "usb" if index == 0 else f"usb{index}"
            ports = integer(given.get("ports"))
            if ports is not None and "xhci" in model:
                return self._on_pci(_USB[model], device, f"p2={ports}", f"p3={ports}", f"id={name}")
            return self._on_pci(_USB[model], device, f"id={name}")
        return False

    def _disk(self, device: list[Element]) -> bool:
        target = _one(device, "target")
        name = target.get("dev", "")
        if target.get("bus") != "virtio" or not _NAME.fullmatch(name):
            return False
        if not self._on_pci("virtio-blk-pci", device, f"drive={name}"):
            return False
        only = "on" if any(e.path[-1] == "readonly" for e in device) else "off"
        node = f"driver=raw,node-name={name},read-only={only},file.driver=file"
        self.options.insert(-1, ("-blockdev", f"{node},file.filename={name}.img"))
        self.stand_ins.append(f"{name}.img stands for the disk {name}")
        return True

    def _interface(self, device: list[Element]) -> bool:
        card = _NETWORK_CARDS.get(_one(device, "model").get("type", ""))
        mac = _one(device, "mac").get("address", "")
        if card is None or not _MAC.fullmatch(mac):
            return False
        name = f"net{self._number('net')}"
        rom = "romfile=" if _one(device, "rom").get("enabled") == "no" else ""
        queues = integer(_one(device, "driver").get("queues")) or 1
        if queues > 1 or not self._on_pci(card, device, f"netdev={name}", f"mac={mac}", rom):
            return False
        self.options.insert(-1, ("-netdev", f"user,id={name},restrict=on"))
        self.stand_ins.append(f"the network {name} leads nowhere: give it the guest's own")
        return True

    def _serial(self, device: list[Element]) -> bool:
        target = _one(device, "target")
        port = integer(target.get("port"))
        if target.get("type") not in (None, "isa-serial") or port is None:
            return False
        self.options += [
            ("-chardev", f"null,id=serial{port}"),
            ("-device", f"isa-serial,chardev=serial{port},index={port}"),
        ]
        self.stand_ins.append(f"the serial port {port} leads nowhere (null)")
        return True

    def _channel(self, device: list[Element]) -> bool:
        target, address = _one(device, "target"), _one(device, "address")
        bus, port = integer(address.get("controller")), integer(address.get("port"))
        if target.get("type") != "virtio" or bus is None or port is None:
            return False
        name = f"channel{self._number('channel')}"
        title = target.get("name", "").replace(",", ",,")
        self.options += [
            ("-chardev", f"null,id={name}"),
            (
                "-device",
                f"virtserialport,bus=virtio-serial{bus}.0,nr={port},chardev={name},name={title}",
            ),
        ]
        self.stand_ins.append(f"the channel {target.get('name', '')} leads nowhere (null)")
        return True

    def _input(self, device: list[Element]) -> bool:
        given, address = device[0].attributes, _one(device, "address")
        bus = given.get("bus", "")
        if bus == "ps2":
            return True
        kind = _INPUTS.get((bus, given.get("type", "")))
        if kind is None:
            return False
        if bus == "virtio":
            return self._on_pci(kind, device)
        number, port = integer(address.get("bus")), address.get("port", "")
        if number is None or not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,3}){0,4}", port):
            return False
        hub = "usb" if number == 0 else f"usb{number}"
        self.options.append(("-device", f"{kind},bus={hub}.0,port={port}"))
        return True

    def _video(self, device: list[Element]) -> bool:
        model = _one(device, "model")
        kind = _VIDEO.get(model.get("device", model.get("type", "")))
        if kind is None:
            return model.get("type") == "none"
        memory = integer(model.get("vram"))
        size = f"vgamem_mb={memory >> 10}" if memory is not None and kind == "VGA" else ""
        return kind != "qxl-vga" and self._on_pci(kind, device, size)

    def _watchdog(self, device: list[Element]) -> bool:
        model = device[0].attributes.get("model")
        return model == "itco" or (model == "i6300esb" and self._on_pci("i6300esb", device))

    def _balloon(self, device: list[Element]) -> bool:
        model = device[0].attributes.get("model")
        return model == "none" or (model == "virtio" and self._on_pci("virtio-balloon-pci", device))

    def _rng(self, device: list[Element]) -> bool:
        name = f"rng{self._number('rng')}"
        if not self._on_pci("virtio-rng-pci", device, f"rng={name}"):
            return False
        self.options.insert(-1, ("-object", f"rng-random,id={name},filename=/dev/urandom"))
        return True


def _one(device: list[Element], name: str) -> dict[str, str]:
    path = (*device[0].path, name)
    return next((element.attributes for element in device if element.path == path), {})
