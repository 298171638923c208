"""The guest behind a monitor: what it is, and what state it is in."""

from __future__ import annotations

import re
from collections.abc import Mapping

from savefmt.frozen import dataclass
from savefmt.qmp import Monitor

_MACHINE_SUFFIX = "-machine"
_NO_UUID = "00000000-0000-0000-0000-000000000000"
# Name, page size with unit, offset, used, total: the columns of `info ramblock`.
_BLOCK = re.compile(
    r"^\s*(\S+)\s+\d+ \S+\s+0x[0-9a-f]+\s+0x([0-9a-f]+)\s+0x([0-9a-f]+)", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class HostedBlock:
    """A RAM block in a QEMU: bytes in use, and bytes that it could have."""

    used_length: int
    most_length: int

    def takes(self, length: int) -> bool:
        """Whether a saved block of this length can be loaded into it."""
        return length == self.used_length or (
            self.used_length < self.most_length and 0 < length <= self.most_length
        )


@dataclass(frozen=True, slots=True)
class HostedGuest:
    """What QEMU says of its guest.

    Attributes
    ----------
    name : str
        As given to QEMU, ``guest`` if it has no name.
    machine : str
        Machine type, by its full name.
    status : str
        Run state.
    running : bool
        Whether its vCPUs run.
    """

    name: str
    machine: str
    status: str
    running: bool


def look(monitor: Monitor) -> HostedGuest:
    """Ask a QEMU for its guest.

    Parameters
    ----------
    monitor : Monitor
        Connected.

    Returns
    -------
    HostedGuest
        As it is now.
    """
    state = monitor.execute("query-status")
    kind = str(monitor.execute("qom-get", path="/machine", property="type"))
    return HostedGuest(
        name=str(monitor.execute("query-name").get("name") or "guest"),
        machine=kind.removesuffix(_MACHINE_SUFFIX),
        status=str(state["status"]),
        running=bool(state["running"]),
    )


def ram_blocks(monitor: Monitor) -> Mapping[str, HostedBlock]:
    """Return a QEMU's RAM blocks by name.

    Parameters
    ----------
    monitor : Monitor
        Connected.

    Returns
    -------
    dict of str to HostedBlock
        From the human monitor's ``info ramblock``, since QMP has them in no other form;
        empty where this QEMU prints another table.
    """
    listing = str(monitor.execute("human-monitor-command", command_line="info ramblock"))
    return {m[1]: HostedBlock(int(m[2], 16), int(m[3], 16)) for m in _BLOCK.finditer(listing)}


def minimal_xml(monitor: Monitor, guest: HostedGuest) -> bytes:
    """Describe a guest to libvirt as far as QEMU can tell.

    Parameters
    ----------
    monitor : Monitor
        Connected.
    guest : HostedGuest
        What `look` found.

    Returns
    -------
    bytes
        A domain without devices: enough to identify the image and to tell its machine.
    """
    from xml.sax.saxutils import escape, quoteattr  # loads an HTTP client

    kvm = monitor.execute("query-kvm")["enabled"]
    uuid = str(monitor.execute("query-uuid")["UUID"])
    memory = monitor.execute("query-memory-size-summary")
    length = int(memory["base-memory"]) + int(memory.get("plugged-memory", 0))
    arch = str(monitor.execute("query-target")["arch"])
    lines = [
        f"<domain type='{'kvm' if kvm else 'qemu'}'>",
        f"  <name>{escape(guest.name)}</name>",
        *([f"  <uuid>{escape(uuid)}</uuid>"] if uuid != _NO_UUID else []),
        f"  <memory unit='KiB'>{length >> 10}</memory>",
        f"  <vcpu>{len(monitor.execute('query-cpus-fast'))}</vcpu>",
        "  <os>",
        f"    <type arch={quoteattr(arch)} machine={quoteattr(guest.machine)}>hvm</type>",
        "  </os>",
        "</domain>",
        "",
    ]
    return "\n".join(lines).encode()
