"""``savefmt plan``: how a guest would be saved."""

from __future__ import annotations

import argparse
import os
import shutil

from savefmt.cli.codes import ExitCode
from savefmt.cli.options import common_options, output_options
from savefmt.cli.parser import Commands, file_argument, usage_error
from savefmt.cli.planning import show_plan
from savefmt.cli.render.document import Documents
from savefmt.cli.saveoptions import binary_option, monitor_option, request_options
from savefmt.cli.ui import Ui

_EPILOG = """\
plan asks the running QEMU behind --qmp, the program --qemu-binary, or the table for the release
--qemu-release.  Without these options, it asks the QEMU installed on this host.

exit codes: 0 planned, 1 refused or failed, 64 wrong usage
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "plan",
        help="show how a guest would be saved",
        description="Show how a guest would be saved to TARGET, and change nothing.",
        epilog=_EPILOG,
    )
    file_argument(parser, "target", dash="", metavar="TARGET")
    request_options(parser)
    whom = parser.add_argument_group("the QEMU to ask").add_mutually_exclusive_group()
    monitor_option(whom)
    binary_option(whom)
    whom.add_argument(
        "--qemu-release", metavar="RELEASE", help="plan for this release, from savefmt's table"
    )
    output_options(parser)
    common_options(parser)
    parser.set_defaults(run=run, failed=ExitCode.FAILED, subject="target")


def documents() -> Documents:
    """Return what ``-j`` prints."""
    from savefmt.reports import Refusal, SavePlan

    return ({"plan": SavePlan}, {"refusal": Refusal})


def run(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Plan one save."""
    if args.qmp is None and args.qemu_release is None and args.qemu_binary is None:
        args.qemu_binary = shutil.which(f"qemu-system-{os.uname().machine}")
        if args.qemu_binary is None:
            usage_error(
                args, "this host has no QEMU to ask; use --qmp, --qemu-binary or --qemu-release"
            )
    return show_plan(args, ui)
