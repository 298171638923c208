"""``savefmt stats``: what the pages of a guest are like."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

import savefmt
from savefmt.cli.codes import ExitCode
from savefmt.cli.parser import (
    Commands,
    common_options,
    file_argument,
    io_of,
    output_options,
    scan_options,
)
from savefmt.cli.render.common import many, plain, size
from savefmt.cli.ui import Ui
from savefmt.errors import SavefmtError
from savefmt.frozen import asdict

if TYPE_CHECKING:
    from savefmt.scan.results import MemoryStats

_EPILOG = """\
exit codes: 0 good, 1 failed, 64 wrong usage
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "stats",
        help="count zero, duplicate and unique pages, and their entropy",
        description="Tell what the pages of guest memory are like.",
        epilog=_EPILOG,
    )
    file_argument(parser, "image", metavar="IMAGE")
    output_options(parser)
    scan_options(parser)
    common_options(parser)
    parser.set_defaults(run=run, failed=ExitCode.FAILED)


def run(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Count once, then print."""
    from savefmt.scan.stats import stats

    try:
        with savefmt.open(args.image, io=io_of(args)) as image, ui.progress(args.image) as progress:
            result = stats(image, blocks=args.block, io=io_of(args), progress=progress)
    except (SavefmtError, OSError) as error:
        ui.fail(error, args.image)
        return ExitCode.FAILED
    if ui.json:
        computed = {"pages": result.pages, "zero": result.zero, "duplicate": result.duplicate}
        ui.document(stats={**asdict(result), **computed})
    else:
        ui.say(_lines(result))
    return ExitCode.GOOD


def _lines(stats: MemoryStats) -> Iterator[str]:
    def share(count: int) -> str:
        part = f", {100 * count / stats.pages:.1f} %" if stats.pages else ""
        return f"{many(count, 'page')}, {size(count * stats.page_size)}{part}"

    yield f"pages:      {share(stats.pages)}"
    yield f"zero:       {share(stats.zero)}"
    yield f"distinct:   {share(stats.distinct)}"
    yield f"unique:     {share(stats.unique)}"
    yield f"duplicate:  {share(stats.duplicate)}"
    yield ""
    yield (
        f"{'Pages':>10}{'Zero':>10}{'Distinct':>10}{'Unique':>10}{'Entropy':>9}  "
        f"{'Pages by bits of entropy, 0 to 8':<48}  Block"
    )
    for block in stats.blocks:
        bins = " ".join(str(count) for count in block.histogram)
        yield (
            f"{block.pages:>10}{block.zero:>10}{block.distinct:>10}{block.unique:>10}"
            f"{block.entropy:>9.2f}  {bins:<48}  {plain(block.idstr)}"
        )
    for name in stats.left_out:
        yield f"note: block {plain(name)} was left out of the image"
