"""``savefmt os``: which system a guest runs."""

from __future__ import annotations

import argparse

import savefmt
from savefmt.cli.codes import ExitCode
from savefmt.cli.options import (
    common_options,
    io_of,
    output_options,
    place_option,
    progress_options,
    source_options,
    speed_options,
)
from savefmt.cli.parser import Commands, file_argument
from savefmt.cli.render.document import Documents
from savefmt.cli.ui import Ui

_EPILOG = """\
exit codes: 0 found, 1 nothing known was found, or failed, 64 wrong usage
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "os",
        help="say which system a guest runs",
        description="Say which system a guest runs, from marks in its memory.  Needs no symbols.",
        epilog=_EPILOG,
    )
    file_argument(parser, "image", metavar="IMAGE")
    place_option(parser)
    output_options(parser)
    group = parser.add_argument_group("reading")
    speed_options(group)
    progress_options(group)
    source_options(parser, "image")
    common_options(parser)
    parser.set_defaults(run=run, failed=ExitCode.FAILED)


def documents() -> Documents:
    """Return what ``-j`` prints."""
    from savefmt.scan.results import SystemHint

    return ({"system": SystemHint},)


def run(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Print the verdict, then what it rests on."""
    from savefmt.cli.render.os import system_lines
    from savefmt.scan.system import identify

    with (
        savefmt.open(args.image, io=io_of(args), places=args.place) as image,
        ui.progress(args.image) as progress,
    ):
        hint = identify(image, io=io_of(args), progress=progress)
        ui.missing(image)
    if ui.json:
        ui.document(system=hint)
    else:
        ui.say(system_lines(hint))
    return ExitCode.GOOD if hint.system else ExitCode.FAILED
