"""``savefmt map``: where each stretch of guest memory lies in the file."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from typing import TYPE_CHECKING

import savefmt
from savefmt.cli.codes import ExitCode
from savefmt.cli.options import (
    block_options,
    common_options,
    number,
    output_options,
    place_option,
    progress_options,
    source_options,
    writing_options,
)
from savefmt.cli.parser import Commands, file_argument, usage_error
from savefmt.cli.render.document import Documents
from savefmt.cli.ui import Ui
from savefmt.model import MapExtent

if TYPE_CHECKING:
    from savefmt.scan.results import Picture

_EPILOG = """\
Kinds: data is at the file offset, and page i of an extent is at offset + i * stride.  Zero
pages have no place in the file.  Absent pages were never sent.  In a compressed image, extents
have no file offset.

exit codes: 0 success, 1 failed, 64 wrong usage
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "map",
        help="list the ranges of guest memory and their places in the file",
        description="List where each range of guest memory is in the file.",
        epilog=_EPILOG,
    )
    file_argument(parser, "image", metavar="IMAGE")
    group = parser.add_argument_group("a picture instead of a list")
    file_argument(group, "--png", metavar="FILE", help="draw memory, page by page")
    group.add_argument(
        "--palette",
        choices=("zero", "entropy", "changed", "owner"),
        help="what colours tell (default: zero; with --against: changed); owner: whose the pages "
        "of a Linux guest are, on a curve of Hilbert",
    )
    file_argument(group, "--against", metavar="IMAGE", help="show what changed since this image")
    group.add_argument(
        "--width", type=number, metavar="PIXELS", help="pages in a row (default: about square)"
    )
    block_options(group)
    place_option(group)
    writing_options(group, replaced="replace FILE")
    output_options(parser, lines=True)
    progress_options(parser)
    source_options(
        parser,
        "image",
        also=["against"],
        apart={"against": "against"},
        writes=lambda args: [args.png],
    )
    common_options(parser)
    parser.set_defaults(run=run, failed=ExitCode.FAILED)


def documents() -> Documents:
    """Return what ``-j`` prints."""
    from savefmt.scan.results import Picture

    return (
        {"extents": list[MapExtent], "complete": bool},
        {"picture": Picture},
        MapExtent,
    )


def run(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Print extents as they come: a large guest has millions."""
    if args.png:
        return _draw(args, ui)
    alone = (args.palette, args.against, args.width, args.block, args.place, args.force)
    if any(alone) or args.dry_run:
        usage_error(args, "--palette, --against, --width, --block, --place, -F, -n go with --png")
    from savefmt.cli.render.map import HEADING, extent_line

    with savefmt.open(args.image) as image, ui.progress(args.image) as progress:
        extents = image.extents(progress=progress)
        if ui.json:
            ui.stream("extents", extents)
        else:
            ui.say([HEADING])
            ui.say(map(extent_line, extents))
    return ExitCode.GOOD


def _draw(args: argparse.Namespace, ui: Ui) -> ExitCode:
    palette = args.palette or ("changed" if args.against else "zero")
    if (palette == "changed") != bool(args.against):
        usage_error(args, "the palette 'changed' and --against go together")
    if args.width is not None and not 1 <= args.width <= 16384:
        usage_error(args, "--width is 1 to 16384")
    if palette == "owner":
        return _draw_owners(args, ui)
    from savefmt.scan.picture import draw

    with ExitStack() as stack:
        image = stack.enter_context(savefmt.open(args.image, places=args.place))
        against = stack.enter_context(savefmt.open(args.against)) if args.against else None
        picture = draw(
            image,
            args.png,
            palette=palette,
            against=against,
            width=args.width,
            blocks=args.block,
            overwrite=args.force,
            dry_run=args.dry_run,
            progress=stack.enter_context(ui.progress(args.image)),
        )
    return _tell(picture, args, ui)


def _draw_owners(args: argparse.Namespace, ui: Ui) -> ExitCode:
    if args.width is not None or args.block or args.dry_run:
        usage_error(args, "the palette 'owner' goes without --width, --block and --dry-run")
    from savefmt.linux.ownerpicture import draw_owners

    with savefmt.open(args.image, places=args.place) as image:
        ui.prepare(image)
        return _tell(draw_owners(image, args.png, overwrite=args.force), args, ui)


def _tell(picture: Picture, args: argparse.Namespace, ui: Ui) -> ExitCode:
    if ui.json:
        ui.document(picture=picture)
    else:
        would = "would have " if args.dry_run else ""
        ui.remark(f"{args.png}: {would}{picture.width} x {picture.height} pixels")
        for name, row in picture.rows.items():
            ui.step(f"{name} begins in row {row}")
    return ExitCode.GOOD
