"""``savefmt memmap``: where memory lies in the guest's address space."""

from __future__ import annotations

import argparse

import savefmt
from savefmt.cli.codes import ExitCode
from savefmt.cli.options import (
    common_options,
    output_options,
    place_option,
    progress_options,
    source_options,
)
from savefmt.cli.parser import Commands, file_argument
from savefmt.cli.render.document import Documents
from savefmt.cli.ui import Ui

_EPILOG = """\
The last column says how savefmt knows each line: from the stream, from the domain XML, or from
a rule of the machine type.

exit codes: 0 success, 1 failed, 64 wrong usage
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "memmap",
        help="show the guest-physical memory map",
        description="Show the guest-physical addresses of the RAM blocks.",
        epilog=_EPILOG,
    )
    file_argument(parser, "image", metavar="IMAGE")
    place_option(parser)
    output_options(parser)
    progress_options(parser)
    source_options(parser, "image")
    common_options(parser)
    parser.set_defaults(run=run, failed=ExitCode.FAILED)


def documents() -> Documents:
    """Return what ``-j`` prints."""
    from savefmt.cli.render.memmap import MemoryMapValues

    return (MemoryMapValues,)


def run(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Show the map and its doubts."""
    from savefmt.cli.render import devices as render_devices
    from savefmt.cli.render import memmap as render_memmap

    with savefmt.open(args.image, places=args.place) as image, image.file.unchanged():
        ui.find_devices(image)
        memory_map = image.guest.physical.map
        for doubt in render_devices.doubts(image.devices):
            ui.remark(f"{args.image}: {doubt}")
    for finding in memory_map.findings:
        ui.remark(f"{args.image}: {finding.severity}: {finding.message}")
    if ui.json:
        ui.document(**render_memmap.map_values(memory_map))
    else:
        ui.say(render_memmap.map_lines(memory_map))
    return ExitCode.GOOD
