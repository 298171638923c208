"""``savefmt stats``: what the pages of a guest are like."""

from __future__ import annotations

import argparse

import savefmt
from savefmt.cli.codes import ExitCode
from savefmt.cli.options import common_options, io_of, output_options, scan_options, source_options
from savefmt.cli.parser import Commands, file_argument
from savefmt.cli.render.document import Documents
from savefmt.cli.ui import Ui
from savefmt.frozen import asdict

_EPILOG = """\
exit codes: 0 success, 1 failed, 64 wrong usage
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "stats",
        help="count zero, duplicate and unique pages, and their entropy",
        description="Count the kinds of pages in guest memory.",
        epilog=_EPILOG,
    )
    file_argument(parser, "image", metavar="IMAGE")
    output_options(parser)
    scan_options(parser)
    source_options(parser, "image")
    common_options(parser)
    parser.set_defaults(run=run, failed=ExitCode.FAILED)


def documents() -> Documents:
    """Return what ``-j`` prints."""
    from savefmt.scan.results import MemoryStats

    return ({"stats": MemoryStats},)


def run(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Count once, then print."""
    from savefmt.cli.render.stats import stats_lines
    from savefmt.scan.stats import stats

    with savefmt.open(args.image, io=io_of(args)) as image, ui.progress(args.image) as progress:
        result = stats(image, blocks=args.block, io=io_of(args), progress=progress)
    if ui.json:
        computed = {name: getattr(result, name) for name in result.COMPUTED}
        ui.document(stats={**asdict(result), **computed})
    else:
        ui.say(stats_lines(result))
    return ExitCode.GOOD
