"""The kernel's virtual addresses, from the page tables of a vCPU."""

from __future__ import annotations

from itertools import islice

from savefmt.errors import ConversionError, UnsupportedError
from savefmt.guest import mappings
from savefmt.guest.arch.x86_paging import X86PageTables
from savefmt.guest.mappings import VirtualRange, Walk
from savefmt.image import SaveImage
from savefmt.model import Finding, Severity

# Linux on x86 maps one stack page there at thousands of addresses, for returns to 16-bit code.
_ESPFIX = range(0xFFFF_FF00_0000_0000, 0xFFFF_FF80_0000_0000)


def kernel_mappings(image: SaveImage, findings: list[Finding]) -> list[VirtualRange]:
    """Return what the first vCPU's page tables map in the kernel's part of the addresses.

    Parameters
    ----------
    image : SaveImage
        Of a guest whose kernel has addresses of its own.
    findings : list of Finding
        Receives tables that lie outside of memory.

    Returns
    -------
    list of VirtualRange
        Ascending by virtual address, neighbours joined.

    Raises
    ------
    UnsupportedError
        If the vCPU is in another mode.
    ConversionError
        If the tables have no end, as those of a forged image.
    """
    tables = image.guest.space().tables
    if not any(root.kernel for root in tables.roots()):
        raise UnsupportedError(
            "--kernel-va needs a guest whose first vCPU uses paging and whose kernel has "
            f"addresses of its own; the paging of this guest is {tables.mode!r}"
        )
    walk = Walk(tables, kernel=True)
    skipped = _ESPFIX if isinstance(tables, X86PageTables) else range(0)
    wanted = (item for item in walk.mappings() if item.virtual not in skipped)
    found = list(islice(wanted, mappings.MAPPINGS_LIMIT + 1))
    if len(found) > mappings.MAPPINGS_LIMIT:
        raise ConversionError("the page tables map more ranges than any kernel does")
    if not walk.complete:
        raise ConversionError("the page tables have no end; they lead back to themselves")
    if walk.lost:
        findings.append(
            Finding(
                "export.page-tables",
                Severity.WARNING,
                f"{walk.lost} page tables of the kernel are at addresses without memory",
            )
        )
    return found
