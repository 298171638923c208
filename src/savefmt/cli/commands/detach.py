"""``savefmt detach``: an ordinary image of a guest that ran on another image."""

from __future__ import annotations

import argparse

from savefmt.cli.codes import ExitCode
from savefmt.cli.options import (
    clone_option,
    common_options,
    evidence_options,
    io_of,
    io_options,
    output_options,
    writing_options,
)
from savefmt.cli.parser import Commands, file_argument
from savefmt.cli.render.convert import conversion_lines
from savefmt.cli.render.document import Documents
from savefmt.cli.ui import Ui

_EPILOG = """\
The result is sparse (mapped-ram) and needs no other file.  savefmt convert converts it to other
formats.

exit codes: 0 detached, 1 failed and nothing was left behind, 64 wrong usage
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "detach",
        help="make an ordinary image from a thin one, or from a saved clone",
        description="Write the guest in IMAGE, which savefmt clone made or which such a guest was "
        "saved to, to DST with all of its memory.",
        epilog=_EPILOG,
    )
    file_argument(parser, "image", metavar="IMAGE")
    file_argument(parser, "target", metavar="DST")
    parser.add_argument("--verify", action="store_true", help="read the result back and compare")
    writing_options(parser, replaced="replace DST")
    output_options(parser)
    io_options(parser)
    clone_option(parser)
    evidence_options(parser, "image", writes=lambda args: [args.target])
    common_options(parser)
    parser.set_defaults(run=run, failed=ExitCode.FAILED)


def documents() -> Documents:
    """Return what ``-j`` prints."""
    from savefmt.reports import ConversionReport

    return ({"conversion": ConversionReport},)


def run(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Detach once."""
    from savefmt.instant import detach

    with ui.progress(args.image) as progress:
        report = detach(
            args.image,
            args.target,
            overwrite=args.force,
            verify=args.verify,
            dry_run=args.dry_run,
            io=io_of(args),
            progress=progress,
        )
    if ui.json:
        ui.document(conversion=report)
    elif not ui.quiet:
        ui.say(conversion_lines(report))
    return ExitCode.GOOD
