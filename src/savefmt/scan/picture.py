"""A picture of the guest's memory: one square a page, or several where memory is large."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO
from itertools import pairwise
from os import fspath
from typing import TYPE_CHECKING

from savefmt.errors import ConversionError, SavefmtError, UnsupportedError
from savefmt.frozen import replace
from savefmt.guest.blockaddresses import BlockAddresses
from savefmt.image import SaveImage
from savefmt.model import IOOptions, OnProgress, StrPath
from savefmt.native.content import ENTROPY_UNITS, entropies
from savefmt.native.pages import SumKey, Table
from savefmt.progress import Meter
from savefmt.scan.results import Painting, Picture
from savefmt.scan.sheet import (
    WHITE,
    Color,
    Entry,
    Panel,
    Sheet,
    amount,
    lay_out,
    library,
    shortened,
)
from savefmt.scan.windows import Memory, Window
from savefmt.writing.output import OutputFile, check_target

if TYPE_CHECKING:
    from savefmt.salvage.rescue import Rescue

PALETTES = ("zero", "entropy", "changed")
"""What colours tell: data or not; how random it is; what differs from another image."""

MAX_WIDTH = 16384
_MAX_HEIGHT = 1 << 20
_LEAST_WIDTH = 64
_LEAST_SIDE = 512
"""Pixels in width of a sheet's panels."""
_LARGER, _LOW = (16, 8, 4, 2), 64
"""Sides of squares that a small block gets, as long as it stays so low, in pixels."""
_CELL = 8
"""Side of a square in a picture of what changed."""

_LOST, _DATA, _CHANGED, _EMPTY = 250, 251, 252, 253
_FIXED: dict[int, Color] = {
    0: (16, 16, 24),  # zero
    _LOST: (200, 0, 200),
    _DATA: (70, 130, 200),
    _CHANGED: (230, 60, 40),
    _EMPTY: (255, 255, 255),  # between blocks, and behind the last page
}
_GRADIENT: Sequence[tuple[int, Color]] = (
    (1, (32, 24, 80)),
    (2 * ENTROPY_UNITS, (50, 100, 160)),
    (4 * ENTROPY_UNITS, (60, 170, 120)),
    (6 * ENTROPY_UNITS, (230, 200, 60)),
    (8 * ENTROPY_UNITS, (240, 90, 60)),
)
_FEW, _ALL = 1, 8 * ENTROPY_UNITS
_HEAT: Sequence[tuple[int, Color]] = (
    (_FEW, (255, 214, 70)),
    ((_FEW + _ALL) // 2, (240, 110, 40)),
    (_ALL, (170, 0, 30)),
)
"""Of squares in which pages changed, by how many."""


def draw(
    image: SaveImage,
    target: StrPath,
    *,
    palette: str = "zero",
    against: SaveImage | None = None,
    width: int | None = None,
    blocks: Sequence[str] | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    io: IOOptions = IOOptions(),
    progress: OnProgress | None = None,
) -> Picture:
    """Write a PNG file: blocks with names, borders, addresses and a legend.

    Parameters
    ----------
    image : SaveImage
        Of any form.
    target : str or os.PathLike
        The file; appears when it is complete.
    palette : str
        One of `PALETTES`.
    against : SaveImage, optional
        For ``changed``: the image that it is compared with.
    width : int, optional
        Pages in a row; by default a power of 2 that makes the picture about square.
    blocks : sequence of str, optional
        Only these.
    overwrite : bool
        Replace the target.
    dry_run : bool
        Write nothing, and tell what would be where.
    io : IOOptions
        Threads.
    progress : callable, optional
        Called with the work done so far; it cancels by returning False.

    Returns
    -------
    Picture
        What is where.

    Raises
    ------
    UnsupportedError
        If Pillow is not installed, or the guest is too large for the width.
    ConversionError
        If the target exists, or the images cannot be compared.
    ValueError
        If palette or width are not valid.
    """
    if dry_run:
        _, canvas = _prepare(image, palette, against, width, blocks, io, progress)
        check_target(target, overwrite=overwrite)
        return lay_out(list(_panels(image, palette, canvas)), _legend(palette), image.path)
    with OutputFile(target, overwrite=overwrite) as out:
        canvas = _painted(image, palette, against, width, blocks, io, progress)
        panels = list(_panels(image, palette, canvas))
        legend = _legend(palette)
        picture = lay_out(panels, legend, image.path)
        scale = _HEAT if palette == "changed" else _GRADIENT
        colors = {number: _color(number, scale) for number in range(WHITE)}
        title = [fspath(one.path) for one in (image, against) if one is not None]
        sheet = Sheet(picture, colors, ", against ".join(title))
        for panel in panels:
            squares, heading = _squares(palette, panel, canvas)
            sheet.put(replace(panel, heading=heading), squares)
        sheet.legend(legend)
        out.file.write(sheet.png(), 0)
        out.commit(warn=True)
    return picture


def paint(
    image: SaveImage,
    *,
    palette: str = "zero",
    against: SaveImage | None = None,
    width: int | None = None,
    blocks: Sequence[str] | None = None,
    most: tuple[int, int] | None = None,
    io: IOOptions = IOOptions(),
    progress: OnProgress | None = None,
) -> Painting:
    """Do as `draw`, and return the PNG file.

    Parameters
    ----------
    image, palette, against, width, blocks, io, progress
        As for `draw`.
    most : (int, int), optional
        Pixels in width and height that the PNG has at most: beyond, one shows the mean
        colour of several pages.

    Returns
    -------
    Painting
        The file, and what is where in the picture of one pixel a page.

    Raises
    ------
    UnsupportedError, ConversionError, ValueError
        As `draw` does.
    """
    canvas = _painted(image, palette, against, width, blocks, io, progress)
    return Painting(_png(canvas, most), Picture(canvas.width, canvas.height, canvas.rows))


def _painted(
    image: SaveImage,
    palette: str,
    against: SaveImage | None,
    width: int | None,
    blocks: Sequence[str] | None,
    io: IOOptions,
    progress: OnProgress | None,
) -> _Canvas:
    """Colour a pixel for each page."""
    memory, canvas = _prepare(image, palette, against, width, blocks, io, progress)
    if palette == "entropy":
        _paint_entropy(memory, canvas)
    elif against is None:
        _paint_data(memory, canvas, Meter(progress, image.length, "summing pages"))
    else:
        _paint_changes(memory, canvas, against, progress)
    for one in (image, against):
        if one is not None and one.rescue is not None:
            _paint_lost(canvas, one.rescue)
    return canvas


def _prepare(
    image: SaveImage,
    palette: str,
    against: SaveImage | None,
    width: int | None,
    blocks: Sequence[str] | None,
    io: IOOptions,
    progress: OnProgress | None,
) -> tuple[Memory, _Canvas]:
    """Refuse invalid requests; return what to paint, and on what."""
    library()
    if palette not in PALETTES:
        raise ValueError(f"palette {palette!r} is not one of {', '.join(PALETTES)}")
    if (palette == "changed") != (against is not None):
        raise ValueError("the palette 'changed' goes with an image to compare with")
    memory = Memory(image, blocks, io=io, progress=progress)
    return memory, _lay_out(memory, width)


def _panels(image: SaveImage, palette: str, canvas: _Canvas) -> Iterator[Panel]:
    """Say how the pages of each block become squares: those of small blocks are larger."""
    size = image.page_size
    try:
        places = BlockAddresses(image.guest.physical.map.ranges)
    except SavefmtError:  # then offsets in the block have to do
        places = BlockAddresses(())
    least = max(_LEAST_SIDE, canvas.width)
    for name, pages in canvas.counts.items():
        columns, scale, each = canvas.width, max(1, _LEAST_SIDE // canvas.width), 1
        if palette == "changed":
            scale = _CELL
            columns = least // scale
            while -(-pages // each) > columns * columns:
                each *= 2
        else:
            for larger in _LARGER:
                if -(-pages // (least // larger)) * larger <= _LOW and larger > scale:
                    columns, scale = least // larger, larger
                    break

        def label(square: int, name: str = name, each: int = each) -> str:
            offset = square * each * size
            addresses = places.addresses(name, offset)
            return f"{addresses[0]:#x}" if addresses else f"+{offset:#x}"

        heading = f"{shortened(name)}  {amount(pages * size)}"
        yield Panel(name, heading, columns, -(-pages // each), scale, each, label)


def _squares(palette: str, panel: Panel, canvas: _Canvas) -> tuple[bytes, str]:
    """Return the colours of a block's squares, and its heading, which counts what changed."""
    pages = canvas.pages(panel.name)
    if palette != "changed":
        return pages, panel.heading
    count, each = pages.count(_CHANGED), panel.pages
    pieces = (pages[at : at + each] for at in range(0, len(pages), each))
    unit = f"a square = {each} pages" if each > 1 else "a square = a page"
    heading = f"{panel.heading}  {count} of {len(pages)} pages changed; {unit}"
    return bytes(map(_changed_color, pieces)), heading


def _changed_color(pages: bytes) -> int:
    """Return the colour of some pages: one that changed shows among any number."""
    changed = pages.count(_CHANGED)
    if changed:
        return _FEW + round((_ALL - _FEW) * (changed - 1) / max(1, len(pages) - 1))
    return _DATA if pages.count(_DATA) else 0


def _legend(palette: str) -> list[Entry]:
    if palette == "entropy":
        entries = [
            Entry(number, f"{number / ENTROPY_UNITS:.0f} bits a byte") for number, _ in _GRADIENT
        ]
        return [Entry(0, "zero"), *entries, Entry(None, "0: all alike, 8: random, as if packed")]
    known = [Entry(0, "zero"), Entry(_DATA, "data")]
    if palette == "changed":
        known[1] = Entry(_DATA, "data, as it was")
        known += [
            Entry(_FEW, "one page changed"),
            Entry((_FEW + _ALL) // 2, "half of the pages changed"),
            Entry(_ALL, "all pages changed"),
        ]
    return [*known, Entry(None, "left: guest-physical addresses"), Entry(None, "(+: in the block)")]


def entropy_colors() -> list[tuple[float, str]]:
    """Return the scale of the palette ``entropy``: bits a byte, and colour as ``#rrggbb``."""
    return [(number / ENTROPY_UNITS, "#%02x%02x%02x" % color) for number, color in _GRADIENT]


class _Canvas:
    """Pixels as numbers in the palette."""

    def __init__(
        self, width: int, height: int, rows: dict[str, int], counts: dict[str, int]
    ) -> None:
        self.width = width
        self.height = height
        self.rows = rows
        self.counts = counts
        self.pixels = bytearray([_EMPTY]) * (width * height)

    def paint(self, block: str, first: int, colors: bytes) -> None:
        """Colour the pages of a block from one on."""
        start = self.rows[block] * self.width + first
        self.pixels[start : start + len(colors)] = colors

    def pages(self, block: str) -> bytes:
        """Return the colours of a block's pages."""
        start = self.rows[block] * self.width
        return bytes(self.pixels[start : start + self.counts[block]])


def _lay_out(memory: Memory, width: int | None) -> _Canvas:
    counts = {name: length // memory.page_size for name, length in memory.lengths.items()}
    if width is None:
        width = _LEAST_WIDTH
        while width < MAX_WIDTH and width * width < sum(counts.values()):
            width *= 2
    if not 1 <= width <= MAX_WIDTH:
        raise ValueError(f"the width is 1 to {MAX_WIDTH} pixels, not {width}")
    rows, height = {}, 0
    for name, count in counts.items():
        rows[name] = height
        height += -(-count // width) + 1
    height = max(height - 1, 1)
    if height > _MAX_HEIGHT:
        raise UnsupportedError(
            f"the picture would be {height} pixels high; make it wider", path=memory.image.path
        )
    return _Canvas(width, height, rows, counts)


def _paint_data(memory: Memory, canvas: _Canvas, meter: Meter) -> None:
    for name, table in memory.image.memory.sums(SumKey.random(), meter).items():
        if name in canvas.rows:
            _paint_table(canvas, name, table)


def _paint_table(canvas: _Canvas, name: str, table: Table) -> None:
    """Colour the pages that are not zero; a piece at a time, since a guest may have many pages."""
    with table.data() as data, data.cast("Q") as sums:
        for at in range(0, len(sums), 1 << 16):
            piece = sums[at : at + (1 << 16)]
            canvas.paint(name, at, bytes(_DATA if one else 0 for one in piece))


def _paint_lost(canvas: _Canvas, rescue: Rescue) -> None:
    for name in canvas.rows:
        for first, end in rescue.lost(name):
            canvas.paint(name, first, bytes([_LOST]) * (end - first))


def _paint_entropy(memory: Memory, canvas: _Canvas) -> None:
    size = memory.page_size
    for name, length in memory.lengths.items():
        canvas.paint(name, 0, bytes(length // size))

    def work(window: Window) -> tuple[Window, bytes]:
        content = bytes(window.content)
        found = bytearray(entropies(content, size))
        for number, units in enumerate(found):
            # A page with almost no entropy need not be a page of zeros: all of its bytes are
            # equal, or all but one.
            if not units and content.count(0, number * size, (number + 1) * size) != size:
                found[number] = 1
        return Window(window.stretch, window.stretch.start, b""), bytes(found)

    for window, found in memory.each(work):
        canvas.paint(window.stretch.block, window.base // size, found)


def _paint_changes(
    memory: Memory, canvas: _Canvas, against: SaveImage, progress: OnProgress | None
) -> None:
    image = memory.image
    key = SumKey.random()
    mine = image.memory.sums(key, Meter(progress, image.length, "summing pages"))
    theirs = against.memory.sums(key, Meter(progress, against.length, f"reading {against.path}"))
    for name in canvas.rows:
        other = theirs.get(name)
        lengths = [one.head.blocks[name].used_length for one in (image, against) if other]
        if other is None or lengths[0] != lengths[1] or image.page_size != against.page_size:
            raise ConversionError(
                f"its block {name!r} is missing, or of another size; choose others with --block",
                path=against.path,
            )
        _paint_table(canvas, name, mine[name])
        for run in mine[name].differences(other):
            canvas.paint(name, run.first, bytes([_CHANGED]) * run.count)


def _png(canvas: _Canvas, most: tuple[int, int] | None) -> bytes:
    picture = library()[0].frombytes("P", (canvas.width, canvas.height), bytes(canvas.pixels))
    picture.putpalette([part for number in range(256) for part in _color(number)])
    if most is not None:
        factor = max(-(-canvas.width // most[0]), -(-canvas.height // most[1]))
        if factor > 1:
            picture = picture.convert("RGB").reduce(factor)
    encoded = BytesIO()
    picture.save(encoded, "PNG")
    return encoded.getvalue()


def _color(number: int, scale: Sequence[tuple[int, Color]] = _GRADIENT) -> Color:
    if number in _FIXED:
        return _FIXED[number]
    for (low, one), (high, other) in pairwise(scale):
        if number <= high:
            return _between(one, other, (number - low) / (high - low))
    return scale[-1][1]


def _between(one: Color, other: Color, part: float) -> Color:
    red, green, blue = (round(a + (b - a) * part) for a, b in zip(one, other, strict=True))
    return red, green, blue
