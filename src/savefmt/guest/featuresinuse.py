"""Features of an x86 processor that a guest has switched on, from its control registers.

An image without a domain XML does not name the model of its processor, but a processor without
these features cannot continue the guest.  The bits are those of Intel's Software Developer's
Manual, volume 3, sections 2.2.1, 2.5 and 2.6, and AMD's volume 2, section 3.1.7; the names are
QEMU's.
"""

from __future__ import annotations

from collections.abc import Mapping

from savefmt.errors import FormatError
from savefmt.format.hardware import Hardware
from savefmt.frozen import replace
from savefmt.guest.needs import GuestSource, read_hardware, read_tree

_BITS: Mapping[str, Mapping[int, str]] = {
    "env.cr[4]": {
        5: "pae",
        7: "pge",
        11: "umip",
        12: "la57",
        13: "vmx",
        14: "smx",
        16: "fsgsbase",
        17: "pcid",
        18: "xsave",
        20: "smep",
        21: "smap",
        22: "pku",
        24: "pks",
    },
    "env.efer": {0: "syscall", 10: "lm", 11: "nx", 12: "svm", 14: "fxsr-opt"},
    "env.xcr0": {2: "avx", 3: "mpx", 5: "avx512f", 18: "amx-tile"},
}


def features_in_use(source: GuestSource) -> tuple[str, ...]:
    """Return what the first vCPU has switched on, by QEMU's names; other machines tell nothing.

    Parameters
    ----------
    source : GuestSource
        The image.
    """
    try:
        tree = read_tree(source, "cpu")
    except FormatError:
        return ()
    if tree is None:
        return ()
    return tuple(
        name
        for register, names in _BITS.items()
        for bit, name in names.items()
        if (tree.number(register) or 0) >> bit & 1
    )


def processor_wanted(source: GuestSource) -> Hardware:
    """Return what the domain XML says, and the features in use that it does not mention.

    Parameters
    ----------
    source : GuestSource
        The image.
    """
    hardware = read_hardware(source, [])
    told = {name.replace("_", "-") for name, _ in hardware.cpu_features}
    more = tuple((name, True) for name in features_in_use(source) if name not in told)
    return replace(hardware, cpu_features=(*hardware.cpu_features, *more))
