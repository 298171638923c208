"""``savefmt compare``: whether two images hold the same guest."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import savefmt
from savefmt.cli.codes import ExitCode
from savefmt.cli.options import (
    common_options,
    io_of,
    io_options,
    output_options,
    place_option,
    source_options,
)
from savefmt.cli.parser import Commands, file_argument, usage_error
from savefmt.cli.render.compare import comparison_lines
from savefmt.cli.render.document import Documents
from savefmt.cli.ui import Ui

if TYPE_CHECKING:
    from savefmt.linux.facts import OwnerChange
    from savefmt.model import OnProgress
    from savefmt.reports import Comparison

_EPILOG = """\
exit codes: 0 same, 1 different, 2 could not compare, 3 nothing differs, but a part
of a damaged image is lost, 64 wrong usage
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "compare",
        help="compare the guests in two images",
        description="Compare guest memory and device state.  Layout and codec do not matter.",
        epilog=_EPILOG,
    )
    file_argument(parser, "left", metavar="A")
    file_argument(parser, "right", metavar="B")
    parser.add_argument("--pages", action="store_true", help="list the pages that differ")
    parser.add_argument("--fields", action="store_true", help="list the device fields that differ")
    parser.add_argument(
        "--owners",
        action="store_true",
        help="say who owns the pages that differ: files, processes, the kernel (Linux guests)",
    )
    place_option(parser)
    output_options(parser)
    io_options(parser)
    source_options(parser, "left", "right", apart={"left": "a", "right": "b"})
    common_options(parser)
    parser.set_defaults(run=run, failed=ExitCode.TROUBLE)


def documents() -> Documents:
    """Return what ``-j`` prints."""
    from savefmt.linux.facts import OwnerChange
    from savefmt.reports import Comparison

    return ({"comparison": Comparison}, {"comparison": Comparison, "owners": list[OwnerChange]})


def run(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Compare once; with ``-q`` the exit code alone answers."""
    if args.place and not args.owners:
        usage_error(args, "--place goes with --owners")
    if args.bad is not None:
        usage_error(args, "--map is of one file; salvage that one with savefmt salvage --map first")
    changes = None
    with ui.progress(f"{args.left}, {args.right}") as progress:
        if args.owners:
            result, changes = _with_owners(args, progress)
        else:
            result = savefmt.compare(args.left, args.right, io=io_of(args), progress=progress)
    if ui.json:
        ui.document(comparison=result, **({} if changes is None else {"owners": changes}))
    elif not ui.quiet:
        ui.say(comparison_lines(result, pages=args.pages, fields=args.fields))
        if changes:
            from savefmt.cli.render.linux import owner_change_lines

            ui.say(owner_change_lines(changes))
    return ExitCode.GOOD if result.same else ExitCode.DIFFERENT


def _with_owners(
    args: argparse.Namespace, progress: OnProgress | None
) -> tuple[Comparison, tuple[OwnerChange, ...]]:
    from savefmt.linux.ownerchanges import owner_changes

    with (
        savefmt.open(args.left, io=io_of(args), places=args.place) as left,
        savefmt.open(args.right, io=io_of(args), places=args.place) as right,
    ):
        result = savefmt.compare(left, right, io=io_of(args), progress=progress)
        return result, owner_changes(result, left, right)
