"""``savefmt os``: which system a guest runs."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

import savefmt
from savefmt.cli.codes import ExitCode
from savefmt.cli.parser import (
    Commands,
    common_options,
    file_argument,
    io_of,
    output_options,
    progress_options,
    speed_options,
)
from savefmt.cli.render.common import plain
from savefmt.cli.ui import Ui
from savefmt.errors import SavefmtError
from savefmt.frozen import asdict

if TYPE_CHECKING:
    from savefmt.scan.results import SystemHint

_EPILOG = """\
exit codes: 0 told, 1 nothing known was found, or failed, 64 wrong usage
"""
_TITLES = {"linux": "Linux", "windows": "Windows"}


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "os",
        help="tell which system a guest runs",
        description="Tell which system a guest runs, from marks in its memory, without symbols.",
        epilog=_EPILOG,
    )
    file_argument(parser, "image", metavar="IMAGE")
    output_options(parser)
    group = parser.add_argument_group("reading")
    speed_options(group)
    progress_options(group)
    common_options(parser)
    parser.set_defaults(run=run, failed=ExitCode.FAILED)


def run(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Print the verdict, then what it rests on."""
    from savefmt.scan.system import identify

    try:
        with savefmt.open(args.image, io=io_of(args)) as image, ui.progress(args.image) as progress:
            hint = identify(image, io=io_of(args), progress=progress)
    except (SavefmtError, OSError) as error:
        ui.fail(error, args.image)
        return ExitCode.FAILED
    if ui.json:
        ui.document(system=asdict(hint))
    else:
        ui.say(_lines(hint))
    return ExitCode.GOOD if hint.system else ExitCode.FAILED


def _lines(hint: SystemHint) -> Iterator[str]:
    yield f"system:       {_TITLES.get(hint.system or '', 'unknown')}"
    if hint.version:
        yield f"version:      {plain(hint.version)}"
    if hint.kaslr_shift is not None:
        yield f"KASLR shift:  {hint.kaslr_shift:#x}"
    if hint.kernel_base is not None:
        yield f"kernel base:  {hint.kernel_base:#x}"
    for note in hint.notes:
        yield f"note:         {plain(note)}"
    for mark in hint.evidence:
        physical = ",".join(map(hex, mark.physical)) or "-"
        yield f"{mark.kind} at {plain(mark.block)}+{mark.offset:#x} p={physical}"
        yield f"  {plain(mark.value)}"
        for name, value in mark.detail:
            yield f"  {plain(name)}: {plain(value)}"
