"""What ``savefmt map`` prints."""

from __future__ import annotations

from savefmt.cli.render.plain import plain
from savefmt.model import MapExtent

HEADING = f"{'Start':<18}{'Length':<18}{'Kind':<8}{'File offset':<18}{'Stride':<8}Block"


def extent_line(extent: MapExtent) -> str:
    """Give one line of ``savefmt map``, in the columns of `HEADING`.

    Parameters
    ----------
    extent : MapExtent
        A stretch of a RAM block.

    Returns
    -------
    str
        Numbers in hexadecimal, as in ``qemu-img map``.
    """
    offset = "-" if extent.offset is None else f"{extent.offset:#x}"
    stride = "-" if extent.stride is None else f"{extent.stride:#x}"
    return (
        f"{extent.start:<#18x}{extent.length:<#18x}{extent.kind:<8}{offset:<18}{stride:<8}"
        f"{plain(extent.block)}"
    )
