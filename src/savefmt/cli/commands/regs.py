"""``savefmt regs``: the registers of the vCPUs."""

from __future__ import annotations

import argparse

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

_EPILOG = """\
exit codes: 0 success, 1 failed, 64 wrong usage
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "regs",
        help="show the registers of the vCPUs",
        description="Show registers as QEMU's `info registers` does, and "
        "then those that it leaves out.",
        epilog=_EPILOG,
    )
    file_argument(parser, "image", metavar="IMAGE")
    parser.add_argument("--cpu", type=number, metavar="N", help="show only this vCPU")
    output_options(parser)
    progress_options(parser)
    source_options(parser, "image")
    common_options(parser)
    parser.set_defaults(run=run, failed=ExitCode.FAILED)


def documents() -> Documents:
    """Return what ``-j`` prints."""
    from savefmt.cli.render.regs import Printed

    return ({"cpus": list[Printed]},)


def run(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Show one vCPU or all."""
    from savefmt.cli.render import devices as render_devices
    from savefmt.cli.render import regs as render_regs

    with savefmt.open(args.image) as image, image.file.unchanged():
        ui.find_devices(image)
        guest = image.guest
        cpus = guest.cpus if args.cpu is None else (guest.cpu(args.cpu),)
        for doubt in render_devices.doubts(image.devices):
            ui.remark(f"{args.image}: {doubt}")
    if ui.json:
        ui.document(cpus=[render_regs.registers_values(registers) for registers in cpus])
    else:
        ui.say(render_regs.all_lines(cpus))
    return ExitCode.GOOD
