"""`main()`: build the parser, run one command, turn the outcome into an exit code."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

import savefmt
from savefmt.cli.codes import ExitCode
from savefmt.cli.commands import ALIASES, NAMES, load
from savefmt.cli.options import common_options, take_sources
from savefmt.cli.parser import Parser
from savefmt.cli.ui import Ui, print_trace, to_stderr
from savefmt.ending import Terminated, ended_by_signals, unwrapped
from savefmt.errors import OutputWarning, SavefmtError
from savefmt.pipes import STANDARD_OUTPUT, ClosedOutputError

if TYPE_CHECKING:
    from savefmt.cli.casenotes import CaseNotes

_EPILOG = """\
exit codes (see also the end of each command's help):
  0 success; 1 failed; 64 wrong usage; 70 a bug in savefmt;
  130 Ctrl-C; 143 SIGTERM
  check: 2 damaged, 3 usable with findings, 63 not a save image
  compare: 1 different, 2 failed; search: 1 not found, 2 failed

examples:
  savefmt info guest.save
  savefmt check --full guest.save
  savefmt convert guest.save guest.sparse -O sparse --verify
  savefmt compare guest.save guest.sparse
  savefmt export guest.save guest.core
  savefmt regs guest.save
  savefmt linux guest.save
  savefmt read guest.save --physical 0x100000 256
  savefmt save guest.save --qmp guest.qmp
"""


_NO_THREAD = "can't start new thread"  # of a RuntimeError, which has no class of its own


def build_parser(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Return the parser of all commands, which completion and the docs use, too.

    Parameters
    ----------
    words : sequence of str
        The command line, if there is one: a command that it names is loaded alone, since
        `savefmt info` must be instant.

    Returns
    -------
    argparse.ArgumentParser
        With ``run`` and ``failed`` set for each command.
    """
    parser = Parser(
        prog="savefmt",
        description="Read, check, convert, inspect and measure the save images of QEMU guests.",
        epilog=_EPILOG,
        leaf=False,
    )
    common_options(parser, top=True)
    parser.set_defaults(subject="image")  # the argument that names the file in hand
    parser.add_argument("--version", action="version", version=f"savefmt {savefmt.__version__}")
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=Parser, prog="savefmt"
    )
    for name in _modules_for(words):
        load(name).add(commands)
    _add_help(commands, parser)
    return parser


def _modules_for(words: Sequence[str]) -> Sequence[str]:
    first = next((word for word in words if not word.startswith("-")), None)
    if first is None and "--version" in words:
        return []
    named = ALIASES.get(first or "", first)
    return [named] if named in NAMES else NAMES


def _add_help(commands: argparse._SubParsersAction[Parser], parser: Parser) -> None:
    command = commands.add_parser("help", help="explain a command")
    command.add_argument("topic", nargs="?", choices=[*commands.choices], metavar="COMMAND")

    def run(args: argparse.Namespace, ui: Ui) -> ExitCode:
        parser.parse_args([*([args.topic] if args.topic else []), "--help"])
        return ExitCode.GOOD

    common_options(command)
    command.set_defaults(run=run, failed=ExitCode.FAILED)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments after the program's name; those of the process by default.

    Returns
    -------
    int
        The exit code.
    """
    notes: list[CaseNotes] = []
    code = _guarded(argv, notes)
    return notes[0].write(code) if notes else code


def _guarded(argv: Sequence[str] | None, notes: list[CaseNotes]) -> int:
    """Run a command and return its exit code, whatever ends it; `notes` gets its notes."""
    try:
        with ended_by_signals(), unwrapped():
            code = _run(argv, notes)
            if sys.stdout is not None:
                sys.stdout.flush()
            for one in notes:
                one.sum_outputs()
            return code
    except Terminated as end:
        return 128 + end.number
    except KeyboardInterrupt:
        to_stderr("savefmt: interrupted")
        return ExitCode.INTERRUPTED
    except ClosedOutputError:
        _silence_stdout()
        return ExitCode.BROKEN_PIPE
    except OSError as error:
        # Only the flush of help gets here: a full disk behind a redirection.
        _silence_stdout()
        to_stderr(f"savefmt: {STANDARD_OUTPUT}: {error.strerror or error}")
        return ExitCode.FAILED


def _run(argv: Sequence[str] | None, notes: list[CaseNotes]) -> int:
    try:
        words = sys.argv[1:] if argv is None else argv
        args = build_parser(words).parse_args(words)
        take_sources(args)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else ExitCode.GOOD
    ui = Ui(args)
    failed: ExitCode = args.failed
    try:
        with unwrapped(), _warnings_shown(ui):
            if getattr(args, "case_notes", None) is not None:
                _begin_notes(args, words, ui, notes)
            code = int(_after(args, ui, args.run(args, ui)))
            if sys.stdout is not None:
                sys.stdout.flush()  # here, where `failed` is known: 1 may mean "different"
            return code
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else ExitCode.GOOD
    except ClosedOutputError:
        raise
    except (SavefmtError, OSError) as error:
        ui.fail(error, getattr(args, args.subject, None))
        if isinstance(error, OSError) and error.filename == STANDARD_OUTPUT:
            _silence_stdout()
        if getattr(args, "rescued", ()):
            from savefmt.cli.salvaged import remark_lost

            remark_lost(args, ui, failed=True)
        return failed
    except MemoryError:
        to_stderr("savefmt: out of memory")
        return failed
    except ImportError as error:
        # A damaged installation, or too little memory to load a library.
        ui.fail(SavefmtError(f"a part of savefmt or of Python cannot be loaded: {error}"))
        return failed
    except Exception as error:
        if str(error) == _NO_THREAD:
            ui.fail(SavefmtError("the system grants no more threads; try --threads=1"))
            return failed
        print_trace(error)
        to_stderr("savefmt: this is a bug in savefmt; please report the lines above")
        return ExitCode.INTERNAL


def _after(args: argparse.Namespace, ui: Ui, code: ExitCode) -> ExitCode:
    """Tell what is lost of damaged images, which is never passed over in silence."""
    if not getattr(args, "rescued", ()):
        return code
    from savefmt.cli.salvaged import tell_lost

    return tell_lost(args, ui, code)


def _begin_notes(
    args: argparse.Namespace, words: Sequence[str], ui: Ui, notes: list[CaseNotes]
) -> None:
    from savefmt.cli.casenotes import CaseNotes

    notes.append(CaseNotes(args, words, ui))
    notes[0].sum_inputs()


@contextmanager
def _warnings_shown(ui: Ui) -> Iterator[None]:
    """Say on standard error what failed after a file had its name."""
    with warnings.catch_warnings():
        others = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, OutputWarning):
                ui.remark(f"warning: {message}")
            else:
                others(message, category, filename, lineno, file, line)

        warnings.simplefilter("always", OutputWarning)
        warnings.showwarning = show
        yield


def _silence_stdout() -> None:
    """Keep the interpreter's last flush from complaining about the same thing again."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        return
