"""What ``savefmt report`` writes: a page, and what it prints about that."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from savefmt.cli.render import html
from savefmt.cli.render.compat import reader_rows
from savefmt.cli.render.devices import device_lines
from savefmt.cli.render.html import Making
from savefmt.cli.render.info import summary_fields
from savefmt.cli.render.linux import span
from savefmt.cli.render.memmap import map_lines
from savefmt.cli.render.os import system_lines
from savefmt.cli.render.plain import brief_size, plain, size
from savefmt.cli.render.regs import registers_lines
from savefmt.model import Severity
from savefmt.report.dossier import DeviceState, Dossier, Missing, ReportWritten
from savefmt.reports import Answer
from savefmt.scan.picture import entropy_colors
from savefmt.scan.results import MemoryStats, Painting

_PICTURE_WIDTH = 768
_LEFT, _LINE, _LABELS = 96, 16, 64
_TICKS = 8
_ROWS = 500
"""Processes and sockets on the page at most."""
_BYTES_SHOWN = 64
_BAR_WIDTH, _BAR_HEIGHT = 60, 120

_VERDICTS = {
    None: ("sound", "good"),
    Severity.NOTE: ("sound", "good"),
    Severity.WARNING: ("usable, with findings", "doubt"),
    Severity.ERROR: ("DAMAGED", "bad"),
}
_ANSWERS = {Answer.YES: "good", Answer.YES_BUT: "doubt", Answer.NO: "bad"}


def page(dossier: Dossier, making: Making) -> bytes:
    """Make the page about an image.

    Nothing in it is fetched and nothing runs: its policy forbids both.  Whatever comes
    from the image is escaped, and its control characters are shown.

    Parameters
    ----------
    dossier : Dossier
        What is known of the image.
    making : Making
        How this came about.

    Returns
    -------
    bytes
        HTML in UTF-8.

    Raises
    ------
    UnsupportedError
        If Jinja2 is not installed.
    """
    return html.page(
        "report.html",
        _FILTERS,
        d=dossier,
        making=making,
        verdict=_VERDICTS[dossier.check.worst],
        summary=list(summary_fields(dossier.check.summary)) if dossier.check.summary else [],
        answers=_ANSWERS,
        picture=None
        if isinstance(dossier.painting, Missing)
        else _drawn(dossier.painting, dossier),
        bars=None if isinstance(dossier.stats, Missing) else _bars(dossier.stats),
        scale=_scale(),
        shown=_ROWS,
    )


def report_lines(written: ReportWritten) -> Iterator[str]:
    """Tell what was written.

    Parameters
    ----------
    written : ReportWritten
        What came of it.

    Yields
    ------
    str
        One line, and one for each reason why parts are missing.
    """
    verb = "would write" if written.dry_run else "wrote"
    yield f"{verb} {plain(written.target)}: {size(written.target_length)}"
    parts: dict[str, list[str]] = {}
    for one in written.left_out:
        parts.setdefault(one.reason, []).append(one.part)
    for reason, names in parts.items():
        yield f"  without {', '.join(names)}: {plain(reason)}"


# --- parts ---


def _device(state: DeviceState) -> Iterator[str]:
    if isinstance(state.tree, Missing):
        yield state.tree.reason
    else:
        yield from device_lines(state.section, state.tree, state.described, _BYTES_SHOWN)


class _Bar(NamedTuple):
    """A column of the chart of entropy."""

    x: int
    y: int
    height: int
    color: str
    label: str
    pages: int


def _bars(stats: MemoryStats) -> list[_Bar]:
    """Draw how many pages there are of each entropy, zeros first."""
    counts = [stats.zero]
    counts += (sum(column) for column in zip(*(b.histogram for b in stats.blocks), strict=True))
    labels = ["zero", *(f"{bits}–{bits + 1}" for bits in range(len(counts) - 1))]
    most = max(counts, default=0) or 1
    heights = [round(_BAR_HEIGHT * count / most) for count in counts]
    colors = ["#808080", *(_color_at(bits + 0.5) for bits in range(len(counts) - 1))]
    columns = zip(labels, counts, heights, colors, strict=True)
    return [
        _Bar(number * _BAR_WIDTH, _BAR_HEIGHT - height, height, color, label, count)
        for number, (label, count, height, color) in enumerate(columns)
    ]


def _color_at(bits: float) -> str:
    return min(entropy_colors(), key=lambda stop: abs(stop[0] - bits))[1]


def _scale() -> list[tuple[float, str]]:
    """Return the stops of the legend: percent of its width, and colour."""
    return [(100 * bits / 8, color) for bits, color in entropy_colors()]


class _Label(NamedTuple):
    """A block next to the picture: its border, and the place of its name."""

    y: float
    text_y: float
    height: float
    name: str
    size: str


class _Tick(NamedTuple):
    """An offset in a block on the axis."""

    y: float
    text: str


class _Drawn(NamedTuple):
    """The picture of memory with its labels, in units of the page."""

    data: str
    left: int
    width: int
    height: float
    total_height: float
    labels: list[_Label]
    ticks: list[_Tick]
    more: int


def _drawn(painting: Painting, dossier: Dossier) -> _Drawn:
    """Lay out axis, block borders and names around the picture."""
    picture = painting.picture
    unit = _PICTURE_WIDTH / picture.width
    lengths = {b.idstr: b.used_length for b in _blocks(dossier)}
    page_size = dossier.check.summary.page_size if dossier.check.summary else 4096
    labels: list[_Label] = []
    ticks: list[_Tick] = []
    text_y = -1.0 * _LINE
    for name, row in list(picture.rows.items())[:_LABELS]:
        length = lengths.get(name, 0)
        rows = -(-length // (page_size * picture.width))
        y = row * unit
        text_y = max(text_y + _LINE, y + _LINE - 4)
        labels.append(_Label(y, text_y, rows * unit, name, brief_size(length)))
        ticks += _ticks(y, rows, unit, page_size * picture.width)
    height = picture.height * unit
    return _Drawn(
        data=base64.b64encode(painting.png).decode(),
        left=_LEFT,
        width=_PICTURE_WIDTH,
        height=height,
        total_height=max(height, text_y) + _LINE,
        labels=labels,
        ticks=ticks,
        more=max(len(picture.rows) - _LABELS, 0),
    )


def _blocks(dossier: Dossier) -> Sequence[Any]:
    return dossier.check.summary.blocks if dossier.check.summary else ()


def _ticks(y: float, rows: int, unit: float, row_length: int) -> Iterator[_Tick]:
    """Yield offsets in a block as far as there is room for them."""
    if rows * unit < 2 * _LINE:
        return
    step = max(-(-rows // _TICKS), 1)
    while step * unit < _LINE:
        step *= 2
    for row in range(0, rows, step):
        if row == 0 or (rows - row) * unit >= _LINE / 2:
            yield _Tick(y + row * unit, hex(row * row_length))


_FILTERS: dict[str, Callable[..., Any]] = {
    "readers": reader_rows,
    "registers": registers_lines,
    "device": _device,
    "memory_map": map_lines,
    "system": system_lines,
    "span": span,
}
