"""The argument parser and its manners."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, NoReturn

from savefmt.cli.codes import ExitCode
from savefmt.cli.paths import path_argument
from savefmt.cli.render.plain import plain

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

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Fill paragraphs that are too wide; tables and examples stay as they are."""
        blocks = super()._fill_text(text, width, indent).split("\n\n")
        return "\n\n".join(_filled(block, width) for block in blocks)


def _filled(block: str, width: int) -> str:
    lines = block.split("\n")
    text = " ".join(line.strip() for line in lines)
    table = block[:1].isspace() or ":\n " in block or "   " in text
    if table or all(len(line) <= width for line in lines):
        return block
    from textwrap import fill  # late: help alone needs it

    hanging = next((line[: -len(line.lstrip())] for line in lines if line[:1].isspace()), "")
    return fill(text, width, subsequent_indent=hanging, break_on_hyphens=False)


class _StoreOnce(argparse._StoreAction):
    """Keeps a value, the only one: which of two was meant, nobody can tell."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if option_string is not None:
            note_once(self, namespace)
        super().__call__(parser, namespace, values, option_string)


class OnOff(argparse.BooleanOptionalAction):
    """``--name`` and ``--no-name``, of which one may be given, and once."""

    def __call__(  # noqa: D102
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        note_once(self, namespace)
        super().__call__(parser, namespace, values, option_string)


def note_once(action: argparse.Action, namespace: argparse.Namespace) -> None:
    """Refuse an option that was given before, by this name or another."""
    given: set[str] = vars(namespace).setdefault("given", set())
    if action.dest in given:
        raise argparse.ArgumentError(action, "may be given only once")
    given.add(action.dest)


class Parser(argparse.ArgumentParser):
    """A parser that takes options anywhere and ends usage errors with 64.

    Attributes
    ----------
    leaf : bool
        It has no further commands.
    surplus : str
        What to say about a name too many.
    """

    def __init__(self, *args: Any, leaf: bool = True, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", _Formatter)
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)
        self.leaf = leaf
        self.surplus = ""
        # Groups of options share the table.
        self.register("action", None, _StoreOnce)
        self.register("action", "store", _StoreOnce)

    def format_help(self) -> str:
        """Fill the terminal's width."""
        from shutil import get_terminal_size  # late: `savefmt info` does without

        self.formatter_class = partial(_Formatter, width=get_terminal_size().columns - 2)
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where help is, without the wall of usage."""
        self.exit(ExitCode.USAGE, f"savefmt: {plain(message)} (see {self.prog} --help)\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Refuse a word that is no choice, and say which one was meant."""
        if action.choices is None or value in action.choices:
            return
        from savefmt.cli.suggest import command_meant_by

        known = f"; there are {', '.join(map(str, action.choices))}"
        verbs = isinstance(action, argparse._SubParsersAction) or action.metavar == "COMMAND"
        hint = command_meant_by(value, action.choices) if verbs else known
        raise argparse.ArgumentError(action, f"there is no {value!r}{hint or known}")

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        """Refuse an option that is empty, as a shell makes it of a variable that is not set."""
        if not arg_string and action.option_strings:
            raise argparse.ArgumentError(action, "the value is empty")
        return super()._get_value(action, arg_string)

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
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self._refuse(unknown[0])
        return found, unknown

    def _refuse(self, word: str) -> NoReturn:
        if not word.startswith("-"):
            self.error(self.surplus or f"one name too many: {word!r}")
        from savefmt.cli.suggest import option_meant_by

        option = word.partition("=")[0]
        if option == "--salvage":
            self.error(
                "this command does not take a damaged image: write what can be read of it "
                "with `savefmt salvage` first, and use the result"
            )
        hint = option_meant_by(option, self._option_string_actions)
        self.error(f"there is no option {option}{hint}")

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
                # Before argparse misses what was meant by it, and says only that.
                name = arg.partition("=")[0] if arg.startswith("--") else arg[:2]
                if name not in self._option_string_actions:
                    self._refuse(arg)
                options.append(arg)
                options += islice(rest, self._values_of(arg))
        return [*options, "--", *names] if names else options

    def _values_of(self, arg: str) -> int:
        """Count the next words that are values of an option, or of a cluster like ``-pT``."""
        if arg.startswith("--"):
            return self._values_taken(arg)
        letters = [self._values_taken(f"-{letter}") for letter in arg[1:]]
        return 0 if any(letters[:-1]) else letters[-1]

    def _values_taken(self, option: str) -> int:
        action = self._option_string_actions.get(option)
        if action is None:
            return 0
        return action.nargs if isinstance(action.nargs, int) else int(action.nargs is None)


def file_argument(
    parser: argparse._ActionsContainer,
    *names: str,
    dash: str = "this must be a file: - is a pipe, which can only be read from start to end",
    **kwargs: Any,
) -> None:
    """Add an argument that shells complete as a file name.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Where to add it.
    dash : str
        Why it may not be ``-``; empty where that is standard input or output.
    *names, **kwargs
        As for ``add_argument``.
    """
    action = parser.add_argument(*names, type=path_argument(dash=dash), **kwargs)
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
    sys.stderr.write(f"savefmt: {plain(message)} (see savefmt {args.command} --help)\n")
    raise SystemExit(int(ExitCode.USAGE))
