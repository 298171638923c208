"""``savefmt schema``: the JSON Schema of a command's output."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from savefmt.cli.codes import ExitCode
from savefmt.cli.commands import NAMES, load
from savefmt.cli.options import common_options
from savefmt.cli.parser import Commands, usage_error
from savefmt.cli.render.document import Documents
from savefmt.cli.ui import Ui

_EPILOG = """\
example:
  savefmt schema info >info.schema.json

exit codes: 0 printed, 64 wrong usage, or COMMAND prints no JSON
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "schema",
        help="print the JSON Schema of a command's output",
        description="Print the JSON Schema (draft 2020-12) for a command's output with -j.\n"
        "Without COMMAND, print the names of the commands that have one.  case-notes means the\n"
        "lines that --case-notes adds.",
        epilog=_EPILOG,
    )
    parser.add_argument("topic", nargs="?", metavar="COMMAND")
    common_options(parser)
    parser.set_defaults(run=run, failed=ExitCode.FAILED)


def run(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Print one schema, or the names of all."""
    import json

    from savefmt.cli.render.casenotes import CASE_NOTES, CaseNote
    from savefmt.cli.render.schema import schema_of

    modules = {name: load(name) for name in NAMES}
    known: dict[str, Callable[[], Documents]] = {
        name: module.documents for name, module in modules.items() if hasattr(module, "documents")
    }
    known[CASE_NOTES] = lambda: (CaseNote,)
    if args.topic is None:
        ui.say(known)
    elif args.topic in known:
        print(json.dumps(schema_of(args.topic, known[args.topic]()), indent=2))
    else:
        usage_error(args, f"{args.topic!r} prints no JSON; these do: {', '.join(known)}")
    return ExitCode.GOOD
