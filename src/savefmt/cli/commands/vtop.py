"""``savefmt vtop``: virtual addresses by page tables."""

from __future__ import annotations

import argparse

import savefmt
from savefmt.cli.codes import ExitCode
from savefmt.cli.parser import (
    Commands,
    common_options,
    cpu_options,
    file_argument,
    index_option,
    number,
    output_options,
    progress_options,
)
from savefmt.cli.ui import Ui
from savefmt.errors import AddressError, SavefmtError

_EPILOG = """\
exit codes: 0 good, 1 failed or an address is not mapped, 64 wrong usage
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "vtop",
        help="translate virtual addresses",
        description="Walk the page tables of a vCPU, and show every step.",
        epilog=_EPILOG,
    )
    file_argument(parser, "image", metavar="IMAGE")
    parser.add_argument("addresses", type=number, nargs="+", metavar="ADDRESS")
    cpu_options(parser)
    index_option(parser)
    output_options(parser)
    progress_options(parser)
    common_options(parser)
    parser.set_defaults(run=run, failed=ExitCode.FAILED)


def run(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Translate each address; one that is not mapped never hides the next."""
    from savefmt.cli.render import devices as render_devices
    from savefmt.cli.render import memory as render_memory

    code = ExitCode.GOOD
    shown = []
    try:
        with savefmt.open(args.image, index=args.index) as image:
            ui.prepare(image)
            space = image.guest.space(args.cpu, args.cr3)
            for doubt in render_devices.doubts(image.devices):
                ui.remark(f"{args.image}: {doubt}")
            for address in args.addresses:
                try:
                    found = space.translate(address)
                except AddressError as error:
                    ui.complain(error, args.image)
                    code = ExitCode.FAILED
                    shown.append(render_memory.unmapped_fields(address, error))
                    continue
                place = image.guest.physical.find(found.physical)
                shown.append(render_memory.translation_fields(found, place))
                if not ui.json:
                    ui.say(render_memory.translation_lines(found, place))
    except (SavefmtError, OSError) as error:
        ui.fail(error, args.image)
        return ExitCode.FAILED
    if ui.json:
        ui.document(mode=space.tables.mode, translations=shown)
    return code
