"""``savefmt convert``: the same guest in another layout, codec or envelope."""

from __future__ import annotations

import argparse
import os
import sys

import savefmt
from savefmt.cli.codes import ExitCode
from savefmt.cli.options import (
    clone_option,
    common_options,
    format_option,
    io_of,
    io_options,
    output_options,
    refuse_mixing,
    source_options,
    writing_options,
)
from savefmt.cli.parser import Commands, file_argument, usage_error
from savefmt.cli.render.convert import conversion_lines
from savefmt.cli.render.document import Documents
from savefmt.cli.saveoptions import reader_option
from savefmt.cli.ui import Ui
from savefmt.model import Layout

# What -O takes: layout and codec, as the library names them.
FORMATS = {
    "raw": (Layout.SEQUENTIAL, "raw"),
    "gzip": (Layout.SEQUENTIAL, "gzip"),
    "bzip2": (Layout.SEQUENTIAL, "bzip2"),
    "xz": (Layout.SEQUENTIAL, "xz"),
    "lzop": (Layout.SEQUENTIAL, "lzop"),
    "zstd": (Layout.SEQUENTIAL, "zstd"),
    "sparse": (Layout.MAPPED_RAM, "raw"),
    "null": (Layout.SEQUENTIAL, "null"),
}
SAVE_VERSIONS = ("keep", "1", "2", "3")

_EPILOG = """\
-O takes the names of `virsh save --image-format`.  null reads the source and writes nothing.
SRC and DST can be - for standard input and output, but sparse output needs a file.  --for chooses
everything that you did not name, so that the reader can load the result; if nothing helps, it
refuses.  DST gets its name when it is complete.  With --force, it can be SRC itself.

exit codes: 0 converted, 1 failed and nothing was left behind, 64 wrong usage
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "convert",
        help="write an image in another format",
        description="Write the guest in SRC to DST with another layout, codec or libvirt header.",
        epilog=_EPILOG,
    )
    file_argument(parser, "source", dash="", metavar="SRC")
    file_argument(
        parser, "target", dash="", nargs="?", metavar="DST", help="not needed with -O null"
    )
    format_option(parser, tuple(FORMATS), help="target format (default: the source's)")
    parser.add_argument(
        "--save-version",
        choices=SAVE_VERSIONS,
        default="keep",
        help="version of the libvirt header (default: keep)",
    )
    reader_option(parser)
    parser.add_argument(
        "--bare", action="store_true", help="write the QEMU stream without a libvirt header"
    )
    parser.add_argument("--verify", action="store_true", help="read the result back and compare")
    writing_options(parser, replaced="replace DST; write binary data to a terminal")
    output_options(parser)
    io_options(parser)
    source_options(parser, "source", writes=lambda args: [args.target])
    clone_option(parser)
    common_options(parser)
    parser.set_defaults(run=run, failed=ExitCode.FAILED)


def documents() -> Documents:
    """Return what ``-j`` prints."""
    from savefmt.reports import ConversionReport

    return ({"conversion": ConversionReport},)


def run(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Convert once."""
    target = _target_of(args)
    if target == "-" and not args.dry_run:
        # The stream has standard output for itself; only -v talks, elsewhere.
        refuse_mixing(args)
    if args.source == "-" and sys.stdin is not None and sys.stdin.isatty():
        usage_error(args, "standard input is a terminal, not an image")
    layout, codec = FORMATS[args.format] if args.format else (None, None)
    io = io_of(args)
    ui.step(f"{io.worker_count} threads, {_direct_words(io.direct)}")
    with ui.progress(args.source) as progress:
        report = savefmt.convert(
            args.source,
            target,
            layout=layout,
            codec=codec,
            save_version=None if args.save_version == "keep" else int(args.save_version),
            bare=args.bare,
            overwrite=args.force,
            verify=args.verify,
            dry_run=args.dry_run,
            io=io,
            progress=progress,
            **({"readers": args.readers} if args.readers else {}),
        )
    if ui.json:
        ui.document(conversion=report)
    elif target != "-" or args.dry_run:
        if not ui.quiet:
            ui.say(conversion_lines(report))
    else:
        for line in conversion_lines(report):
            ui.step(line)
    return ExitCode.GOOD


def _target_of(args: argparse.Namespace) -> str:
    target: str | None = args.target
    if target is not None:
        if args.format == "null":
            usage_error(args, "-O null writes nothing, so it takes no DST")
        return target
    if args.format != "null":
        usage_error(args, "DST is missing")
    return os.devnull


def _direct_words(direct: bool | None) -> str:
    return {None: "direct I/O where it pays", True: "direct I/O", False: "buffered I/O"}[direct]
