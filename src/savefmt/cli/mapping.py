"""``savefmt map``: where each stretch of guest memory lies in the file."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

import savefmt
from savefmt.cli import render
from savefmt.cli.codes import ExitCode
from savefmt.cli.parser import (
    Commands,
    common_options,
    file_argument,
    output_options,
    progress_options,
)
from savefmt.cli.ui import Ui, is_broken_pipe
from savefmt.errors import SavefmtError
from savefmt.model import MapExtent

_EPILOG = """\
Kinds: data lies at the file offset, page i of an extent at offset + i * stride;
zero pages have no place in the file; absent ones were never sent.  In a compressed
image nothing has a file offset.

exit codes: 0 good, 1 failed, 64 wrong usage
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "map",
        help="list the extents of guest memory",
        description="List where each stretch of guest memory lies in the file.",
        epilog=_EPILOG,
    )
    file_argument(parser, "image", metavar="IMAGE")
    output_options(parser, lines=True)
    progress_options(parser)
    common_options(parser)
    parser.set_defaults(run=run, failed=ExitCode.FAILED)


def run(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Print extents as they come: a large guest has millions."""
    show = {"human": _show_text, "json": _show_json, "jsonl": _show_lines}[args.output]
    try:
        image = savefmt.open(args.image)
    except (SavefmtError, OSError) as error:
        ui.fail(error, args.image)
        return ExitCode.FAILED
    try:
        with image, ui.progress(args.image) as progress:
            show(image.extents(progress=progress))
    except (SavefmtError, OSError) as error:
        if is_broken_pipe(error):
            raise
        ui.complain(error, args.image)
        return ExitCode.FAILED
    return ExitCode.GOOD


def _show_text(extents: Iterable[MapExtent]) -> None:
    print(render.MAP_HEADING)
    for extent in extents:
        print(render.extent_line(extent))


def _show_lines(extents: Iterable[MapExtent]) -> None:
    import json

    for extent in extents:
        print(json.dumps({"schema": render.SCHEMA, **render.fields(extent)}))


def _show_json(extents: Iterable[MapExtent]) -> None:
    """Print one document piece by piece, whole even when reading fails half-way."""
    import json

    complete = False
    separator = "\n"
    print(f'{{"schema": {render.SCHEMA}, "extents": [', end="")
    try:
        for extent in extents:
            print(f"{separator}  {json.dumps(render.fields(extent))}", end="")
            separator = ",\n"
        complete = True
    finally:
        print(f'\n], "complete": {json.dumps(complete)}}}')
