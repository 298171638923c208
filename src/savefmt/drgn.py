"""drgn on a save image, without a conversion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from savefmt.image import SaveImage

if TYPE_CHECKING:
    import drgn


def program(image: SaveImage, *, symbols: Literal["memory"] | None = None) -> drgn.Program:
    """Open a Linux guest in drgn.

    Parameters
    ----------
    image : SaveImage
        Of any form; must stay open as long as the program is used.  ``IOOptions(direct=False)``
        suits it best: drgn reads few bytes in many places.
    symbols : str, optional
        ``memory`` takes types and symbols from what the kernel keeps of itself in the guest's
        memory (BTF and kallsyms), and so needs no file.  Debugging information that is loaded
        as well comes first.

    Returns
    -------
    drgn.Program
        With the guest's memory and the registers of its vCPUs.  Without `symbols` the program
        has no symbols: call ``load_debug_info([vmlinux], main=True)`` next.

    Raises
    ------
    UnsupportedError
        If the guest's memory has no VMCOREINFO, or with `symbols` no BTF or kallsyms: then it is
        not Linux, or has not come far, or its kernel was built without.
    SavefmtError
        What is wrong with the image.
    MissingPackageError
        Without drgn: ``pip install 'savefmt[drgn]'``.

    Warns
    -----
    RuntimeWarning
        Of what is uncertain about the memory map or the VMCOREINFO, and of pages that are lost
        of a damaged image; a `drgn.FaultError` comes of reading one.
    """
    if symbols is None:
        from savefmt.linux.bare import open_bare

        return open_bare(image)
    if symbols != "memory":
        raise ValueError(f"symbols come from memory, not from {symbols!r}")
    from savefmt.linux.opening import open_kernel

    return open_kernel(image).program
