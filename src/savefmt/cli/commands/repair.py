"""``savefmt repair``: put right what the rest of an image shows to be wrong."""

from __future__ import annotations

import argparse

import savefmt
from savefmt.cli.codes import ExitCode
from savefmt.cli.options import (
    common_options,
    evidence_options,
    io_of,
    io_options,
    output_options,
    writing_options,
)
from savefmt.cli.parser import Commands, file_argument, usage_error
from savefmt.cli.render.check import unjudged
from savefmt.cli.render.document import Documents
from savefmt.cli.render.repair import repair_lines
from savefmt.cli.ui import Ui
from savefmt.model import Repair, Severity
from savefmt.reports import RepairReport

_EPILOG = """\
Without --fix, nothing is written.  A change inside one sector is written in place.  Any other
change makes a new file, which takes the image's name when it is complete.  repair refuses if the
image would not be better afterwards.

exit codes: 0 nothing to repair, or repaired; 3 something can be repaired and was not;
            2 damaged, and no repair helps; 1 failed and the image is unchanged; 64 wrong usage
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "repair",
        help="repair what is wrong around the guest in an image",
        description="List what can be repaired in IMAGE, or repair it, in place or in a copy.",
        epilog=_EPILOG,
    )
    file_argument(parser, "image", metavar="IMAGE")
    file_argument(parser, "target", nargs="?", metavar="DST")
    parser.add_argument(
        "--fix",
        dest="fixes",
        action="append",
        choices=[*(str(one) for one in Repair), "all"],
        default=[],
        metavar="NAME",
        help=f"make this repair: {', '.join(Repair)}; all means all listed repairs except magic; "
        "may be repeated",
    )
    writing_options(parser, replaced="replace DST")
    output_options(parser)
    io_options(parser)
    evidence_options(
        parser,
        "image",
        writes=lambda args: [args.target or args.image] if args.fixes else [],
    )
    common_options(parser)
    parser.set_defaults(run=run, failed=ExitCode.FAILED)


def documents() -> Documents:
    """Return what ``-j`` prints."""
    from savefmt.reports import RepairReport

    return ({"repair": RepairReport},)


def run(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """List repairs, or make them."""
    if args.target is not None and not args.fixes:
        usage_error(args, "DST goes with --fix")
    with ui.progress(args.image) as progress:
        report = savefmt.repair(
            args.image,
            args.target,
            fixes=args.fixes,
            overwrite=args.force,
            dry_run=args.dry_run,
            io=io_of(args),
            progress=progress,
        )
    if ui.json:
        ui.document(repair=report)
    elif not ui.quiet:
        ui.say(repair_lines(report))
    return _code_of(report)


def _code_of(report: RepairReport) -> ExitCode:
    if report.offers and not report.made:
        return ExitCode.FINDINGS
    if report.ok:
        return ExitCode.GOOD
    if unjudged(report):
        return ExitCode.FAILED
    errors = [one for one in report.findings if one.severity is Severity.ERROR]
    return ExitCode.FINDINGS if all(one.repair for one in errors) else ExitCode.DAMAGED
