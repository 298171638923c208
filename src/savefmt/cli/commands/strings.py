"""``savefmt strings``: print the texts in guest memory."""

from __future__ import annotations

import argparse

import savefmt
from savefmt.cli.codes import ExitCode
from savefmt.cli.options import (
    common_options,
    io_of,
    number,
    output_options,
    place_option,
    process_options,
    processes_of,
    scan_options,
    source_options,
)
from savefmt.cli.parser import Commands, file_argument, usage_error
from savefmt.cli.render.document import Documents
from savefmt.cli.ui import Ui

_EPILOG = """\
exit codes: 0 success, 1 failed, 64 wrong usage
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "strings",
        help="print the texts in guest memory",
        description="Print the sequences of printable characters in "
        "guest memory, with their places.",
        epilog=_EPILOG,
    )
    file_argument(parser, "image", metavar="IMAGE")
    parser.add_argument(
        "--min-length",
        type=number,
        default=4,
        metavar="N",
        help="shortest text in characters (default: 4)",
    )
    parser.add_argument(
        "-e",
        "--encoding",
        choices=("ascii", "utf-16le", "utf-16be"),
        default="ascii",
        help="encoding of the characters (default: ascii)",
    )
    parser.add_argument(
        "--places",
        choices=("block", "physical", "none"),
        default="block",
        help="show block and offset (default), guest-physical addresses, or only texts",
    )
    output_options(parser, lines=True)
    place_option(parser)
    process_options(parser)
    scan_options(parser)
    source_options(parser, "image")
    common_options(parser)
    parser.set_defaults(run=run, failed=ExitCode.FAILED)


def documents() -> Documents:
    """Return what ``-j`` prints."""
    from savefmt.cli.render.strings import TextValues

    return ({"texts": list[TextValues], "complete": bool}, TextValues)


def run(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Print texts as they come."""
    if not 1 <= args.min_length <= 65536:
        usage_error(args, "--min-length is 1 to 65536")
    pids = processes_of(args)
    if pids is not None and args.block:
        usage_error(args, "--pid and --each-process go without --block")
    from savefmt.cli.render.strings import lines_as
    from savefmt.scan.search import Places
    from savefmt.scan.strings import string_lines

    with (
        savefmt.open(args.image, io=io_of(args), places=args.place) as image,
        ui.progress(args.image) as progress,
    ):
        places, memory = Places(image), None
        if pids is not None:
            from savefmt.linux.processmemory import process_memory

            memory, places = process_memory(image, pids, io=io_of(args), progress=progress)
        lines = string_lines(
            image,
            lines_as(args.output if ui.json else args.places, places),
            least=args.min_length,
            encoding=args.encoding,
            blocks=args.block,
            memory=memory,
            io=io_of(args),
            progress=progress,
        )
        if args.output == "json":
            ui.stream_pieces("texts", lines)
        else:
            ui.write(lines)
        if places.problem:
            ui.remark(f"{image.path}: {places.problem}")
        ui.missing(image)
    return ExitCode.GOOD
