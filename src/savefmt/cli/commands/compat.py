"""``savefmt compat``: who can load an image."""

from __future__ import annotations

import argparse

from savefmt.cli.codes import ExitCode
from savefmt.cli.options import common_options, io_of, io_options, output_options, source_options
from savefmt.cli.parser import Commands, file_argument
from savefmt.cli.render.document import Documents
from savefmt.cli.saveoptions import reader_option
from savefmt.cli.ui import Ui

_EPILOG = """\
Without --for, the rows are what current distributions ship.  With --all, they are all releases
between which behaviour changed.

exit codes: 0 done, whatever the verdicts; 1 the image could not be read; 64 wrong
            usage; `savefmt check --for` has exit codes for the verdicts
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "compat",
        help="say which libvirt and QEMU releases can load an image",
        description="Say which releases of libvirt and QEMU can load an "
        "image, and why others cannot.",
        epilog=_EPILOG,
    )
    file_argument(parser, "image", metavar="IMAGE")
    asked = parser.add_mutually_exclusive_group()
    reader_option(asked)
    asked.add_argument(
        "--all", action="store_true", help="show all releases between which behaviour changed"
    )
    output_options(parser)
    io_options(parser)
    source_options(parser, "image")
    common_options(parser)
    parser.set_defaults(run=run, failed=ExitCode.FAILED)


def documents() -> Documents:
    """Return what ``-j`` prints."""
    from savefmt.reports import CompatReport

    return ({"compatibility": CompatReport},)


def run(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Judge one image."""
    from savefmt.cli.render.compat import compat_lines
    from savefmt.compat.releases import MILESTONES
    from savefmt.compat.systems import current
    from savefmt.compat.verdict import compatibility

    readers = args.readers or (MILESTONES if args.all else current())
    with ui.progress(args.image) as progress:
        report = compatibility(args.image, readers, io=io_of(args), progress=progress)
    if ui.json:
        ui.document(compatibility=report)
    else:
        ui.say(compat_lines(report))
    return ExitCode.GOOD
