"""What a host must have for a restore, according to the domain XML."""

from __future__ import annotations

from collections import Counter

from savefmt.format.domain import Element, read_elements
from savefmt.format.envelope import HEADER_LENGTH
from savefmt.frozen import dataclass

_TOLD_APART = ("disk", "interface", "emulator")


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk of the guest: what it is there, and where its content lies on the host."""

    target: str
    device: str
    format: str
    source: str


@dataclass(frozen=True, slots=True)
class Network:
    """A network card of the guest, and what it is plugged into."""

    kind: str
    source: str
    model: str
    address: str


@dataclass(frozen=True, slots=True)
class Resources:
    """What the domain XML asks of a host.

    Attributes
    ----------
    vcpus, memory, cpu, emulator : str
        As the document says; empty where it does not.
    disks : tuple of Disk
        In the order of the document.
    networks : tuple of Network
        In the order of the document.
    others : tuple of (str, int)
        Other kinds of devices, and how many there are of each.
    """

    vcpus: str
    memory: str
    cpu: str
    emulator: str
    disks: tuple[Disk, ...]
    networks: tuple[Network, ...]
    others: tuple[tuple[str, int], ...]


def read_resources(xml: bytes) -> Resources:
    """Tell what a domain asks of a host.

    Parameters
    ----------
    xml : bytes
        The domain XML of an image.

    Returns
    -------
    Resources
        First occurrences win.

    Raises
    ------
    CorruptError
        If the document is not well-formed, not plain, or no domain.
    """
    told: dict[tuple[str, ...], Element] = {}
    devices: list[tuple[str, dict[str, Element]]] = []
    for element in read_elements(xml, "domain", HEADER_LENGTH, deepest=4):
        told.setdefault(element.path, element)
        if element.path[:2] != ("domain", "devices"):
            continue
        if len(element.path) == 3:
            devices.append((element.path[2], {"": element}))
        elif len(element.path) == 4:
            devices[-1][1].setdefault(element.path[3], element)

    def text(*path: str) -> str:
        found = told.get(("domain", *path))
        return found.text.strip() if found is not None else ""

    memory = told.get(("domain", "memory"))
    unit = memory.attributes.get("unit", "KiB") if memory is not None else ""
    mode = told.get(("domain", "cpu"))
    model = text("cpu", "model") or (mode.attributes.get("mode", "") if mode is not None else "")
    others = Counter(kind for kind, _ in devices if kind not in _TOLD_APART)
    return Resources(
        vcpus=text("vcpu"),
        memory=f"{text('memory')} {unit}".strip(),
        cpu=model,
        emulator=text("devices", "emulator"),
        disks=tuple(_disk(parts) for kind, parts in devices if kind == "disk"),
        networks=tuple(_network(parts) for kind, parts in devices if kind == "interface"),
        others=tuple(sorted(others.items())),
    )


def _disk(parts: dict[str, Element]) -> Disk:
    return Disk(
        target=_attribute(parts, "target", "dev"),
        device=_attribute(parts, "", "device") or "disk",
        format=_attribute(parts, "driver", "type"),
        source=_source(parts),
    )


def _network(parts: dict[str, Element]) -> Network:
    return Network(
        kind=_attribute(parts, "", "type"),
        source=_source(parts),
        model=_attribute(parts, "model", "type"),
        address=_attribute(parts, "mac", "address"),
    )


def _source(parts: dict[str, Element]) -> str:
    """Return all that names a source, since each kind of it has attributes of its own."""
    source = parts.get("source")
    if source is None:
        return ""
    given = source.attributes
    return (
        next(iter(given.values())) if len(given) == 1 else ", ".join(map("=".join, given.items()))
    )


def _attribute(parts: dict[str, Element], child: str, name: str) -> str:
    found = parts.get(child)
    return found.attributes.get(name, "") if found is not None else ""
