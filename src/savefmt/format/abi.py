"""What an edit of the domain XML may not change, since the saved guest would notice.

The tables hold what libvirt's own check of ABI stability compares (as of 11.3), element by
element. libvirt ignores everything else, and savefmt does, too.  libvirt compares devices of a
kind by their order, disks and controllers by the order that it sorts them into.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from savefmt.format.domain import Element, kibibytes, read_elements
from savefmt.frozen import dataclass, field

_DEEPEST = 7

# A fact is a path from its element: names of children joined by slashes, and in the end
# @attribute, ? for whether it is there, or * for all that is in it; without any of these it
# is the text.  After = comes what libvirt takes where nothing is said.
_ADDRESS_PARTS = {
    "pci": "domain=0 bus=0 slot=0 function=0",
    "drive": "controller=0 bus=0 unit=0",
    "virtio-serial": "controller=0 bus=0 port=0",
    "ccid": "controller=0 slot=0",
    "isa": "iobase=0 irq=0",
    "dimm": "slot=0 base=0",
    "ccw": "cssid=0 ssid=0 devno=0",
}
"""Parts of an address that count, by its type; of the other types the type alone does."""
_ADDRESS = "address acpi@index=0"
_VIRTIO = "driver@iommu driver@ats driver@packed driver@page_per_vq"
_PLACED = f"{_VIRTIO} {_ADDRESS}"

_DEVICES = {
    "disk": "@device=disk target@bus target@dev serial wwn readonly? @model target@rotation_rate "
    "driver@queues driver@queue_size blockio@logical_block_size blockio@physical_block_size "
    f"blockio@discard_granularity {_PLACED}",
    "controller": f"@type @index @model @ports @vectors {_PLACED}",
    "filesystem": f"target@dir readonly? @model {_PLACED}",
    "interface": f"mac@address model@type mtu@size driver@queues {_PLACED}",
    "input": f"@type @bus @model {_PLACED}",
    "sound": f"@model @multichannel {_ADDRESS}",
    "video": "model@type model@ram model@vram model@vram64 model@vgamem model@heads=1 "
    "model@edid "
    f"model/acceleration@accel2d model/acceleration@accel3d {_PLACED}",
    "hostdev": f"@mode @type {_ADDRESS}",
    "smartcard": _ADDRESS,
    "serial": f"target@type target/model@name target@port {_ADDRESS}",
    "parallel": f"target@port {_ADDRESS}",
    "channel": f"target@type target@name target@address target@port {_ADDRESS}",
    "console": f"target@type {_ADDRESS}",
    "hub": f"@type {_ADDRESS}",
    "redirdev": f"@bus @type {_ADDRESS}",
    "redirfilter": "*",
    "watchdog": f"@model {_ADDRESS}",
    "memballoon": f"@model @autodeflate @freePageReporting {_PLACED}",
    "rng": f"@model {_PLACED}",
    "panic": f"@model {_ADDRESS}",
    "shmem": f"@role model@type size server? msi? msi@vectors msi@ioeventfd {_ADDRESS}",
    "tpm": f"backend@type @model backend@version backend/active_pcr_banks* {_ADDRESS}",
    "memory": "@model target/node target/size target/label/size source/alignsize source/pmem? "
    "target/readonly? uuid target/block target/requested target/address@base "
    f"target@dynamicMemslots {_ADDRESS}",
    "iommu": "@model driver@intremap driver@caching_mode driver@eim driver@iotlb "
    f"driver@aw_bits driver@dma_translation {_ADDRESS}",
    "vsock": f"@model {_PLACED}",
    "pstore": f"@backend size {_ADDRESS}",
}
"""By the name of the element.  Graphics, audio, leases, crypto and all that is not here are
the host's business."""

_NAMED_BY = {
    "disk": ("target@dev",),
    "controller": ("@type", "@index"),
    "interface": ("mac@address",),
    "channel": ("target@name",),
}

_DOMAIN = (
    "@type uuid genid? genid name memory currentMemory maxMemory maxMemory@slots "
    "vcpu vcpu@current os/type os/type@arch os/type@machine os/smbios@mode "
    "memoryBacking/source@type"
)
_LISTS = {
    ("clock", "timer"): "@name @present",
    ("cpu", "feature"): "@name @policy",
    ("cpu", "numa", "cell"): "@id @memory @cpus distances*",
    ("vcpus", "vcpu"): "@id @enabled @order",
    ("sysinfo",): "@type bios* system* baseBoard* chassis*",
}
"""Elements of which there may be several, by the path from the domain."""
_CPU = (
    "cpu@mode cpu@check cpu/model cpu/vendor cpu/model@vendor_id cpu/topology@sockets "
    "cpu/topology@dies=1 cpu/topology@cores cpu/topology@threads cpu/maxphysaddr@mode "
    "cpu/maxphysaddr@bits cpu/cache@level cpu/cache@mode"
)
_TSC = "@frequency @mode"
_MAC = re.compile(r"([0-9a-fA-F]{1,2}:){5}[0-9a-fA-F]{1,2}")
_IGNORED_FEATURES = frozenset({"msrs", "tcg", "async-teardown"})

_NAMES = {
    "@type": "domain type",
    "uuid": "UUID",
    "memory": "memory in KiB",
    "vcpu": "vCPU count",
    "vcpu@current": "vCPUs online",
    "os/type@arch": "architecture",
    "os/type@machine": "machine type",
}


@dataclass(frozen=True, slots=True)
class _Node:
    """An element with its children."""

    tag: str
    attributes: Mapping[str, str]
    text: str
    children: list[_Node] = field(default_factory=list)

    def all(self, path: Sequence[str]) -> list[_Node]:
        """Return the elements under a path."""
        found = [self]
        for tag in path:
            found = [child for node in found for child in node.children if child.tag == tag]
        return found


def running_abi_changes(old: bytes, new: bytes) -> list[str]:
    """Tell what a new domain XML changes that the saved guest could notice.

    libvirt refuses these edits of a save image (format.md 2.11).

    Parameters
    ----------
    old, new : bytes
        Two domain documents, each without its NUL.

    Returns
    -------
    list of str
        One clause per change, empty if libvirt has no reason to refuse.

    Raises
    ------
    CorruptError
        If one of the documents is not well-formed, not plain, or no domain.
    """
    before, after = (_tree(read_elements(xml, "domain", 0, deepest=_DEEPEST)) for xml in (old, new))
    changes = [
        change.removeprefix(": ")
        for change in _compare("", _domain_facts(before), _domain_facts(after))
    ]
    for path, spec in _LISTS.items():
        label = " ".join(path)
        changes += _compare_lists(label, _rows(before, path, spec), _rows(after, path, spec))
    mine, theirs = _devices(before), _devices(after)
    for kind in _DEVICES:
        changes += _compare_lists(kind, mine[kind], theirs[kind])
    return changes


def _tree(elements: list[Element]) -> _Node:
    """Put elements, parents first, together."""
    path: list[_Node] = []
    root = None
    for element in elements:
        node = _Node(element.path[-1], element.attributes, element.text.strip())
        del path[len(element.path) - 1 :]
        if path:
            path[-1].children.append(node)
        else:
            root = node
        path.append(node)
    if root is None:
        raise AssertionError("a document without an element passed")
    return root


def _domain_facts(root: _Node) -> dict[str, str]:
    facts = {
        _NAMES.get(key, key.replace("/", " ").replace("@", " ")): value
        for key, value in _facts(root, _DOMAIN + " " + _CPU).items()
    }
    facts["UUID"] = facts["UUID"].replace("-", "").lower()
    facts["vCPUs online"] = facts["vCPUs online"] or facts["vCPU count"]
    facts["currentMemory"] = facts["currentMemory"] or facts["memory in KiB"]
    for element in root.all(["features"])[:1]:
        for feature in element.children:
            if feature.tag not in _IGNORED_FEATURES:
                facts[f"feature {feature.tag}"] = _whole(feature) or "on"
    return facts


def _rows(root: _Node, path: tuple[str, ...], spec: str) -> list[tuple[str, dict[str, str]]]:
    rows = []
    for number, node in enumerate(root.all(path), 1):
        facts = _facts(node, spec)
        if node.attributes.get("name") == "tsc" and node.tag == "timer":
            facts |= _facts(node, _TSC)
        name = node.attributes.get("name") or node.attributes.get("id") or f"#{number}"
        rows.append((name, facts))
    return rows


def _devices(root: _Node) -> dict[str, list[tuple[str, dict[str, str]]]]:
    """Return, by kind and in libvirt's order, a name and what the guest sees of each device."""
    found: dict[str, list[tuple[str, dict[str, str]]]] = defaultdict(list)
    for device in (node for each in root.all(["devices"])[:1] for node in each.children):
        if device.tag not in _DEVICES:
            continue
        facts = _facts(device, _DEVICES[device.tag])
        if device.tag == "hostdev" and facts["@type"] == "mdev":
            facts["@type"] = "pci"  # a device may change between these
        rows = found[device.tag]
        rows.append((_name_of(device.tag, facts, len(rows) + 1), facts))
    for kind in ("disk", "controller"):
        found[kind].sort(key=lambda row: (len(row[0]), row[0]))
    return found


def _name_of(kind: str, facts: dict[str, str], number: int) -> str:
    name = " ".join(filter(None, (facts[key] for key in _NAMED_BY.get(kind, ()))))
    return name or (f"#{number}" if number > 1 else "")


def _facts(node: _Node, spec: str) -> dict[str, str]:
    """Look up facts; a missing fact is an empty text."""
    facts: dict[str, str] = {}
    for word in spec.split():
        key, _, default = word.partition("=")
        if key == "address":
            facts |= _address(node)
            continue
        path, mark, attribute = re.fullmatch(r"([^@?*]*)([@?*]?)(.*)", key).groups()  # type: ignore[union-attr]
        places = node.all(path.split("/") if path else ())
        if mark == "?":
            value = "yes" if places else ""
        elif mark == "*":
            value = " ".join(_whole(place) for place in places)
        elif not places:
            value = ""
        elif mark == "@":
            value = _attribute(places[0], attribute)
        else:
            value = _text(places[0])
        facts[key] = value or default
    return facts


def _attribute(node: _Node, name: str) -> str:
    value = node.attributes.get(name, "")
    size = kibibytes(value, node.attributes.get("unit")) if name == "memory" else None
    return _plain(value) if size is None else str(size)


def _address(node: _Node) -> dict[str, str]:
    places = node.all(["address"])
    if not places:
        return {"address type": ""}
    kind = places[0].attributes.get("type", "")
    facts = {"address type": kind}
    for word in _ADDRESS_PARTS.get(kind, "").split():
        name, _, default = word.partition("=")
        facts[f"address {name}"] = _plain(places[0].attributes.get(name, "")) or default
    return facts


def _text(node: _Node) -> str:
    """Return an element's text; sizes come in KiB, since libvirt knows many units."""
    unit = node.attributes.get("unit")
    if unit is None and node.tag not in ("memory", "currentMemory", "maxMemory"):
        return node.text
    size = kibibytes(node.text, unit)
    return node.text if size is None else str(size)


def _whole(node: _Node) -> str:
    """Return all that an element says, in one line that does not depend on its order."""
    said = [
        f"{key}={_plain(value)}"
        for key, value in sorted(node.attributes.items())
        if (key, value) != ("state", "on")
    ]
    said += [f"{child.tag}({_whole(child)})" for child in node.children]
    return " ".join(filter(None, [*said, _text(node)]))


def _plain(value: str) -> str:
    """Return numbers in one spelling, so that 0x04 equals 4, and MAC addresses in one case."""
    if re.fullmatch(r"0x[0-9a-fA-F]{1,16}", value):
        return str(int(value, 16))
    if re.fullmatch(r"[0-9]{1,20}", value):
        return str(int(value))
    return value.lower() if _MAC.fullmatch(value) else value


def _compare_lists(
    kind: str, old: list[tuple[str, dict[str, str]]], new: list[tuple[str, dict[str, str]]]
) -> Iterator[str]:
    if len(old) != len(new):
        mine, theirs = ([name for name, _ in rows] for rows in (old, new))
        for name in mine:
            if mine.count(name) > theirs.count(name):
                yield f"{kind} {name}".strip() + " is removed"
                return
        name = next(name for name in theirs if theirs.count(name) > mine.count(name))
        yield f"{kind} {name}".strip() + " is added"
        return
    for (name, before), (_, after) in zip(old, new, strict=True):
        label = f"{kind} {name}".strip()
        yield from _compare(label, before, after)


def _compare(label: str, old: dict[str, str], new: dict[str, str]) -> Iterator[str]:
    for key in old | new:
        before, after = old.get(key, ""), new.get(key, "")
        if before != after:
            said = key.replace("/", " ").replace("@", " ").replace("?", "").replace("*", "").strip()
            yield f"{label}: {said} changes from {before or 'nothing'} to {after or 'nothing'}"
