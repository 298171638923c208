"""``savefmt prepare``: the image that guests can best be run on."""

from __future__ import annotations

import argparse

import savefmt
from savefmt.cli.codes import ExitCode
from savefmt.cli.options import (
    clone_option,
    common_options,
    io_of,
    io_options,
    number,
    output_options,
    source_options,
    writing_options,
)
from savefmt.cli.parser import Commands, file_argument
from savefmt.cli.render.convert import conversion_lines
from savefmt.cli.render.document import Documents
from savefmt.cli.ui import Ui
from savefmt.model import Layout

_DEFAULT_ALIGN = 1 << 20

_EPILOG = """\
The result is sparse (mapped-ram) without stale pages.  savefmt restore --instant and savefmt
clone start any number of guests on it without loading it.

exit codes: 0 prepared, 1 failed and nothing was left behind, 64 wrong usage
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "prepare",
        help="make an image on which guests start instantly",
        description="Write the guest in IMAGE to DST, so that QEMU can run it directly from DST.",
        epilog=_EPILOG,
    )
    file_argument(parser, "image", metavar="IMAGE")
    file_argument(parser, "target", metavar="DST")
    parser.add_argument(
        "--align",
        type=number,
        default=_DEFAULT_ALIGN,
        metavar="SIZE",
        help="alignment of memory in the file: 1M (default), or 2M for huge pages",
    )
    parser.add_argument("--verify", action="store_true", help="read the result back and compare")
    writing_options(parser, replaced="replace DST")
    output_options(parser)
    io_options(parser)
    source_options(parser, "image", damaged=False, writes=lambda args: [args.target])
    clone_option(parser)
    common_options(parser)
    parser.set_defaults(run=run, failed=ExitCode.FAILED)


def documents() -> Documents:
    """Return what ``-j`` prints."""
    from savefmt.reports import ConversionReport

    return ({"conversion": ConversionReport},)


def run(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Prepare once."""
    with ui.progress(args.image) as progress:
        report = savefmt.convert(
            args.image,
            args.target,
            layout=Layout.MAPPED_RAM,
            overwrite=args.force,
            verify=args.verify,
            dry_run=args.dry_run,
            align=args.align,
            io=io_of(args),
            progress=progress,
        )
    if ui.json:
        ui.document(conversion=report)
    elif not ui.quiet:
        ui.say(conversion_lines(report))
    return ExitCode.GOOD
