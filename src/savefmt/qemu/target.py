"""What a waiting QEMU has, as far as it can be compared with an image."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from savefmt.compat.ask import read_release
from savefmt.compat.cpufit import qemus_name
from savefmt.compat.keptstate import kept_state_table
from savefmt.compat.releases import Release
from savefmt.compat.statetable import StateTable, read_state_table
from savefmt.compat.trust import is_trusted_emulator
from savefmt.format.hardware import Hardware
from savefmt.frozen import dataclass
from savefmt.guest.virtiostate import SerialPorts
from savefmt.qemu.deviceshape import Shape, told_by
from savefmt.qemu.hosted import HostedBlock, HostedGuest, look, ram_blocks
from savefmt.qmp import CommandError, Monitor, MonitorError

_CHILD = "child<"
_LEAVES = frozenset({"memory-region", "irq"})
_PCI_PROPERTIES = frozenset({"parent_bus", "addr", "romfile"})
_SCSI_PROPERTIES = frozenset({"channel", "scsi-id", "lun", "parent_bus"})
_PORT_PROPERTIES = frozenset({"nr", "chardev", "parent_bus"})
_USB_PORT = re.compile(r"^\s*Device \S+, Port ([\d.]+),", re.MULTILINE)
_MOST_NODES = 10_000

Object = tuple[str, frozenset[str]]
"""Type (QOM) and names of the properties."""
Objects = Mapping[str, Object]
"""By path."""


@dataclass(frozen=True, slots=True)
class TargetCpu:
    """The vCPUs of a QEMU.

    Attributes
    ----------
    count : int
        How many.
    kind : str
        Their type (QOM); for an alias, the type that it stands for.
    models : mapping of str to str
        Types by the names of models, in the same manner.
    flags : mapping of str to bool
        Features that were asked about and that it knows.
    socket_cpus : int
        vCPUs that a socket has room for; 0 if that was not asked or is not known.
    """

    count: int
    kind: str = ""
    models: Mapping[str, str] = {}
    flags: Mapping[str, bool] = {}
    socket_cpus: int = 0


@dataclass(frozen=True, slots=True)
class Target:
    """A QEMU that is to take a guest.

    Attributes
    ----------
    guest : HostedGuest
        What it says of itself.
    blocks : mapping of str to HostedBlock
        Its RAM blocks; empty where they are not known.
    pci : mapping of str to str, or None
        Types (QOM) of its PCI functions by place; None where the places are not clear.
    identities : mapping of str to (int, int)
        Vendor and device of those on the first bus.
    kinds : mapping of str to int
        How many objects of each type (QOM) its machine consists of.
    cpu : TargetCpu or None
        Its vCPUs.
    shape : Shape
        The inside of its devices.
    table : StateTable or None
        What its program can load; None where that cannot be asked.
    release : Release or None
        Its version.
    """

    guest: HostedGuest
    blocks: Mapping[str, HostedBlock]
    pci: Mapping[str, str] | None = None
    identities: Mapping[str, tuple[int, int]] = {}
    kinds: Mapping[str, int] = {}
    cpu: TargetCpu | None = None
    shape: Shape = Shape()
    table: StateTable | None = None
    release: Release | None = None


def look_closely(monitor: Monitor, hardware: Hardware, binary: str | None = None) -> Target:
    """Ask a QEMU what it has.

    Parameters
    ----------
    monitor : Monitor
        Connected.
    hardware : Hardware
        What is wanted: of the processor only that is asked for.
    binary : str, optional
        Its program, where the caller knows it.

    Returns
    -------
    Target
        Complete, as far as this QEMU tells.
    """
    vcpus = [str(vcpu["qom-path"]) for vcpu in monitor.execute("query-cpus-fast")]
    objects: Objects = dict(_walk(monitor, vcpus))
    pci = [path for path, (_, has) in objects.items() if has >= _PCI_PROPERTIES]
    places = _places(monitor, pci)
    kinds = {path: kind for path, (kind, _) in objects.items() if kind}
    return Target(
        guest=look(monitor),
        blocks=ram_blocks(monitor),
        pci=None if places is None else {place: kinds[path] for path, place in places.items()},
        identities=_identities(monitor),
        shape=_shape(monitor, objects, places or {}),
        kinds=Counter(kinds.values()),
        cpu=_cpu(monitor, vcpus, objects, hardware),
        table=_table(monitor) if binary is None else read_state_table(binary),
        release=read_release(monitor),
    )


def _walk(monitor: Monitor, cpus: Collection[str] = ()) -> Iterator[tuple[str, Object]]:
    """Yield path, type and properties of every object that the machine consists of.

    Of vCPUs of one type one is asked, which takes QEMU milliseconds: the others have inside
    what it has.
    """
    waiting = [("/machine", "")]
    asked: dict[str, str] = {}
    found: dict[str, str] = {}
    for _ in range(_MOST_NODES):
        if not waiting:
            return
        path, kind = waiting.pop()
        found[path] = kind
        if path in cpus and (same := asked.setdefault(kind, path)) != path:
            yield path, (kind, frozenset())
            inside = [(name, kind) for name, kind in found.items() if name.startswith(f"{same}/")]
            for name, kind in inside:  # all of it was walked before the next vCPU
                yield path + name[len(same) :], (kind, frozenset())
            continue
        entries: list[dict[str, Any]] = monitor.execute("qom-list", path=path)
        yield path, (kind, frozenset(entry["name"] for entry in entries))
        for entry in entries:
            child = str(entry["type"])
            if child.startswith(_CHILD) and (child := child[len(_CHILD) : -1]) not in _LEAVES:
                waiting.append((f"{path}/{entry['name']}", child))


def _places(monitor: Monitor, paths: Iterable[str]) -> dict[str, str] | None:
    """Return the places of PCI functions, as idstrs have them, by path.

    ``query-pci`` lists no devices behind a bridge that the firmware has not set up yet.
    """

    def read(path: str, name: str) -> Any:
        return monitor.execute("qom-get", path=path, property=name)

    functions = {path: (read(path, "addr"), str(read(path, "parent_bus"))) for path in paths}

    def place(path: str) -> str:
        number, bus = functions[path]
        bridge = bus.rpartition("/")[0]
        before = place(bridge) if bridge in functions else "0000:00"
        return f"{before}:{number >> 3:02x}.{number & 7:x}"

    roots = {bus for _, bus in functions.values() if bus.rpartition("/")[0] not in functions}
    if len(roots) > 1:  # PXB: what number has which of them?
        return None
    return {path: place(path) for path in functions}


def _shape(monitor: Monitor, objects: Objects, places: Mapping[str, str]) -> Shape:
    """Ask for what is inside of devices, as far as their places are known."""

    def read(path: str, names: Iterable[str]) -> dict[str, object]:
        return {name: monitor.execute("qom-get", path=path, property=name) for name in names}

    functions = {
        place: values
        for path, place in places.items()
        if (values := read(path, sorted(told_by(objects[path][1]))))
    }
    scsi: dict[str, str] = {}
    for path, (kind, has) in objects.items():
        if has >= _SCSI_PROPERTIES:
            there = read(path, ["channel", "scsi-id", "lun", "parent_bus"])
            if (place := _place_above(str(there["parent_bus"]), places)) is not None:
                scsi[f"{place}/{there['channel']}:{there['scsi-id']}:{there['lun']}"] = kind
    ports = {place: set[int]() for path, place in places.items() if "max_ports" in objects[path][1]}
    for path, (_, has) in objects.items():
        if has >= _PORT_PROPERTIES:
            there = read(path, ["nr", "parent_bus"])
            if (place := _place_above(str(there["parent_bus"]), places)) in ports:
                ports[place].add(int(str(there["nr"])))
    memory = read("/machine", ["memory"])["memory"] if "memory" in objects["/machine"][1] else None
    return Shape(
        functions=functions,
        usb_ports=_usb_ports(monitor),
        scsi=scsi,
        serial={place: SerialPorts(frozenset(n - {0}), 0 in n) for place, n in ports.items()},
        slots=int(memory.get("slots", 0)) if isinstance(memory, dict) else None,
    )


def _place_above(path: str, places: Mapping[str, str]) -> str | None:
    """Return the place of the PCI function that an object is part of."""
    while path and path not in places:
        path = path.rpartition("/")[0]
    return places.get(path)


def _usb_ports(monitor: Monitor) -> tuple[str, ...] | None:
    try:
        listing = str(monitor.execute("human-monitor-command", command_line="info usb"))
    except CommandError:  # built without a human monitor
        return None
    return tuple(_USB_PORT.findall(listing))


def _identities(monitor: Monitor) -> dict[str, tuple[int, int]]:
    """Return vendor and device of the PCI functions on the first bus."""
    try:
        buses: list[dict[str, Any]] = monitor.execute("query-pci")
    except CommandError:  # built without PCI
        return {}
    return {
        f"0000:00:{device['slot']:02x}.{device['function']:x}": (
            int(device["id"]["vendor"]),
            int(device["id"]["device"]),
        )
        for bus in buses
        if bus["bus"] == 0
        for device in bus["devices"]
    }


def _cpu(
    monitor: Monitor, vcpus: Sequence[str], objects: Objects, hardware: Hardware
) -> TargetCpu | None:
    if not vcpus:
        return None
    path = next((vcpu for vcpu in vcpus if objects.get(vcpu, ("", ()))[1]), vcpus[0])
    kind, known = objects.get(path, ("", frozenset()))
    features = [qemus_name(name) for name, _ in hardware.cpu_features]
    names = [name for name in features if name in known]  # others are another program's
    values = {name: monitor.execute("qom-get", path=path, property=name) for name in names}
    flags = {name: value for name, value in values.items() if isinstance(value, bool)}
    room = _socket_cpus(monitor) if hardware.socket_cpus > 1 else 0
    model = hardware.cpu_model
    if model is None or re.fullmatch(rf"{re.escape(model)}-\w+-cpu", kind):
        models = {model: kind} if model else {}
        return TargetCpu(len(vcpus), kind, models, flags, room)
    models, aliases = _models(monitor)
    return TargetCpu(len(vcpus), aliases.get(kind, kind), models, flags, room)


def _socket_cpus(monitor: Monitor) -> int:
    try:
        listed: list[dict[str, Any]] = monitor.execute("query-hotpluggable-cpus")
    except CommandError:  # a machine whose processors are not in sockets
        return 0
    sockets: Counter[int] = Counter()
    for entry in listed:
        if (socket := entry["props"].get("socket-id")) is not None:
            sockets[socket] += int(entry["vcpus-count"])
    return max(sockets.values(), default=0)


def _models(monitor: Monitor) -> tuple[dict[str, str], dict[str, str]]:
    """Return what the names of CPU models stand for, and what the types of aliases do."""
    try:
        listed: list[dict[str, Any]] = monitor.execute("query-cpu-definitions")
    except CommandError:
        return {}, {}
    types = {entry["name"]: str(entry["typename"]) for entry in listed}
    models = {
        name: types.get(entry.get("alias-of", name), types[name])
        for entry in listed
        if (name := entry["name"])
    }
    return models, {types[name]: kind for name, kind in models.items()}


def _table(monitor: Monitor) -> StateTable | None:
    """Ask the program behind the monitor, if it is one that may be run."""
    if monitor.peer is None:
        return None
    link = f"/proc/{monitor.peer}/exe"
    try:
        path = os.readlink(link)
        running, named = os.stat(link), os.stat(path)
        if not is_trusted_emulator(path) or not os.path.samestat(running, named):
            return None
        return kept_state_table(path, running)
    except (OSError, MonitorError):
        return None
