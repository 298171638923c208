"""From an image to the kernel in it."""

from __future__ import annotations

from savefmt.errors import MissingPackageError, located
from savefmt.image import SaveImage
from savefmt.linux.kernel import Kernel
from savefmt.linux.modulesymbols import module_symbols, module_types
from savefmt.linux.walks import damage_told


def open_kernel(image: SaveImage) -> Kernel:
    """Find the kernel of a Linux guest.

    Parameters
    ----------
    image : SaveImage
        Must stay open as long as the kernel is used.

    Returns
    -------
    Kernel
        With a program of drgn.

    Raises
    ------
    UnsupportedError
        If there is no Linux, or if it keeps too little of itself in memory; the message says
        what helps.
    CorruptError
        If what it keeps is damaged.
    MissingPackageError
        Without drgn.
    """
    try:
        import drgn  # noqa: F401
    except ImportError as error:
        raise MissingPackageError("savefmt linux", "drgn", "linux") from error
    with located(image.path), damage_told(image.path):
        return Kernel(image, module_symbols, module_types)
