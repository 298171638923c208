"""``savefmt vtop``: virtual addresses by page tables."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import savefmt
from savefmt.cli.codes import ExitCode
from savefmt.cli.options import (
    common_options,
    cpu_options,
    index_option,
    number,
    output_options,
    place_option,
    progress_options,
    source_options,
)
from savefmt.cli.parser import Commands, file_argument
from savefmt.cli.render.document import Documents
from savefmt.cli.ui import Ui
from savefmt.errors import AddressError

if TYPE_CHECKING:
    from savefmt.cli.render.vtop import TranslationValues, UnmappedValues

_EPILOG = """\
exit codes: 0 success, 1 failed or an address is not mapped, 64 wrong usage
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "vtop",
        help="translate virtual addresses",
        description="Translate virtual addresses with the page tables of "
        "a vCPU, and show every step.",
        epilog=_EPILOG,
    )
    file_argument(parser, "image", metavar="IMAGE")
    parser.add_argument("addresses", type=number, nargs="+", metavar="ADDRESS")
    cpu_options(parser)
    place_option(parser)
    index_option(parser)
    output_options(parser)
    progress_options(parser)
    source_options(parser, "image")
    common_options(parser)
    parser.set_defaults(run=run, failed=ExitCode.FAILED)


def documents() -> Documents:
    """Return what ``-j`` prints."""
    from savefmt.cli.render.vtop import TranslationValues, UnmappedValues

    return ({"mode": str, "translations": list[TranslationValues | UnmappedValues]},)


def run(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Translate each address; one that is not mapped never hides the next."""
    from savefmt.cli.render import devices as render_devices
    from savefmt.cli.render import vtop as render_vtop

    code = ExitCode.GOOD
    shown: list[TranslationValues | UnmappedValues] = []
    with (
        savefmt.open(args.image, index=args.index, places=args.place) as image,
        image.file.unchanged(),
    ):
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
                shown.append(render_vtop.unmapped_values(address, error))
                continue
            place = image.guest.physical.find(found.physical)
            shown.append(render_vtop.translation_values(found, place))
            if not ui.json:
                ui.say(render_vtop.translation_lines(found, place))
    if ui.json:
        ui.document(mode=space.tables.mode, translations=shown)
    return code
