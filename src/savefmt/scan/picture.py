"""A picture of the guest's memory: one pixel a page."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from itertools import pairwise
from typing import Any

from savefmt.errors import ConversionError, MissingPackageError, UnsupportedError
from savefmt.image import SaveImage
from savefmt.model import IOOptions, OnProgress, StrPath
from savefmt.native.content import ENTROPY_UNITS, entropies
from savefmt.native.pages import SumKey, Table
from savefmt.progress import Meter
from savefmt.scan.results import Painting, Picture
from savefmt.scan.windows import Memory, Window
from savefmt.writing.output import OutputFile, check_target

PALETTES = ("zero", "entropy", "changed")
"""What colours tell: data or not; how random it is; what differs from another image."""

MAX_WIDTH = 16384
_MAX_HEIGHT = 1 << 20
_LEAST_WIDTH = 64

_Color = tuple[int, int, int]
_DATA, _CHANGED, _EMPTY = 251, 252, 253
_FIXED: dict[int, _Color] = {
    0: (16, 16, 24),  # zero
    _DATA: (70, 130, 200),
    _CHANGED: (230, 60, 40),
    _EMPTY: (255, 255, 255),  # between blocks, and behind the last page
}
_GRADIENT: Sequence[tuple[int, _Color]] = (
    (1, (32, 24, 80)),
    (2 * ENTROPY_UNITS, (50, 100, 160)),
    (4 * ENTROPY_UNITS, (60, 170, 120)),
    (6 * ENTROPY_UNITS, (230, 200, 60)),
    (8 * ENTROPY_UNITS, (240, 90, 60)),
)


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
    """Write a PNG file, one pixel a page, one block under the other.

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
        Told of the work done; returning False cancels.

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
        If palette or width make no sense.
    """
    if dry_run:
        _, _, canvas = _prepare(image, palette, against, width, blocks, io, progress)
        check_target(target, overwrite=overwrite)
        return Picture(canvas.width, canvas.height, canvas.rows)
    with OutputFile(target, overwrite=overwrite) as out:
        painting = paint(
            image,
            palette=palette,
            against=against,
            width=width,
            blocks=blocks,
            io=io,
            progress=progress,
        )
        out.file.write(painting.png, 0)
        out.commit()
    return painting.picture


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
    library, memory, canvas = _prepare(image, palette, against, width, blocks, io, progress)
    if palette == "entropy":
        _paint_entropy(memory, canvas)
    elif against is None:
        _paint_data(memory, canvas, Meter(progress, image.length, "summing pages"))
    else:
        _paint_changes(memory, canvas, against, progress)
    return Painting(_png(library, canvas, most), Picture(canvas.width, canvas.height, canvas.rows))


def _prepare(
    image: SaveImage,
    palette: str,
    against: SaveImage | None,
    width: int | None,
    blocks: Sequence[str] | None,
    io: IOOptions,
    progress: OnProgress | None,
) -> tuple[Any, Memory, _Canvas]:
    """Refuse what makes no sense; return the library, what to paint, and what on."""
    library = _library()
    if palette not in PALETTES:
        raise ValueError(f"palette {palette!r} is none of {', '.join(PALETTES)}")
    if (palette == "changed") != (against is not None):
        raise ValueError("the palette 'changed' goes with an image to compare with")
    memory = Memory(image, blocks, io=io, progress=progress)
    return library, memory, _lay_out(memory, width)


def entropy_colors() -> list[tuple[float, str]]:
    """Return the scale of the palette ``entropy``: bits a byte, and colour as ``#rrggbb``."""
    return [(number / ENTROPY_UNITS, "#%02x%02x%02x" % color) for number, color in _GRADIENT]


class _Canvas:
    """Pixels as numbers in the palette."""

    def __init__(self, width: int, height: int, rows: dict[str, int]) -> None:
        self.width = width
        self.height = height
        self.rows = rows
        self.pixels = bytearray([_EMPTY]) * (width * height)

    def paint(self, block: str, first: int, colors: bytes) -> None:
        """Colour the pages of a block from one on."""
        start = self.rows[block] * self.width + first
        self.pixels[start : start + len(colors)] = colors


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
    return _Canvas(width, height, rows)


def _paint_data(memory: Memory, canvas: _Canvas, meter: Meter) -> None:
    for name, table in memory.image.memory.sums(SumKey.random(), meter).items():
        if name in canvas.rows:
            _paint_table(canvas, name, table)


def _paint_table(canvas: _Canvas, name: str, table: Table) -> None:
    """Colour what is not zero; a piece at a time, since a guest may have many pages."""
    with table.data() as data, data.cast("Q") as sums:
        for at in range(0, len(sums), 1 << 16):
            piece = sums[at : at + (1 << 16)]
            canvas.paint(name, at, bytes(_DATA if one else 0 for one in piece))


def _paint_entropy(memory: Memory, canvas: _Canvas) -> None:
    size = memory.page_size
    for name, length in memory.lengths.items():
        canvas.paint(name, 0, bytes(length // size))

    def work(window: Window) -> tuple[Window, bytes]:
        found = entropies(window.content, size)
        return Window(window.stretch, window.stretch.start, b""), found

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


def _png(library: Any, canvas: _Canvas, most: tuple[int, int] | None) -> bytes:
    picture = library.frombytes("P", (canvas.width, canvas.height), bytes(canvas.pixels))
    picture.putpalette([part for number in range(256) for part in _color(number)])
    if most is not None:
        factor = max(-(-canvas.width // most[0]), -(-canvas.height // most[1]))
        if factor > 1:
            picture = picture.convert("RGB").reduce(factor)
    encoded = BytesIO()
    picture.save(encoded, "PNG")
    return encoded.getvalue()


def _color(number: int) -> _Color:
    if number in _FIXED:
        return _FIXED[number]
    for (low, one), (high, other) in pairwise(_GRADIENT):
        if number <= high:
            return _between(one, other, (number - low) / (high - low))
    return _GRADIENT[-1][1]


def _between(one: _Color, other: _Color, part: float) -> _Color:
    red, green, blue = (round(a + (b - a) * part) for a, b in zip(one, other, strict=True))
    return red, green, blue


def _library() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingPackageError("map --png", "pillow", "plot") from error
    return Image
