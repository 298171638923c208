"""``savefmt compare``: whether two images hold the same guest."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import savefmt
from savefmt.cli.codes import ExitCode
from savefmt.cli.parser import (
    Commands,
    common_options,
    file_argument,
    io_of,
    io_options,
    output_options,
)
from savefmt.cli.render import common as render
from savefmt.cli.ui import Ui
from savefmt.errors import SavefmtError
from savefmt.frozen import asdict

if TYPE_CHECKING:
    from savefmt.linux.facts import OwnerChange
    from savefmt.model import OnProgress
    from savefmt.reports import Comparison

_EPILOG = """\
exit codes: 0 same, 1 different, 2 could not compare, 64 wrong usage
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "compare",
        help="tell whether two images hold the same guest",
        description="Compare guest memory and device state, whatever the layout and the codec.",
        epilog=_EPILOG,
    )
    file_argument(parser, "left", metavar="A")
    file_argument(parser, "right", metavar="B")
    parser.add_argument("--pages", action="store_true", help="list the pages that differ")
    parser.add_argument("--fields", action="store_true", help="list the device fields that differ")
    parser.add_argument(
        "--owners",
        action="store_true",
        help="tell whose the pages are that differ: files, processes, the kernel (Linux guests)",
    )
    output_options(parser)
    io_options(parser)
    common_options(parser)
    parser.set_defaults(run=run, failed=ExitCode.TROUBLE)


def run(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Compare once; with ``-q`` the exit code alone answers."""
    owners = None
    try:
        with ui.progress(f"{args.left}, {args.right}") as progress:
            if args.owners:
                result, owners = _with_owners(args, progress)
            else:
                result = savefmt.compare(args.left, args.right, io=io_of(args), progress=progress)
    except (SavefmtError, OSError) as error:
        ui.fail(error)
        return ExitCode.TROUBLE
    if ui.json:
        told = {} if owners is None else {"owners": [asdict(one) for one in owners]}
        ui.document(comparison=render.fields(result), **told)
    elif not ui.quiet:
        ui.say(render.comparison_lines(result, pages=args.pages, fields=args.fields))
        if owners is not None:
            from savefmt.cli.render.linux import owner_change_lines

            ui.say(owner_change_lines(owners))
    return ExitCode.GOOD if result.same else ExitCode.DIFFERENT


def _with_owners(
    args: argparse.Namespace, progress: OnProgress | None
) -> tuple[Comparison, tuple[OwnerChange, ...]]:
    from savefmt.linux.ownerchanges import owner_changes

    with (
        savefmt.open(args.left, io=io_of(args)) as left,
        savefmt.open(args.right, io=io_of(args)) as right,
    ):
        result = savefmt.compare(left, right, io=io_of(args), progress=progress)
        return result, owner_changes(result, left, right)
