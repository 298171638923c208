"""One row for each family of machines: where its memory is (format.md 9)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from savefmt.frozen import dataclass, field

MIB = 1 << 20
GIB = 1 << 30

ABOVE_4G = 4 * GIB
ABOVE_1T = 1 << 40
"""Where AMD guests have their high memory if it could reach `HYPERTRANSPORT`."""
HYPERTRANSPORT = 0xFD_0000_0000


@dataclass(frozen=True, slots=True)
class MachineRules:
    """Where a family of machine types has its memory.

    Attributes
    ----------
    name : str
        The family, for messages.
    pattern : str
        Regular expression for names of machine types.
    architectures : tuple of str
        The architectures of the emulators that have it.
    main_memory : str
        idstr of main memory, if it does not consist of NUMA back ends.
    base : int
        Where main memory begins.
    all_low_below : int or None
        Main memory shorter than this is not split; None: it never is.
    low : int
        Bytes of memory that is split before the hole.
    high : int
        Where memory behind the hole begins.
    witness : str or None
        A block that shows a QEMU release for which this row is right, if older releases gave
        the same machine another map.
    firmware : mapping of str to int
        Where those firmware blocks begin that do not end at 4 GiB.
    secure : (str, tuple of str) or None
        A block that only machines with a secure world have, and all blocks that only that world
        sees.
    shadow : (str, int) or None
        The PCI device, and the offset of its registers, that decide whether the guest reads RAM
        or ROM from 768 KiB to 1 MiB; None means that it always reads ROM.
    pci_window : int
        Bytes for 64-bit PCI behind all memory.
    pci_direct : bool
        Whether addresses on the PCI bus are the guest's physical ones.
    plug_align : int
        Plugged memory begins at the first multiple of this behind main memory; 0 means that its
        beginning is not known.
    """

    name: str
    pattern: str
    architectures: tuple[str, ...]
    main_memory: str
    base: int = 0
    all_low_below: int | None = None
    low: int = 0
    high: int = ABOVE_4G
    witness: str | None = None
    firmware: Mapping[str, int] = field(default_factory=dict)
    shadow: tuple[str, int] | None = None
    secure: tuple[str, tuple[str, ...]] | None = None
    pci_window: int = 0
    pci_direct: bool = True
    plug_align: int = 0

    def split(self, length: int) -> int:
        """Return how much of main memory of this length lies below the hole."""
        if self.all_low_below is None or length < self.all_low_below:
            return length
        return min(length, self.low)

    def plugged_from(self, length: int, low: int, high: int | None) -> int | None:
        """Return where memory that is plugged begins, None where that is not known.

        Parameters
        ----------
        length, low : int
            Of main memory; how much of it lies below the hole.
        high : int or None
            Where the rest begins.
        """
        if not self.plug_align or high is None:
            return None
        end = self.base + length if self.all_low_below is None else high + length - low
        return -(-end // self.plug_align) * self.plug_align


_X86 = ("x86_64",)
_ARM = ("aarch64", "arm")
_RISCV = ("riscv64", "riscv32")
_FLASHES = ("virt.flash0", "virt.flash1")
# Where the memory of the on-chip controllers begins, of which each chip has 4 MiB.
_HOMER = {
    "powernv8": 0x7F_FD80_0000,
    "powernv9": 0x203F_FD80_0000,
    "powernv10(?:-.*)?": 0x300F_FD80_0000,
}
_CHIPS = 16

MACHINES = (
    MachineRules(
        *("i440fx before 2.0", r"pc-(?:i440fx-1\..*|0\..*|1\..*)", _X86, "pc.ram"),
        all_low_below=0xE000_0000,
        low=0xE000_0000,
        shadow=("0000:00:00.0/I440FX", 0x59),
    ),
    MachineRules(
        *("i440fx", r"pc(?:-i440fx.*)?", _X86, "pc.ram"),
        all_low_below=0xE000_0000,
        low=0xC000_0000,
        shadow=("0000:00:00.0/I440FX", 0x59),
        pci_window=2 * GIB,
        plug_align=GIB,
    ),
    MachineRules(
        *("q35", r"(?:pc-)?q35.*", _X86, "pc.ram"),
        all_low_below=0xB000_0000,
        low=0x8000_0000,
        shadow=("0000:00:00.0/mch", 0x90),
        pci_window=32 * GIB,
        plug_align=GIB,
    ),
    MachineRules(
        *("microvm", r"microvm", _X86, "microvm.ram"),
        all_low_below=0xC000_0000,
        low=0xC000_0000,
    ),
    MachineRules("isapc", r"isapc", _X86, "pc.ram"),
    MachineRules(
        *("virt", r"virt(?:-.*)?", _ARM, "mach-virt.ram"),
        base=GIB,
        firmware=dict(zip(_FLASHES, (0, 64 * MIB), strict=True)),
        secure=("virt.secure-ram", ("virt.secure-ram", "virt.flash0")),
        plug_align=GIB,
    ),
    MachineRules(
        *("sbsa-ref", r"sbsa-ref", ("aarch64",), "sbsa-ref.ram"),
        base=1 << 40,
        firmware={"sbsa.flash0": 0, "sbsa.flash1": 256 * MIB},
        secure=("sbsa-ref.secure-ram", ("sbsa-ref.secure-ram", "sbsa.flash0")),
    ),
    MachineRules(
        *("virt", r"virt(?:-.*)?", _RISCV, "riscv_virt_board.ram"),
        base=2 * GIB,
        firmware={
            "riscv_virt_board.mrom": 0x1000,
            **dict(zip(_FLASHES, (0x2000_0000, 0x2200_0000), strict=True)),
        },
    ),
    MachineRules(
        *("virt", r"virt(?:-.*)?", ("loongarch64",), "loongarch.ram"),
        all_low_below=256 * MIB,
        low=256 * MIB,
        high=0x8000_0000,
        witness="virt.flash1",
        firmware=dict(zip(_FLASHES, (0x1C00_0000, 0x1D00_0000), strict=True)),
        plug_align=1,
    ),
    MachineRules(
        *("pseries", r"pseries(?:-.*)?", ("ppc64",), "ppc_spapr.ram"),
        pci_direct=False,
        plug_align=GIB,
    ),
    *(
        MachineRules(
            *("powernv", pattern, ("ppc64",), "pnv.ram"),
            firmware={f"homer-chip{n}-memory": base + n * 4 * MIB for n in range(_CHIPS)},
            pci_direct=False,
        )
        for pattern, base in _HOMER.items()
    ),
    MachineRules(
        *("s390-ccw-virtio", r"s390-ccw-virtio(?:-.*)?", ("s390x",), "s390.ram"),
        pci_direct=False,
    ),
)
"""Rows of one architecture: the first whose pattern fits counts."""

UNPLACEABLE: Mapping[str, str] = {
    "mach-virt.tag": "memory tags, which have an address space of their own",
    "mach-virt.secure-tag": "memory tags, which have an address space of their own",
    "xen.ram": "Xen lays it out itself",
}
"""Blocks of machines that are no memory of theirs, and why."""


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
    """Whether a processor is AMD's; None if neither vendor nor model tells."""
    if vendor:
        return vendor.lower() in ("amd", "authenticamd")
    if not model:
        return None
    if re.match(r"(?i)epyc|opteron|phenom|athlon", model):
        return True
    if re.match(r"(?i)qemu|kvm|host|max|base", model):
        return None
    return False
