"""``savefmt linux``: what ran in a Linux guest."""

from __future__ import annotations

import argparse

import savefmt
from savefmt.cli.codes import ExitCode
from savefmt.cli.parser import (
    Commands,
    common_options,
    file_argument,
    index_option,
    number,
    output_options,
    progress_options,
)
from savefmt.cli.ui import Ui
from savefmt.errors import SavefmtError
from savefmt.frozen import asdict
from savefmt.model import IOOptions

# As in savefmt.linux.answers, which is not loaded for `--help`.
_ANSWERS = {
    "summary": "one screen: who it is, what ran, what listened, what is strange (default)",
    "ps": "processes",
    "tree": "processes, each below its parent",
    "log": "what the kernel logged",
    "files": "open files",
    "net": "sockets, and network devices with their addresses",
    "mounts": "mounted file systems, by namespace",
    "modules": "kernel modules",
    "maps": "memory maps; ! marks what may be written and executed",
    "env": "environments of processes",
    "all": "all of these",
}
_EPILOG = (
    "answers:\n"
    + "".join(f"  {name:<9} {text}\n" for name, text in _ANSWERS.items())
    + """
All is as the kernel's own lists say.  Types and symbols come from the guest's memory: no debug
package is needed.

exit codes: 0 told, 1 failed (no Linux, or its kernel keeps too little of itself), 64 wrong usage
"""
)


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "linux",
        help="tell what ran in a Linux guest: processes, log, files, sockets and more",
        description="Tell what ran in a Linux guest, from the image alone.",
        epilog=_EPILOG,
    )
    file_argument(parser, "image", metavar="IMAGE")
    parser.add_argument(
        "answer", nargs="?", choices=tuple(_ANSWERS), default="summary", metavar="ANSWER"
    )
    parser.add_argument(
        "--pid",
        action="append",
        type=number,
        default=[],
        metavar="N",
        help="this process only; may be repeated",
    )
    output_options(parser, lines=True)
    index_option(parser)
    progress_options(parser)
    common_options(parser)
    parser.set_defaults(run=run, failed=ExitCode.FAILED)


def run(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Print one answer."""
    from savefmt.cli.render import linux

    try:
        with savefmt.open(args.image, io=IOOptions(direct=False), index=args.index) as image:
            ui.prepare(image)
            from savefmt.linux.answers import ask

            report = ask(image, args.answer, args.pid)
    except (SavefmtError, OSError) as error:
        ui.fail(error, args.image)
        return ExitCode.FAILED
    if args.output == "jsonl":
        ui.say(linux.json_lines(report))
    elif ui.json:
        ui.document(linux=asdict(report))
    else:
        ui.say(linux.show(report, args.answer))
    return ExitCode.GOOD
