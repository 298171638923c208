"""A picture of memory by the owners of its pages: one page a pixel, along a Hilbert curve.

Neighbours in memory are neighbours in the picture, in both directions.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from itertools import chain
from operator import itemgetter
from os import fspath

from savefmt.errors import UnsupportedError
from savefmt.image import SaveImage
from savefmt.linux.facts import PageOwner
from savefmt.linux.kernelmemory import PAGE
from savefmt.linux.opening import open_kernel
from savefmt.linux.pageowners import PageOwners
from savefmt.model import StrPath
from savefmt.scan.results import Area, Picture
from savefmt.scan.sheet import WHITE, Entry, Panel, Sheet, amount, lay_out, library, shortened
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
}
"""Of each kind of owner; what is no RAM stays white."""

_KINDS = tuple(COLORS)
_ALL = "memory"
_LEAST_SIDE, _MAX_SIDE = 512, 8192
_LARGEST, _MOST_BLOCKS = 10, 6
_NAME_LENGTH = 26

_Square = tuple[int, int, int, int, int, int, int, int]
"""First page, side, its pixel, and the steps of the curve's first half and of its second."""


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
    library()
    owners = PageOwners(open_kernel(image))
    kinds, steps = owners.kinds_by_page(_KINDS, WHITE)
    side = 1
    while side * side < len(kinds):
        side *= 2
    if side > _MAX_SIDE:
        raise UnsupportedError(
            f"a picture of {len(kinds)} pages would be too large", path=image.path
        )
    kinds += bytes([WHITE]) * (side * side - len(kinds))
    pixels = _along_the_curve(kinds, side)
    scale = max(1, _LEAST_SIDE // side)
    heading = "guest-physical memory, along a curve of Hilbert: neighbours stay neighbours"
    panel = Panel(_ALL, heading, side, side * side, scale, 1, lambda square: "")
    legend = _legend(owners, image)
    picture = lay_out([panel], legend, image.path)
    sheet = Sheet(picture, dict(enumerate(COLORS.values())), fspath(image.path))
    sheet.put(panel, bytes(pixels))
    _addresses(sheet, picture.areas[_ALL], side, steps)
    sheet.legend(legend)
    with OutputFile(target, overwrite=overwrite, direct=False) as out:
        out.file.write(sheet.png(), 0)
        out.commit(warn=True)
    return picture


def _along_the_curve(kinds: bytes, side: int) -> bytearray:
    """Return the pixels of a square through which the pages go as Hilbert's curve does."""
    pixels = bytearray([WHITE]) * (side * side)
    stack = [_whole(side)]
    while stack:
        square = stack.pop()
        first, length, *rest = square
        count = length * length
        piece = kinds[first : first + count]
        if length == 1 or piece.count(piece[0]) == count:
            left, top = _corner(length, *rest)
            row = piece[:1] * length
            for line in range(top, top + length):
                pixels[line * side + left : line * side + left + length] = row
        else:
            stack += _quarters(square)
    return pixels


def _whole(side: int) -> _Square:
    return 0, side, 0, 0, 1, 0, 0, 1


def _quarters(square: _Square) -> list[_Square]:
    """Part a square as the curve goes: in sideways, through two, and out sideways."""
    first, length, x, y, ax, ay, bx, by = square
    half = length // 2
    quarter, last = half * half, half - 1
    ox, oy = ax * half, ay * half
    px, py = bx * half, by * half
    return [
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


def _corner(length: int, x: int, y: int, ax: int, ay: int, bx: int, by: int) -> tuple[int, int]:
    """Return the left upper pixel of a square, of which the curve's first one is known."""
    return x + min(ax + bx, 0) * (length - 1), y + min(ay + by, 0) * (length - 1)


def _addresses(sheet: Sheet, area: Area, side: int, steps: list[tuple[int, int]]) -> None:
    """Part the square in sixteen, each with the address that it begins with."""
    step = side * area.scale // 4
    for number in (1, 2, 3):
        x, y = area.left + number * step, area.top + number * step
        sheet.rule([(x, area.top), (x, area.top + 4 * step - 1)])
        sheet.rule([(area.left, y), (area.left + 4 * step - 1, y)])
    for first, length, *rest in chain.from_iterable(map(_quarters, _quarters(_whole(side)))):
        left, top = _corner(length, *rest)
        place = area.left + left * area.scale + 1, area.top + top * area.scale + 1
        number = max(bisect_right(steps, first, key=itemgetter(0)) - 1, 0)
        sheet.note(*place, f"{(steps[number][1] + first - steps[number][0]) * PAGE:#x}")


def _blocks(image: SaveImage) -> list[Entry]:
    """Say where the blocks of memory lie, the largest pieces first."""
    ranges = [one for one in image.guest.physical.map.ranges if one.kind not in ("rom", "vram")]
    ranges = sorted(ranges, key=lambda one: -one.length)[:_MOST_BLOCKS]
    entries = [Entry(None, f"{one.start:#x}  {shortened(one.block, 24)}") for one in ranges]
    return [Entry(None, ""), Entry(None, "begins at:"), *entries]


def _legend(owners: PageOwners, image: SaveImage) -> list[Entry]:
    """Write kinds with their amounts, the largest owners, and the blocks."""
    totals = owners.totals()
    kinds = Counter[str]()
    for one in totals:
        kinds[one.owner.kind] += one.pages
    entries = [
        Entry(_KINDS.index(kind), f"{kind}  {amount(kinds[kind] * PAGE)}")
        for kind in _KINDS
        if kinds[kind]
    ]
    named = [one for one in totals if one.owner.name][:_LARGEST]
    entries.append(Entry(None, ""))
    entries += [Entry(_KINDS.index(one.owner.kind), _named(one.owner, one.pages)) for one in named]
    entries.append(Entry(None, f"{amount(kinds.total() * PAGE)} in all; a page a square"))
    return entries + _blocks(image)


def _named(owner: PageOwner, pages: int) -> str:
    name = owner.name if owner.pid is None else f"{owner.name}({owner.pid})"
    return f"{shortened(name, _NAME_LENGTH)}  {amount(pages * PAGE)}"
