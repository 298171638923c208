"""``savefmt plan``: how a guest would be saved."""

from __future__ import annotations

import argparse
import os
import shutil
from typing import TYPE_CHECKING

from savefmt.cli.codes import ExitCode
from savefmt.cli.options import common_options, output_options
from savefmt.cli.parser import Commands, file_argument, usage_error
from savefmt.cli.render.document import Documents
from savefmt.cli.saveoptions import binary_option, monitor_option, request_of, request_options
from savefmt.cli.ui import Ui

if TYPE_CHECKING:
    from savefmt.compat.policy import Abilities

_EPILOG = """\
The QEMU in question is the running one behind --qmp, the program --qemu-binary, a
release that --qemu-release names, or else this host's own.

exit codes: 0 planned, 1 refused or failed, 64 wrong usage
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "plan",
        help="tell how a guest would be saved",
        description="Tell how a guest would be saved to TARGET, and change nothing.",
        epilog=_EPILOG,
    )
    file_argument(parser, "target", metavar="TARGET")
    request_options(parser)
    whom = parser.add_argument_group("whom to ask").add_mutually_exclusive_group()
    monitor_option(whom)
    binary_option(whom)
    whom.add_argument(
        "--qemu-release", metavar="RELEASE", help="take the table's word for this release"
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
    from savefmt.cli.render.plan import plan_lines
    from savefmt.compat import config
    from savefmt.compat.destination import look_at
    from savefmt.compat.policy import plan_save
    from savefmt.reports import Refusal

    settings = config.load()
    request = request_of(args, settings)
    plan = plan_save(request, _abilities(args, settings.timeout), look_at(args.target))
    refused = isinstance(plan, Refusal)
    if ui.json:
        ui.document(**{"refusal" if refused else "plan": plan})
    else:
        ui.say(plan_lines(plan))
    return ExitCode.FAILED if refused else ExitCode.GOOD


def _abilities(args: argparse.Namespace, timeout: float) -> Abilities:
    from savefmt.compat.ask import ask, started
    from savefmt.compat.policy import abilities_of
    from savefmt.compat.releases import Release
    from savefmt.qmp import Monitor

    if args.qemu_release is not None:
        return abilities_of(Release.parse(args.qemu_release))
    if args.qmp is not None:
        with Monitor(args.qmp, timeout=timeout) as monitor:
            return ask(monitor).abilities
    binary = args.qemu_binary or shutil.which(f"qemu-system-{os.uname().machine}")
    if binary is None:
        usage_error(
            args, "this host has no QEMU to ask; use --qmp, --qemu-binary or --qemu-release"
        )
    with started(binary, timeout=timeout) as monitor:
        return ask(monitor).abilities
