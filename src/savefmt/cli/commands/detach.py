"""``savefmt detach``: an ordinary image of a guest that ran on another image."""

from __future__ import annotations

import argparse

from savefmt.cli.codes import ExitCode
from savefmt.cli.parser import (
    Commands,
    clone_option,
    common_options,
    file_argument,
    io_of,
    io_options,
    output_options,
)
from savefmt.cli.render import common as render
from savefmt.cli.ui import Ui
from savefmt.errors import SavefmtError

_EPILOG = """\
The result is sparse (mapped-ram) and needs no other file; savefmt convert makes other
formats of it.

exit codes: 0 detached, 1 failed and nothing was left behind, 64 wrong usage
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "detach",
        help="make an ordinary image of a thin one, or of a saved clone",
        description="Write the guest in IMAGE, which savefmt clone made or which such a guest was "
        "saved to, to DST with all of its memory.",
        epilog=_EPILOG,
    )
    file_argument(parser, "image", metavar="IMAGE")
    file_argument(parser, "target", metavar="DST")
    parser.add_argument("--verify", action="store_true", help="read the result back and compare")
    parser.add_argument("-F", "--force", action="store_true", help="replace DST")
    output_options(parser)
    io_options(parser)
    clone_option(parser)
    common_options(parser)
    parser.set_defaults(run=run, failed=ExitCode.FAILED)


def run(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Detach once."""
    from savefmt.instant import detach

    try:
        with ui.progress(args.image) as progress:
            report = detach(
                args.image,
                args.target,
                overwrite=args.force,
                verify=args.verify,
                io=io_of(args),
                progress=progress,
            )
    except (SavefmtError, OSError) as error:
        ui.fail(error)
        return ExitCode.FAILED
    if ui.json:
        ui.document(conversion=render.fields(report))
    elif not ui.quiet:
        ui.say(render.conversion_lines(report))
    return ExitCode.GOOD
