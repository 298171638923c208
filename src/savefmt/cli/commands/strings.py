"""``savefmt strings``: print the texts in guest memory."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import savefmt
from savefmt.cli.codes import ExitCode
from savefmt.cli.parser import (
    Commands,
    common_options,
    file_argument,
    io_of,
    number,
    process_options,
    processes_of,
    scan_options,
    usage_error,
)
from savefmt.cli.render.common import SCHEMA, plain
from savefmt.cli.ui import Ui, is_broken_pipe
from savefmt.errors import SavefmtError

if TYPE_CHECKING:
    from savefmt.scan.results import Text
    from savefmt.scan.search import Places

_EPILOG = """\
exit codes: 0 good, 1 failed, 64 wrong usage
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "strings",
        help="print the texts in guest memory",
        description="Print stretches of printable characters in guest memory, with their places.",
        epilog=_EPILOG,
    )
    file_argument(parser, "image", metavar="IMAGE")
    parser.add_argument(
        "--min-length",
        type=number,
        default=4,
        metavar="N",
        help="characters that make a text (default: 4)",
    )
    parser.add_argument(
        "-e",
        "--encoding",
        choices=("ascii", "utf-16le", "utf-16be"),
        default="ascii",
        help="how characters are written (default: ascii)",
    )
    parser.add_argument(
        "--places",
        choices=("block", "physical", "none"),
        default="block",
        help="tell block and offset (default), guest-physical addresses, or nothing but texts",
    )
    parser.add_argument(
        "--output", choices=("human", "jsonl"), default="human", help="how to print the result"
    )
    process_options(parser)
    scan_options(parser)
    common_options(parser)
    parser.set_defaults(run=run, failed=ExitCode.FAILED)


def run(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Print texts as they come."""
    if not 1 <= args.min_length <= 65536:
        usage_error(args, "--min-length is 1 to 65536")
    pids = processes_of(args)
    if pids is not None and args.block:
        usage_error(args, "--pid and --each-process go without --block")
    from savefmt.scan.search import Places
    from savefmt.scan.strings import strings

    try:
        with savefmt.open(args.image, io=io_of(args)) as image, ui.progress(args.image) as progress:
            places, memory = Places(image), None
            if pids is not None:
                from savefmt.linux.processmemory import process_memory

                memory, places = process_memory(image, pids, io=io_of(args), progress=progress)
            texts = strings(
                image,
                least=args.min_length,
                encoding=args.encoding,
                blocks=args.block,
                memory=memory,
                io=io_of(args),
                progress=progress,
            )
            if args.output == "jsonl":
                lines = _json_lines(texts, places)
            else:
                lines = _lines(texts, places, args.places)
            # There are millions, for which print() takes twice as long.
            sys.stdout.writelines(f"{line}\n" for line in lines)
            if places.problem:
                ui.remark(f"{image.path}: {places.problem}")
    except (SavefmtError, OSError) as error:
        if is_broken_pipe(error):
            raise
        ui.complain(error, args.image)
        return ExitCode.FAILED
    return ExitCode.GOOD


def _lines(texts: Iterable[Text], places: Places, kind: str) -> Iterator[str]:
    if kind == "physical":
        for block, offset, text in texts:
            addresses = places.physical(block, offset)
            yield f"{','.join(map(hex, addresses)) or '-'} {_shown(text)}"
    elif kind == "none":
        yield from (_shown(text) for _, _, text in texts)
    else:
        for block, offset, text in texts:
            yield f"{plain(block)}+{offset:#x} {_shown(text)}"


def _shown(text: str) -> str:
    return text.replace("\t", "\\t") if "\t" in text else text


def _json_lines(texts: Iterable[Text], places: Places) -> Iterator[str]:
    import json

    for text in texts:
        physical = [hex(at) for at in places.physical(text.block, text.offset)]
        yield json.dumps(
            {
                "schema": SCHEMA,
                "block": text.block,
                "offset": text.offset,
                "physical": physical,
                "text": text.text,
            }
        )
