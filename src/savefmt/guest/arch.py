"""One row for each guest architecture, and one for each of its machines (format.md 9)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from savefmt.errors import UnsupportedError
from savefmt.frozen import dataclass, field

MIB = 1 << 20
GIB = 1 << 30

ABOVE_4G = 4 * GIB
ABOVE_1T = 1 << 40
"""Where AMD guests have their high memory if it could reach `HYPERTRANSPORT`."""
HYPERTRANSPORT = 0xFD_0000_0000


@dataclass(frozen=True, slots=True)
class GuestArch:
    """A guest architecture.

    Attributes
    ----------
    name : str
        As libvirt spells it.
    byte_order : str
        Of the guest's own data.
    page_bits : int
        Logarithm of the smallest page.
    witness : str
        A field of the section ``cpu`` that only this architecture has.
    """

    name: str
    byte_order: Literal["little", "big"]
    page_bits: int
    witness: str


ARCHES: Mapping[str, GuestArch] = {
    arch.name: arch
    for arch in (
        GuestArch("x86_64", "little", 12, "env.eip"),
        GuestArch("aarch64", "little", 12, "env.xregs"),
    )
}


@dataclass(frozen=True, slots=True)
class MachineRules:
    """Where a family of machine types has its memory.

    Attributes
    ----------
    name : str
        The family, for messages.
    pattern : str
        Regular expression for names of machine types.
    architecture : str
        A key of `ARCHES`.
    main_memory : str
        idstr of main memory where no NUMA backends make it up.
    base : int
        Where main memory begins.
    all_low_below : int or None
        Main memory shorter than this is not split; None: it never is.
    low : int
        Bytes below 4 GiB of memory that is split; the rest begins at 4 GiB.
    firmware : mapping of str to int
        Where firmware blocks begin that do not end at 4 GiB.
    shadow : (str, int) or None
        PCI device, and offset of its registers, that decide whether the guest reads RAM
        or ROM from 768 KiB to 1 MiB; None: ROM, always.
    hotplug_window : bool
        Whether DIMMs may be plugged.
    pci_window : int
        Bytes for 64-bit PCI behind all memory.
    """

    name: str
    pattern: str
    architecture: str
    main_memory: str
    base: int = 0
    all_low_below: int | None = None
    low: int = 0
    firmware: Mapping[str, int] = field(default_factory=dict)
    shadow: tuple[str, int] | None = None
    hotplug_window: bool = False
    pci_window: int = 0

    def split(self, length: int) -> int:
        """Return how much of main memory of this length lies below the hole."""
        if self.all_low_below is None or length < self.all_low_below:
            return length
        return min(length, self.low)


MACHINES = (
    MachineRules(
        *("i440fx before 2.0", r"pc-(?:i440fx-1\..*|0\..*|1\..*)", "x86_64", "pc.ram"),
        all_low_below=0xE000_0000,
        low=0xE000_0000,
        shadow=("0000:00:00.0/I440FX", 0x59),
    ),
    MachineRules(
        *("i440fx", r"pc(?:-i440fx.*)?", "x86_64", "pc.ram"),
        all_low_below=0xE000_0000,
        low=0xC000_0000,
        shadow=("0000:00:00.0/I440FX", 0x59),
        hotplug_window=True,
        pci_window=2 * GIB,
    ),
    MachineRules(
        *("q35", r"(?:pc-)?q35.*", "x86_64", "pc.ram"),
        all_low_below=0xB000_0000,
        low=0x8000_0000,
        shadow=("0000:00:00.0/mch", 0x90),
        hotplug_window=True,
        pci_window=32 * GIB,
    ),
    MachineRules(
        *("microvm", r"microvm", "x86_64", "microvm.ram"),
        all_low_below=0xC000_0000,
        low=0xC000_0000,
    ),
    MachineRules("isapc", r"isapc", "x86_64", "pc.ram"),
    MachineRules(
        *("virt", r"virt(?:-.*)?", "aarch64", "mach-virt.ram"),
        base=GIB,
        firmware={"virt.flash0": 0, "virt.flash1": 64 * MIB},
        hotplug_window=True,
    ),
    MachineRules(
        *("sbsa-ref", r"sbsa-ref", "aarch64", "sbsa-ref.ram"),
        base=1 << 40,
        firmware={"sbsa.flash0": 0, "sbsa.flash1": 256 * MIB},
    ),
)
"""The first row whose pattern fits counts."""


def find_machine(name: str, sections: frozenset[str], blocks: frozenset[str]) -> MachineRules:
    """Return the rules for a machine.

    Parameters
    ----------
    name : str
        The machine type, empty where the stream does not tell.
    sections, blocks : frozenset of str
        idstrs in the image, which give the machine away without its name.

    Returns
    -------
    MachineRules
        Of its family.

    Raises
    ------
    UnsupportedError
        For a machine that this release does not know.
    """
    for rules in MACHINES:
        if name and re.fullmatch(rules.pattern, name):
            return rules
    if not name:
        for rules in MACHINES[1:]:
            shadowed = rules.shadow is not None and rules.shadow[0] in sections
            if shadowed or rules.main_memory in blocks - {"pc.ram"}:
                return rules
    raise UnsupportedError(
        f"where machine type {name or '(not recorded)'!r} has its memory is not known; "
        "its blocks can still be read by name"
    )


def has_amd_hole(machine: str) -> bool:
    """Whether a machine type keeps high memory of AMD guests off the 1 TiB border.

    Parameters
    ----------
    machine : str
        Versioned name: from 7.1 on, and what cannot be told counts as new.

    Returns
    -------
    bool
        True for all but the older versions.
    """
    match = re.search(r"-(rhel)?(\d+)\.(\d+)", machine)
    if match is None:
        return True
    version = int(match[2]), int(match[3])
    return version >= ((9, 2) if match[1] else (7, 1))


def is_amd(vendor: str | None, model: str | None) -> bool | None:
    """Whether a processor is AMD's; None where neither vendor nor model tells."""
    if vendor:
        return vendor.lower() in ("amd", "authenticamd")
    if not model:
        return None
    if re.match(r"(?i)epyc|opteron|phenom|athlon", model):
        return True
    if re.match(r"(?i)qemu|kvm|host|max|base", model):
        return None
    return False
