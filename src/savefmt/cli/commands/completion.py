"""``savefmt completion``: scripts that complete commands, options and file names."""

from __future__ import annotations

import argparse
import os

from savefmt.cli.codes import ExitCode
from savefmt.cli.options import common_options
from savefmt.cli.parser import Commands
from savefmt.cli.ui import Ui
from savefmt.errors import MissingPackageError

SHELLS = ("bash", "zsh", "fish")

_EPILOG = """\
to use it:
  bash   cd ~/.local/share/bash-completion/completions
         savefmt completion bash >savefmt
  zsh    savefmt completion zsh >_savefmt, in a folder of $fpath
  fish   savefmt completion fish >~/.config/fish/completions/savefmt.fish

An installed package brings these scripts.  To print one takes shtab, which the extra
'savefmt[completion]' brings.
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "completion", help="print a completion script for a shell", epilog=_EPILOG
    )
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help="bash, zsh or fish")
    common_options(parser)
    parser.set_defaults(run=run, failed=ExitCode.FAILED)


def run(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Let shtab write the script from the parser itself."""
    # Coloured help (Python 3.14) would put escape codes into the script.
    os.environ["NO_COLOR"] = "1"
    try:
        import shtab
    except ImportError as error:
        raise MissingPackageError("savefmt completion", "shtab", "completion") from error
    from savefmt.cli.main import build_parser

    print(shtab.complete(build_parser(), args.shell))
    return ExitCode.GOOD
