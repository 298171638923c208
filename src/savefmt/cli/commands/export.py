"""``savefmt export``: the guest in the formats of other tools."""

from __future__ import annotations

import argparse

import savefmt
from savefmt.cli.codes import ExitCode
from savefmt.cli.options import (
    clone_option,
    common_options,
    format_option,
    io_of,
    io_options,
    number,
    output_options,
    place_option,
    source_options,
    writing_options,
)
from savefmt.cli.parser import Commands, file_argument
from savefmt.cli.render.document import Documents
from savefmt.cli.ui import Ui
from savefmt.model import Severity

_FORMATS = ("elf", "raw", "lime", "blocks", "vmcoreinfo", "kdump")
_COMPATS = ("universal", "qemu")

_EPILOG = """\
elf         a core with all vCPUs, for crash, drgn, gdb, volatility3, makedumpfile
raw         only memory; the offset in the file is the guest-physical address
lime        the format of the LiME module
blocks      TARGET is a folder that gets one file for each RAM block
vmcoreinfo  a text with which a Linux kernel describes itself
kdump       compressed, by makedumpfile, which must be installed

TARGET gets its name when it is complete.  Its mode is 0600.  Zero pages are holes.

exit codes: 0 exported, 1 failed and nothing was left behind, 64 wrong usage
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "export",
        help="write the guest's memory for other tools",
        description="Write the guest's memory and registers in a format that other tools read.",
        epilog=_EPILOG,
    )
    file_argument(parser, "image", metavar="IMAGE")
    file_argument(
        parser,
        "target",
        dash="no format for other tools can be written to a pipe",
        metavar="TARGET",
    )
    format_option(
        parser,
        _FORMATS,
        default="elf",
        help="what to write (default: elf)",
        aliases=("-f", "--format"),
    )
    parser.add_argument(
        "--compat",
        choices=_COMPATS,
        default="universal",
        help="layout of an ELF core: universal (default), or the bytes of QEMU's own dump",
    )
    parser.add_argument(
        "--kernel-va",
        action="store_true",
        help="add the kernel's virtual addresses to the ELF core, for gdb",
    )
    parser.add_argument(
        "--start", type=number, metavar="ADDRESS", help="first guest-physical address to export"
    )
    parser.add_argument(
        "--length", type=number, metavar="SIZE", help="number of bytes to export from there"
    )
    place_option(parser)
    writing_options(parser, replaced="replace TARGET")
    output_options(parser)
    io_options(parser)
    source_options(parser, "image", writes=lambda args: [args.target])
    clone_option(parser)
    common_options(parser)
    parser.set_defaults(run=run, failed=ExitCode.FAILED, subject="")


def documents() -> Documents:
    """Return what ``-j`` prints."""
    from savefmt.reports import ExportReport

    return ({"export": ExportReport},)


def run(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Export once."""
    from savefmt.cli.render.export import export_lines

    with ui.progress(args.image) as progress:
        report = savefmt.export(
            args.image,
            args.target,
            format=args.format,
            compat=args.compat,
            kernel_va=args.kernel_va,
            start=args.start,
            length=args.length,
            places=args.place,
            overwrite=args.force,
            dry_run=args.dry_run,
            io=io_of(args),
            progress=progress,
        )
    for finding in report.findings:
        if finding.severity is not Severity.NOTE:
            ui.remark(f"{args.image}: {finding.severity}: {finding.message}")
    if ui.json:
        ui.document(export=report)
    elif not ui.quiet:
        ui.say(export_lines(report))
    return ExitCode.GOOD
