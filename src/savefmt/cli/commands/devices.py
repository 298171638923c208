"""``savefmt devices``: device state, field by field."""

from __future__ import annotations

import argparse
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import savefmt
from savefmt.cli.codes import ExitCode
from savefmt.cli.options import (
    common_options,
    number,
    output_options,
    progress_options,
    source_options,
)
from savefmt.cli.parser import Commands, file_argument
from savefmt.cli.render.document import Documents
from savefmt.cli.ui import Ui
from savefmt.errors import FormatError
from savefmt.model import Section

if TYPE_CHECKING:
    from savefmt.cli.render.devices import DamagedValues, DeviceValues
    from savefmt.reading.devices import Devices

_EPILOG = """\
SECTION is a name such as cpu, cpu/1 or 0000:00:02.0/vga, or a pattern such as '*/vga'.

exit codes: 0 success, 1 failed or a section is damaged, 64 wrong usage
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "devices",
        help="show device state, field by field",
        description="Show the state of all devices or of some, with QEMU's names and types.",
        epilog=_EPILOG,
    )
    file_argument(parser, "image", metavar="IMAGE")
    parser.add_argument("section", nargs="?", metavar="SECTION")
    output_options(parser)
    parser.add_argument(
        "--limit",
        type=number,
        default=64,
        metavar="N",
        help="number of bytes to show of each opaque field (default: 64)",
    )
    progress_options(parser)
    source_options(parser, "image")
    common_options(parser)
    parser.set_defaults(run=run, failed=ExitCode.FAILED)


def documents() -> Documents:
    """Return what ``-j`` prints."""
    from savefmt.cli.render.devices import DamagedValues, DeviceValues

    return ({"devices": list[DeviceValues | DamagedValues], "incomplete": str | None},)


def run(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Show each section; a damaged one never hides the next."""
    with savefmt.open(args.image) as image, image.file.unchanged():
        ui.find_devices(image)
        return _show(image.devices, args, ui)


def _show(devices: Devices, args: argparse.Namespace, ui: Ui) -> ExitCode:
    from savefmt.cli.render import devices as render_devices

    chosen = [section for section in devices.sections if _fits(section, args.section)]
    for doubt in render_devices.doubts(devices):
        ui.remark(f"{args.image}: {doubt}")
    if args.section is not None and not chosen:
        raise savefmt.UnsupportedError(
            f"the image has no device section {args.section!r}; savefmt devices IMAGE lists all",
            path=args.image,
        )
    code = ExitCode.GOOD
    shown: list[DeviceValues | DamagedValues] = []
    for section in chosen:
        try:
            tree = devices.tree(section)
        except FormatError as error:
            ui.complain(error)
            code = ExitCode.FAILED
            if ui.json:
                shown.append(render_devices.damaged_values(section, error))
            continue
        described = devices.described(section)
        if ui.json:
            shown.append(render_devices.device_values(section, tree, described, args.limit))
        else:
            ui.say(render_devices.device_lines(section, tree, described, args.limit))
    if ui.json:
        ui.document(devices=shown, incomplete=devices.incomplete)
    elif devices.incomplete:
        code = ExitCode.FAILED
    return code


def _fits(section: Section, wanted: str | None) -> bool:
    names = (section.idstr, f"{section.idstr}/{section.instance_id}")
    return wanted is None or any(name == wanted or fnmatchcase(name, wanted) for name in names)
