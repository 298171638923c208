"""A sheet with pictures of memory: the labels around the pixels that make them readable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

from savefmt.errors import MissingPackageError, UnsupportedError
from savefmt.frozen import dataclass
from savefmt.scan.results import Area, Picture

Color = tuple[int, int, int]

WHITE, INK, FAINT = 253, 254, 255
"""Numbers in a sheet's palette: around everything, of texts and borders, between squares."""
FIXED: dict[int, Color] = {WHITE: (255, 255, 255), INK: (0, 0, 0), FAINT: (225, 225, 225)}

_MARGIN = 10
_AXIS = 112
_LEGEND = 250
_LINE = 15
_TICK = 48
_HEADING = 18
_NAME_LENGTH = 36
_MAX_HEIGHT = 1 << 17


@dataclass(frozen=True, slots=True)
class Panel:
    """Squares of one block.

    Attributes
    ----------
    name : str
        Of the block.
    heading : str
        The text above it.
    columns : int
        Squares in a row.
    count : int
        Squares in all.
    scale : int
        Pixels of a square's side; from 4 on with a line between squares.
    pages : int
        Pages that a square stands for.
    label : callable
        Returns the text next to the row that begins with this square, if any.
    """

    name: str
    heading: str
    columns: int
    count: int
    scale: int
    pages: int
    label: Callable[[int], str]

    @property
    def rows(self) -> int:
        """Rows of squares."""
        return -(-self.count // self.columns)


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the legend.

    Attributes
    ----------
    color : int or None
        Number in the palette; None for text alone.
    text : str
        What it means.
    """

    color: int | None
    text: str


def lay_out(panels: Sequence[Panel], legend: Sequence[Entry], path: object) -> Picture:
    """Say what will be where.

    Raises
    ------
    UnsupportedError
        If the sheet would be too high.
    """
    top = _MARGIN + _HEADING
    areas = {}
    for panel in panels:
        top += _HEADING
        areas[panel.name] = Area(_AXIS, top, panel.columns, panel.scale, panel.pages)
        top += panel.rows * panel.scale + _HEADING
    height = max(top, 2 * _MARGIN + _HEADING + _LINE * len(legend))
    if height > _MAX_HEIGHT:
        raise UnsupportedError(
            f"the picture would be {height} pixels high; make it wider, or choose blocks",
            path=str(path),
        )
    wide = max((panel.columns * panel.scale for panel in panels), default=0)
    rows = {name: area.top for name, area in areas.items()}
    return Picture(_AXIS + wide + 2 * _MARGIN + _LEGEND, height, rows, areas)


class Sheet:
    """The pixels of a picture that was laid out.

    Parameters
    ----------
    picture : Picture
        What `lay_out` said.
    colors : dict of int to color
        The palette; missing colours are white.
    title : str
        The text on top.
    """

    def __init__(self, picture: Picture, colors: dict[int, Color], title: str) -> None:
        self._library, draw, fonts = library()
        self._font = fonts.load_default_imagefont()  # the other one blurs, in a palette
        self._picture = picture
        self._canvas = self._library.new("P", (picture.width, picture.height), WHITE)
        known = FIXED | colors
        white = FIXED[WHITE]
        self._canvas.putpalette([part for n in range(256) for part in known.get(n, white)])
        self._pen = draw.Draw(self._canvas)
        self._text(_MARGIN, _MARGIN, title)

    def _text(self, left: int, top: int, text: str) -> None:
        # The font that comes with Pillow knows no more than this.
        text = "".join(letter if " " <= letter <= "~" else "?" for letter in text)
        self._pen.text((left, top), text, fill=INK, font=self._font)

    def put(self, panel: Panel, squares: bytes) -> None:
        """Draw the squares of a block, each a number in the palette, and what is around them."""
        area = self._picture.areas[panel.name]
        size = panel.columns, panel.rows
        squares += bytes([WHITE]) * (size[0] * size[1] - len(squares))
        picture = self._library.frombytes("P", size, squares)
        scale = panel.scale
        wide, high = size[0] * scale, size[1] * scale
        nearest = self._library.Resampling.NEAREST
        self._canvas.paste(picture.resize((wide, high), nearest), (area.left, area.top))
        if scale >= 4:
            self._grid(panel, area)
        self._text(area.left, area.top - _HEADING + 2, panel.heading)
        # The last row may be short: the border goes around its squares alone.
        full = panel.count // panel.columns
        self._border(area, wide, full * scale, (panel.count % panel.columns) * scale)
        self._axis(panel, area)

    def _grid(self, panel: Panel, area: Area) -> None:
        """Draw a line right of each square, and below each row."""
        scale, bottom = panel.scale, area.top + panel.rows * panel.scale
        for column in range(min(panel.columns, panel.count)):
            x = area.left + (column + 1) * scale - 1
            last = panel.count % panel.columns
            short = bool(last) and column >= last
            self._pen.line((x, area.top, x, bottom - 1 - scale * short), fill=FAINT)
        wide = min(panel.columns, panel.count) * scale
        for y in range(area.top + scale - 1, bottom, scale):
            self._pen.line((area.left, y, area.left + wide - 1, y), fill=FAINT)

    def _border(self, area: Area, wide: int, full: int, rest: int) -> None:
        left, top, right = area.left - 1, area.top - 1, area.left + wide
        middle, bottom = area.top + full, area.top + full + (area.scale if rest else 0)
        corner = area.left + rest if rest else right
        if not full:
            points = [(left, top), (corner, top), (corner, bottom), (left, bottom)]
        else:
            points = [(left, top), (right, top), (right, middle), (corner, middle)]
            points += [(corner, bottom), (left, bottom)]
        self._pen.line([*points, (left, top)], fill=INK)

    def _axis(self, panel: Panel, area: Area) -> None:
        step = max(1, -(-_TICK // panel.scale))
        for row in range(0, panel.rows, step):
            y = area.top + row * panel.scale
            if text := panel.label(row * panel.columns):
                self._text(_MARGIN, y - 1, text)
                self._pen.line((area.left - 6, y, area.left - 2, y), fill=INK)

    def legend(self, entries: Sequence[Entry]) -> None:
        """Write what colours mean, as far as there is room."""
        left = self._picture.width - _LEGEND - _MARGIN
        top = _MARGIN + _HEADING
        for entry in entries:
            if top + _LINE > self._picture.height:
                break
            if entry.color is not None:
                box = (left, top + 1, left + 10, top + 11)
                self._pen.rectangle(box, fill=entry.color, outline=INK)
            self._text(left + (18 if entry.color is not None else 0), top, entry.text)
            top += _LINE

    def note(self, left: int, top: int, text: str) -> None:
        """Write on a background of its own, at any place."""
        box = self._pen.textbbox((left + 2, top + 1), text, font=self._font)
        self._pen.rectangle((left, top, box[2] + 1, box[3] + 1), fill=WHITE)
        self._text(left + 2, top + 1, text)

    def rule(self, points: Sequence[tuple[int, int]]) -> None:
        """Draw a line."""
        self._pen.line(points, fill=INK)

    def png(self) -> bytes:
        """Return the file."""
        encoded = BytesIO()
        self._canvas.save(encoded, "PNG")
        return encoded.getvalue()


def shortened(name: str, length: int = _NAME_LENGTH) -> str:
    """Cut a name from the left, where paths say least."""
    return name if len(name) <= length else "..." + name[3 - length :]


def amount(length: int) -> str:
    """Say how many bytes."""
    for unit, shift in (("GiB", 30), ("MiB", 20)):
        if length >= 10 << shift or (length and not length % (1 << shift)):
            return f"{length >> shift} {unit}"
    return f"{length >> 10} KiB"


def library() -> tuple[Any, Any, Any]:
    """Load the parts of Pillow that are needed.

    Raises
    ------
    MissingPackageError
        If it is not installed.
    """
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise MissingPackageError("map --png", "pillow", "plot") from error
    return Image, ImageDraw, ImageFont
