"""``savefmt info``: what an image is, from its headers."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import savefmt
from savefmt.cli.codes import ExitCode
from savefmt.cli.options import common_options, io_of, io_options, output_options, source_options
from savefmt.cli.parser import Commands, file_argument
from savefmt.cli.render.document import Documents, error_values
from savefmt.cli.render.info import disk_lines, summary_lines
from savefmt.cli.render.plain import paragraphs
from savefmt.cli.ui import Ui
from savefmt.errors import SavefmtError
from savefmt.model import DiskSummary, ImageSummary, OnProgress

_EPILOG = """\
exit codes: 0 every image was read, 1 an image could not be read, 64 wrong usage
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "info",
        help="show what an image is",
        description="Show what each image is.  Only headers are read, so the "
        "size of the image does not matter.",
        epilog=_EPILOG,
    )
    file_argument(parser, "images", nargs="+", metavar="IMAGE")
    parser.add_argument(
        "--pages",
        action="store_true",
        help="also count present and zero pages; this may read the whole image",
    )
    output_options(parser)
    io_options(parser)
    source_options(parser, "images")
    common_options(parser)
    parser.set_defaults(run=run, failed=ExitCode.FAILED, tell_lost=False)


def documents() -> Documents:
    """Return what ``-j`` prints."""
    from savefmt.cli.render.failure import FailedValues

    return ({"images": list[ImageSummary | DiskSummary | FailedValues]},)


def _summary(
    path: str, args: argparse.Namespace, progress: OnProgress | None
) -> ImageSummary | DiskSummary:
    part = args.snapshot is not None or args.offset or args.salvage
    if not part and savefmt.is_disk(path):
        return DiskSummary(path, savefmt.list_snapshots(path))
    return savefmt.probe(path, pages=args.pages, io=io_of(args), progress=progress)


def _lines(summary: ImageSummary | DiskSummary, *, verbose: bool) -> Iterator[str]:
    if isinstance(summary, DiskSummary):
        return disk_lines(summary)
    return summary_lines(summary, verbose=verbose)


def run(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Show every image; a bad one never hides the next."""
    code = ExitCode.GOOD
    blocks: list[Any] = []
    for path in args.images:
        try:
            with ui.progress(path) as progress:
                summary = _summary(path, args, progress)
        except (SavefmtError, OSError) as error:
            ui.complain(error, path)
            code = ExitCode.FAILED
            if ui.json:
                blocks.append({"path": str(path), "error": error_values(error, path)})
        else:
            blocks.append(summary if ui.json else _lines(summary, verbose=ui.verbosity > 0))
    if ui.json:
        ui.document(images=blocks)
    else:
        ui.say(paragraphs(blocks))
    return code
