"""A picture of memory by whose the pages are: one page a pixel, along a curve of Hilbert.

Neighbours in memory are neighbours in the picture, in both directions.
"""

from __future__ import annotations

from collections import Counter
from io import BytesIO
from typing import Any

from savefmt.errors import MissingPackageError, UnsupportedError
from savefmt.image import SaveImage
from savefmt.linux.facts import PageOwner
from savefmt.linux.kernelmemory import PAGE
from savefmt.linux.opening import open_kernel
from savefmt.linux.pageowners import PageOwners
from savefmt.model import StrPath
from savefmt.scan.results import Picture
from savefmt.writing.output import OutputFile

COLORS = {
    "free": (24, 24, 32),
    "reserved": (200, 60, 60),
    "kernel": (150, 100, 60),
    "slab": (230, 150, 40),
    "page-table": (240, 240, 80),
    "file": (60, 140, 220),
    "anonymous": (90, 200, 90),
    "unknown": (160, 160, 160),
    "": (255, 255, 255),
}
"""Of each kind of owner; of what is no RAM the last."""

_KINDS = tuple(COLORS)
_NOWHERE = _KINDS.index("")
_INK = len(_KINDS)
_LEAST_SIDE, _MAX_SIDE = 512, 8192
_LEGEND_WIDTH, _ROW = 300, 18
_LARGEST = 10
_NAME_LENGTH = 34


def draw_owners(image: SaveImage, target: StrPath, *, overwrite: bool = False) -> Picture:
    """Write a PNG file of whose the pages of a Linux guest are, with a legend.

    Parameters
    ----------
    image : SaveImage
        Of any form.
    target : str or os.PathLike
        The file; appears when it is complete.
    overwrite : bool
        Replace the target.

    Returns
    -------
    Picture
        Its size.

    Raises
    ------
    UnsupportedError
        If the guest is no Linux, or too large for a picture, or Pillow is not installed.
    """
    library = _library()
    owners = PageOwners(open_kernel(image))
    kinds = owners.kinds_by_page(_KINDS, _NOWHERE)
    side = 1
    while side * side < len(kinds):
        side *= 2
    if side > _MAX_SIDE:
        raise UnsupportedError(
            f"a picture of {len(kinds)} pages would be too large", path=image.path
        )
    kinds += bytes([_NOWHERE]) * (side * side - len(kinds))
    pixels = _along_the_curve(kinds, side)
    scale = max(1, _LEAST_SIDE // side)
    picture = library.Image.frombytes("P", (side, side), bytes(pixels))
    picture = picture.resize((side * scale, side * scale), library.Image.Resampling.NEAREST)
    canvas = library.Image.new("P", (side * scale + _LEGEND_WIDTH, side * scale), _NOWHERE)
    palette = [part for color in COLORS.values() for part in color] + [0, 0, 0]
    canvas.putpalette(palette)
    canvas.paste(picture, (0, 0))
    _legend(library, canvas, owners, side * scale + 12)
    encoded = BytesIO()
    canvas.save(encoded, "PNG")
    with OutputFile(target, overwrite=overwrite, direct=False) as out:
        out.file.write(encoded.getvalue(), 0)
        out.commit()
    return Picture(canvas.width, canvas.height, {})


def _along_the_curve(kinds: bytes, side: int) -> bytearray:
    """Return the pixels of a square through which the pages go as Hilbert's curve does."""
    pixels = bytearray([_NOWHERE]) * (side * side)
    # (first page, side, corner, step of the first half, step of the second)
    stack = [(0, side, 0, 0, 1, 0, 0, 1)]
    while stack:
        first, length, x, y, ax, ay, bx, by = stack.pop()
        count = length * length
        piece = kinds[first : first + count]
        if length == 1 or piece.count(piece[0]) == count:
            left, top = x + min(ax + bx, 0) * (length - 1), y + min(ay + by, 0) * (length - 1)
            row = piece[:1] * length
            for line in range(top, top + length):
                pixels[line * side + left : line * side + left + length] = row
            continue
        half = length // 2
        quarter, last = count // 4, half - 1
        ox, oy = ax * half, ay * half
        px, py = bx * half, by * half
        # Into the first quarter sideways, through two, and out of the last one sideways.
        stack += [
            (first, half, x, y, bx, by, ax, ay),
            (first + quarter, half, x + px, y + py, ax, ay, bx, by),
            (first + 2 * quarter, half, x + px + ox, y + py + oy, ax, ay, bx, by),
            (
                first + 3 * quarter,
                half,
                x + ox + ax * last + bx * last,
                y + oy + ay * last + by * last,
                *(-bx, -by, -ax, -ay),
            ),
        ]
    return pixels


def _legend(library: Any, canvas: Any, owners: PageOwners, left: int) -> None:
    """Write kinds with their amounts, then the largest owners, as far as there is room."""
    pen = library.ImageDraw.Draw(canvas)
    totals = owners.totals()
    kinds = Counter[str]()
    for one in totals:
        kinds[one.owner.kind] += one.pages
    rows: list[tuple[int | None, str]] = [
        (_KINDS.index(kind), f"{kind}  {_amount(kinds[kind])}") for kind in _KINDS if kinds[kind]
    ]
    named = [one for one in totals if one.owner.name][:_LARGEST]
    rows.append((None, ""))
    rows += [(_KINDS.index(one.owner.kind), _named(one.owner, one.pages)) for one in named]
    rows.append((None, f"{_amount(sum(kinds.values()))} in all; a page a dot"))
    top = 8
    for color, text in rows:
        if top + _ROW > canvas.height:
            break
        if color is not None:
            pen.rectangle((left, top, left + 12, top + 12), fill=color, outline=_INK)
        pen.text((left + 20, top), text, fill=_INK)
        top += _ROW


def _named(owner: PageOwner, pages: int) -> str:
    name = owner.name if owner.pid is None else f"{owner.name}({owner.pid})"
    name = "".join(letter if " " <= letter <= "~" else "?" for letter in name)
    if len(name) > _NAME_LENGTH:
        name = "..." + name[3 - _NAME_LENGTH :]
    return f"{name}  {_amount(pages)}"


def _amount(pages: int) -> str:
    length = pages * PAGE
    return f"{length >> 20} MiB" if length >= 10 << 20 else f"{length >> 10} KiB"


class _Library:
    """The parts of Pillow that are needed."""

    def __init__(self, image: Any, draw: Any) -> None:
        self.Image = image
        self.ImageDraw = draw


def _library() -> _Library:
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise MissingPackageError("map --png", "pillow", "plot") from error
    return _Library(Image, ImageDraw)
