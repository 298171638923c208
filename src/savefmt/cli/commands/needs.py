"""``savefmt needs``: what a guest needs besides its image."""

from __future__ import annotations

import argparse

from savefmt.cli.codes import ExitCode
from savefmt.cli.options import common_options, io_of, io_options, output_options, source_options
from savefmt.cli.parser import Commands, file_argument, usage_error
from savefmt.cli.render.document import Documents
from savefmt.cli.saveoptions import binary_option
from savefmt.cli.ui import Ui

_EPILOG = """\
exit codes: 0 nothing seems to be missing here, or --list was given; 1 failed;
            2 something is missing; 64 wrong usage
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "needs",
        help="list what a restore needs apart from the image, and what is missing",
        description="List programs, processor, disks, networks and devices that a restore needs.",
        epilog=_EPILOG,
    )
    file_argument(parser, "image", metavar="IMAGE")
    parser.add_argument("--list", action="store_true", help="only list; do not look at this host")
    parser.add_argument("--missing", action="store_true", help="show only what is missing")
    binary_option(parser)
    output_options(parser)
    io_options(parser)
    source_options(parser, "image")
    common_options(parser)
    parser.set_defaults(run=run, failed=ExitCode.FAILED)


def documents() -> Documents:
    """Return what ``-j`` prints."""
    from savefmt.reports import NeedsReport

    return ({"needs": NeedsReport},)


def run(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """List once."""
    from savefmt.cli.render.needs import needs_lines
    from savefmt.compat import config
    from savefmt.needs import needs

    if args.list and (args.missing or args.qemu_binary):
        usage_error(args, "--list looks for nothing, so it goes without --missing or --qemu-binary")
    with ui.progress(args.image) as progress:
        report = needs(
            args.image,
            look=not args.list,
            binary=args.qemu_binary,
            timeout=config.load().timeout,
            io=io_of(args),
            progress=progress,
        )
    if ui.json:
        ui.document(needs=report)
    elif not (ui.quiet and not report.missing):
        ui.say(needs_lines(report, only_missing=args.missing, color=ui.color))
    return ExitCode.MISSING if report.missing else ExitCode.GOOD
