"""What the domain XML says about processor, memory and screen of the guest (format.md 9.6)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from savefmt.format.domain import Element, groups, integer, kibibytes, read_elements
from savefmt.frozen import dataclass

_DEEPEST = 6  # domain/devices/memory/target/label/size


@dataclass(frozen=True, slots=True)
class MemoryDevice:
    """A ``<memory>`` device; None where the XML is silent.

    Attributes
    ----------
    model : str
        ``dimm``, ``nvdimm``, ``virtio-mem`` and the like.
    slot, base : int or None
        Where it is plugged: number of the slot, guest-physical address.
    length : int or None
        Bytes, a label area included.
    label_length : int
        Bytes at its end that the guest does not see as memory.
    """

    model: str
    slot: int | None
    base: int | None
    length: int | None
    label_length: int = 0


@dataclass(frozen=True, slots=True)
class Hardware:
    """Facts that decide where memory lies; None where the XML is silent.

    Attributes
    ----------
    architecture, machine : str or None
        Such as ``x86_64`` and ``pc-q35-9.2``.
    cpu_model, cpu_vendor : str or None
        Such as ``EPYC`` and ``AMD``.
    cpu_features : tuple of (str, bool)
        What the processor had or had not by libvirt's own check; empty where it made none.
    max_memory : int or None
        Bytes up to which memory could be plugged.
    slots : int
        Slots for that.
    devices : tuple of MemoryDevice
        In the order of the XML.
    cpu_mode : str or None
        Such as ``custom`` and ``host-passthrough``.
    socket_cpus : int
        vCPUs in a socket.
    video, video_device : str or None
        Model of the primary video device, and which device of QEMU's that is: libvirt tells
        it of virtio from 12.5 on.
    """

    architecture: str | None = None
    machine: str | None = None
    cpu_model: str | None = None
    cpu_vendor: str | None = None
    cpu_features: tuple[tuple[str, bool], ...] = ()
    max_memory: int | None = None
    slots: int = 0
    devices: tuple[MemoryDevice, ...] = ()
    cpu_mode: str | None = None
    socket_cpus: int = 1
    video: str | None = None
    video_device: str | None = None


def parse_hardware(xml: bytes, cookie: bytes | None = None, *, at: int = 0) -> Hardware:
    """Read the facts from a domain XML.

    Parameters
    ----------
    xml : bytes
        The document, UTF-8, without the NUL that ends it in an image.
    cookie : bytes, optional
        Tells the processor that the guest really had.
    at : int
        Offset of the document in the file, added to the offset of every error.

    Returns
    -------
    Hardware
        First occurrences win.

    Raises
    ------
    CorruptError
        If a document is not well-formed, not plain, or of another kind.
    """
    elements = read_elements(xml, "domain", at, deepest=_DEEPEST)

    def first(*path: str) -> Element | None:
        whole = ("domain", *path)
        return next((element for element in elements if element.path == whole), None)

    saved = read_elements(cookie, "cookie", 0, deepest=3) if cookie else []
    saved = [element for element in saved if element.path[:2] == ("cookie", "cpu")]

    def processor(name: str) -> str | None:
        found = (element for element in saved if element.path[2:] == (name,))
        return _words(next(found, first("cpu", name)))

    video = _primary_video(elements)
    topology = next((e for e in saved if e.path[2:] == ("topology",)), first("cpu", "topology"))
    os_type, most, cpu = first("os", "type"), first("maxMemory"), first("cpu")
    return Hardware(
        architecture=os_type.attributes.get("arch") if os_type else None,
        machine=os_type.attributes.get("machine") if os_type else None,
        cpu_model=processor("model"),
        cpu_vendor=processor("vendor"),
        cpu_features=tuple(
            _features(saved, ("cookie", "cpu")) or _features(elements, ("domain", "cpu"))
        ),
        max_memory=_bytes(most),
        slots=(integer(most.attributes.get("slots")) or 0) if most else 0,
        devices=tuple(_memory_devices(elements)),
        cpu_mode=cpu.attributes.get("mode") if cpu else None,
        socket_cpus=_socket_cpus(topology),
        video=video.get("type"),
        video_device=video.get("device"),
    )


def _features(elements: list[Element], cpu: tuple[str, ...]) -> list[tuple[str, bool]]:
    """Return what was compared with QEMU's answers when the guest was started."""
    if not any(e.path == cpu and e.attributes.get("check") == "full" for e in elements):
        return []
    return [
        (name, policy in ("require", "force"))
        for element in elements
        if element.path == (*cpu, "feature") and (name := element.attributes.get("name"))
        if (policy := element.attributes.get("policy", "require")) != "optional"
    ]


def _socket_cpus(topology: Element | None) -> int:
    levels = ("dies", "clusters", "cores", "threads")
    given = topology.attributes if topology is not None else {}
    return math.prod(integer(given.get(level)) or 1 for level in levels)


def _primary_video(elements: list[Element]) -> Mapping[str, str]:
    """Return the model of the first device, or of the one that is called primary."""
    here = ("domain", "devices", "video", "model")
    models = [element.attributes for element in elements if element.path == here]
    primary = [model for model in models if model.get("primary") == "yes"]
    return next(iter((*primary, *models)), {})


def _memory_devices(elements: list[Element]) -> Iterator[MemoryDevice]:
    here = ("domain", "devices", "memory")
    for device, *inside in groups(elements, here):
        parts: dict[tuple[str, ...], Element] = {}
        for element in inside:
            parts.setdefault(element.path[len(here) :], element)
        yield _memory_device(device, parts)


def _memory_device(device: Element, parts: dict[tuple[str, ...], Element]) -> MemoryDevice:
    address = parts.get(("address",))
    place = address.attributes if address else {}
    if place.get("type") != "dimm":
        place = {}
    return MemoryDevice(
        device.attributes.get("model", ""),
        integer(place.get("slot")),
        integer(place.get("base")),
        _bytes(parts.get(("target", "size"))),
        _bytes(parts.get(("target", "label", "size"))) or 0,
    )


def _words(element: Element | None) -> str | None:
    return (element.text.strip() or None) if element else None


def _bytes(element: Element | None) -> int | None:
    if element is None:
        return None
    count = kibibytes(element.text, element.attributes.get("unit"))
    return None if count is None else count << 10
