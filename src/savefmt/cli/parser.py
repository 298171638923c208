"""The argument parser and its manners."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, NoReturn

from savefmt.cli.codes import ExitCode

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

# What shtab reads to complete an argument as a file name.
COMPLETE_FILE = {
    "bash": "_shtab_compgen_files",
    "zsh": "_files",
    "tcsh": "f",
    "fish": "__fish_complete_path",
}

Commands = Any  # argparse keeps the type of what add_subparsers() returns to itself


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """A formatter that need not ask the terminal: argparse makes one for every argument."""

    def __init__(self, prog: str, width: int = 78) -> None:
        super().__init__(prog, width=width)


class Parser(argparse.ArgumentParser):
    """A parser that takes options anywhere and ends usage errors with 64."""

    def __init__(self, *args: Any, leaf: bool = True, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", _Formatter)
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)
        self.leaf = leaf

    def format_help(self) -> str:
        """Fill the terminal's width."""
        from shutil import get_terminal_size  # late: `savefmt info` does without

        self.formatter_class = partial(_Formatter, width=get_terminal_size().columns - 2)
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where help is, without the wall of usage."""
        self.exit(ExitCode.USAGE, f"savefmt: {message} (see {self.prog} --help)\n")

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        """Print help so that a full disk or a closed pipe is noticed; argparse hides them."""
        out = file or sys.stderr
        if message and out is not None:
            out.write(message)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse like GNU tools: ``convert a -O zstd b`` has two file names.

        Plain argparse fills an optional or repeated positional from the first
        unbroken stretch of names and calls the later ones unrecognised.
        """
        if self.leaf and args is not None:
            args = self._names_last(args)
        return super().parse_known_args(args, namespace)

    def _names_last(self, args: Sequence[str]) -> list[str]:
        options: list[str] = []
        names: list[str] = []
        rest = iter(args)
        for arg in rest:
            if arg == "--":
                names += rest
            elif arg == "-" or not arg.startswith("-"):
                names.append(arg)
            else:
                options.append(arg)
                if self._wants_value(arg):
                    options += islice(rest, 1)
        return [*options, "--", *names] if names else options

    def _wants_value(self, arg: str) -> bool:
        """Whether the value of an option, or of a cluster like ``-pT``, is the next word."""
        if arg.startswith("--"):
            return self._takes_value(arg)
        letters = [self._takes_value(f"-{letter}") for letter in arg[1:]]
        return letters[-1] and not any(letters[:-1])

    def _takes_value(self, option: str) -> bool:
        action = self._option_string_actions.get(option)
        return action is not None and action.nargs is None


def file_argument(parser: argparse._ActionsContainer, *names: str, **kwargs: Any) -> None:
    """Add an argument that shells complete as a file name.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Where to add it.
    *names, **kwargs
        As for ``add_argument``.
    """
    action = parser.add_argument(*names, **kwargs)
    action.complete = COMPLETE_FILE  # type: ignore[attr-defined]


def usage_error(args: argparse.Namespace, message: str) -> NoReturn:
    """End with code 64 for what argparse cannot express.

    Parameters
    ----------
    args : argparse.Namespace
        The parsed command line; names the command.
    message : str
        What is wrong with it.
    """
    sys.stderr.write(f"savefmt: {message} (see savefmt {args.command} --help)\n")
    raise SystemExit(int(ExitCode.USAGE))
