"""Which releases of QEMU know which system registers of Arm's processors, without KVM.

A stream lists the registers of each vCPU. A QEMU refuses the list if it does not know one of
them, for every machine type.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from savefmt.compat.releases import Release
from savefmt.errors import FormatError
from savefmt.image import SaveImage

_LIST, _COUNT = "cpreg_vmstate_indexes", "cpreg_vmstate_array_len"
_NEW_COUNT = "int32"
"""The type of that field from some release between 10.0 and 11.1 on; before, ``int32 le``."""
_BY_COPROCESSOR, _BY_COPROCESSOR_64, _BY_SYSTEM = 0x4020, 0x4030, 0x6030
_MARKS = {_BY_COPROCESSOR: 0, _BY_COPROCESSOR_64: 1 << 15, _BY_SYSTEM: 1 << 28}
"""By the upper bits of KVM's numbers: what QEMU sets in the numbers that it prints."""

QEMU_7, QEMU_10_0_2, QEMU_10_0_13, QEMU_11 = TRIED = (
    *(Release(7, 2, 22), Release(10, 0, 2), Release(10, 0, 13)),
    Release(11, 1, 3),
)
"""Releases whose lists were read: those of a7, a15, a35, a53, a55, a57, a72, a76, a710, a64fx,
neoverse-n1, -n2, -v1 and max, with EL2 and EL3.  The loads of a57 and max among them were tried."""

_KNOWN_TO: tuple[tuple[set[Release], str], ...] = (
    (
        {QEMU_7},
        "f3a00 200f3a00",
    ),
    (
        {QEMU_7, QEMU_10_0_2, QEMU_10_0_13},
        "1013c030",
    ),
    (
        {QEMU_10_0_2},
        "200e0298",
    ),
    (
        {QEMU_10_0_2, QEMU_10_0_13, QEMU_11},
        "200e0002 200e0100 200e0182 200e0302 200e0380 200e3c86 200f6002 10137780 10138002 "
        "10138010 1013801a 10138032 101383ce 10139828 1013a038 1013c602 1013c780 1013c788 "
        "1013c789 1013c78a 1013c78b 1013c78c 1013c78d 1013c790 1013c791 1013c792 1013c794 "
        "1013c797 1013c7b8 1013c7c0 1013c7c1 1013c7c2 1013da17 1013df48 1013df49 1013df4a "
        "1013df4b 1013df4c 1013df4d 1013df4e 1013df4f 1013df50 1013df51 1013df52 1013df53 "
        "1013df68 1013df69 1013df6a 1013df6b 1013df6c 1013df6d 1013df6e 1013df6f 1013df70 "
        "1013df71 1013df72 1013df73 1013e08c 1013e08d 1013e08e 1013e110 1013e18c 1013e18d "
        "1013e706 1013e721 1013e722 1013e729 1013e72a 1013e7b8 1013e7b9 1013efb8 1013f602 "
        "1013f780 1013f781 1013f782 1013f788 1013f789 1013f78a 1013f790 1013f791 1013f794 "
        "1013f795 1013f796 1013f798 1013f799 1013f7a0 1013f7b8 1013f7c0 1013f7c1 1013f7c2 "
        "1013f7c3 1013f7c4 1013f7c5 1013f7c6",
    ),
    (
        {QEMU_10_0_13, QEMU_11},
        "200e0280 10139820",
    ),
    (
        {QEMU_11},
        "1013c083 1013c103 1013c128 1013c129 1013c12a 1013c511 1013c512 1013c513 1013c519 "
        "1013d929 1013da22 1013e083 1013e103 1013e128 1013e129 1013e509 1013e512 1013e513 "
        "1013e515 1013e519 1013e540 1013e541 1013e542 1013e543 1013e547 1013e548 1013e549 "
        "1013f083 1013f128 1013f129 1013f509 1013f513 1013f519 1013f551",
    ),
)
"""Registers that not all of these know, by the numbers that QEMU prints."""

FORM = 0
"""Marks the form in which QEMU 11.1 writes the list: QEMU 10.0 aborts when it reads that form."""

KNOWN_TO = {int(word, 16): known for known, words in _KNOWN_TO for word in words.split()}
KNOWN_TO[FORM] = {QEMU_11}


def saved_registers(image: SaveImage) -> frozenset[int]:
    """Return the registers of the first vCPU in an image.

    Parameters
    ----------
    image : SaveImage
        Its devices are read.

    Returns
    -------
    frozenset of int
        By the numbers that QEMU prints; empty for other architectures, and with KVM, whose
        lists are the host kernel's.
    """
    try:
        section = image.devices.find("cpu")
        tree = image.devices.tree(section) if section is not None else None
    except FormatError:
        return frozenset()
    numbers = tree.numbers(_LIST) if tree is not None else ()
    if not any(number >> 48 == _BY_COPROCESSOR for number in numbers):
        return frozenset()
    found = frozenset(_printed(number) for number in numbers)
    count = next(tree.named(_COUNT), None) if tree is not None else None
    return found | {FORM} if count is not None and count.type == _NEW_COUNT else found


def _printed(number: int) -> int:
    return number & 0xFFFF_FFFF | _MARKS.get(number >> 48, 0)


def unknown_registers(
    saved: Iterable[int], release: Release
) -> tuple[Sequence[int], Sequence[int]]:
    """Return the registers that a release does not know, and those of which that is not sure.

    Parameters
    ----------
    saved : iterable of int
        As `saved_registers` gives them.
    release : Release
        Of QEMU.

    Returns
    -------
    (sequence of int, sequence of int)
        Sure is what the tried releases before and behind it agree on.
    """
    near = set(_neighbours(release))
    listed = sorted(number for number in saved if number in KNOWN_TO)
    unknown = [number for number in listed if not near & KNOWN_TO[number]]
    unsure = [number for number in listed if near & KNOWN_TO[number] and near - KNOWN_TO[number]]
    return unknown, unsure


def _neighbours(release: Release) -> Iterator[Release]:
    before = [tried for tried in TRIED if tried <= release]
    behind = [tried for tried in TRIED if tried >= release]
    if before:
        yield before[-1]
    if behind:
        yield behind[0]


def named(registers: Sequence[int], most: int = 3) -> str:
    """Return some of them as QEMU prints them."""
    words = [f"{n:#x}" if n != FORM else "(a newer list)" for n in registers[:most]]
    more = len(registers) - len(words)
    return ", ".join(words) + (f" and {more} more" if more else "")
