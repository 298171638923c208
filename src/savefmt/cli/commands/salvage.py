"""``savefmt salvage``: an image of what can be read of a damaged one."""

from __future__ import annotations

import argparse

import savefmt
from savefmt.cli.codes import ExitCode
from savefmt.cli.options import (
    common_options,
    format_option,
    io_of,
    io_options,
    output_options,
    source_options,
    writing_options,
)
from savefmt.cli.parser import Commands, file_argument
from savefmt.cli.render.convert import conversion_lines
from savefmt.cli.render.document import Documents
from savefmt.cli.salvageoptions import salvage_options
from savefmt.cli.ui import Ui
from savefmt.model import Layout, Salvage

_FORMATS = {"raw": (Layout.SEQUENTIAL, "raw"), "sparse": (Layout.MAPPED_RAM, "raw")}

_EPILOG = """\
Every command can read DST.  Lost pages are missing from it, or are zeros.  A guest would see zeros
there, so keep the list that --lost writes.  DST can be loaded if all device sections survived; the
command says so.

exit codes: 0 nothing is lost, 3 written, but something is lost, 1 failed, 64 wrong usage
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "salvage",
        help="write what can be read of a damaged image",
        description="Write what can be read of SRC to a new image.  SRC can be cut short, damaged "
        "or on a failing disk.",
        epilog=_EPILOG,
    )
    file_argument(parser, "source", metavar="SRC")
    file_argument(parser, "target", dash="a salvaged image is written to a file", metavar="DST")
    format_option(parser, tuple(_FORMATS), help="target format (default: the source's layout)")
    source_options(parser, "source", damaged=False, writes=lambda args: [args.target])
    salvage_options(parser.add_argument_group("a damaged image"))
    writing_options(parser, replaced="replace DST, and the FILE of --lost")
    output_options(parser)
    io_options(parser)
    common_options(parser)
    parser.set_defaults(run=run, failed=ExitCode.FAILED, salvage=True)


def documents() -> Documents:
    """Return what ``-j`` prints."""
    from savefmt.reports import ConversionReport

    return ({"conversion": ConversionReport, "salvage": Salvage, "loadable": bool},)


def run(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Salvage once."""
    layout, codec = _FORMATS[args.format] if args.format else (None, None)
    with savefmt.open(args.source, io=io_of(args)) as image, ui.progress(args.source) as progress:
        assert image.rescue is not None
        salvage = image.rescue.report
        report = savefmt.convert(
            image,
            args.target,
            layout=layout,
            codec=codec,
            overwrite=args.force,
            dry_run=args.dry_run,
            io=io_of(args),
            progress=progress,
        )
    if ui.json:
        loadable = salvage.devices_whole
        ui.document(conversion=report, salvage=salvage, loadable=loadable)
    elif not ui.quiet:
        ui.say(conversion_lines(report))
        ui.say([_words(salvage)])
    return ExitCode.GOOD


def _words(salvage: Salvage) -> str:
    if not salvage.devices_whole:
        return "it cannot be loaded, since device sections are lost; every command reads it"
    if salvage.lost or salvage.unlisted:
        return "it can be loaded, but the guest finds zeros where its memory is lost"
    return "it can be loaded"
