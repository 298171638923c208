"""``savefmt plugins``: where the files are that let other programs read save images."""

from __future__ import annotations

import argparse

from savefmt import plugins
from savefmt.cli.codes import ExitCode
from savefmt.cli.options import common_options
from savefmt.cli.parser import Commands
from savefmt.cli.ui import Ui

_EPILOG = """\
example:
  vol -p "$(savefmt plugins volatility)" -f guest.save linux.pslist

needs, in the Python that has volatility3: pip install 'savefmt[volatility]'

exit codes: 0 success, 1 failed, 64 wrong usage
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "plugins",
        help="print the folder of the plugin for another program",
        description="Print the folder of the plugin with which a program reads save images.",
        epilog=_EPILOG,
    )
    parser.add_argument("program", choices=plugins.PROGRAMS, help="the program")
    common_options(parser)
    parser.set_defaults(run=run, failed=ExitCode.FAILED)


def run(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Print the folder."""
    ui.say([str(plugins.folder(args.program))])
    return ExitCode.GOOD
