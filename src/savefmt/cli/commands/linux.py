"""``savefmt linux``: what ran in a Linux guest."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import savefmt
from savefmt.cli.codes import ExitCode
from savefmt.cli.options import (
    common_options,
    index_option,
    number,
    output_options,
    place_option,
    progress_options,
    source_options,
)
from savefmt.cli.parser import Commands, file_argument, usage_error
from savefmt.cli.render.document import Documents
from savefmt.cli.ui import Ui
from savefmt.model import IOOptions

if TYPE_CHECKING:
    from savefmt.image import SaveImage

# As in savefmt.linux.answers, which is not loaded for `--help`.
_ANSWERS = {
    "summary": "one screen: the system, processes, listening sockets, oddities (default)",
    "ps": "processes",
    "tree": "processes, with each below its parent",
    "log": "the kernel's log",
    "files": "open files",
    "net": "sockets, and network devices with their addresses",
    "mounts": "mounted file systems, by namespace",
    "modules": "kernel modules",
    "maps": "memory maps; ! marks memory that can be both written and executed",
    "env": "environments of processes",
    "pages": "how much memory each owner has",
    "timeline": "what happened when, as CSV for Timesketch",
    "all": "all of these except pages and timeline",
}
_EPILOG = (
    "answers:\n"
    + "".join(f"  {name:<9} {text}\n" for name, text in _ANSWERS.items())
    + """
The answers come from the kernel's own lists.  Types and symbols come from the guest's memory, so
no debug package is needed.

exit codes: 0 done, 1 failed (not Linux, or the kernel lacks BTF or kallsyms), 3 parts of an
extracted file are missing, 64 wrong usage
"""
)


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "linux",
        help="show what ran in a Linux guest: processes, log, files, sockets and more",
        description="Show what ran in a Linux guest.  Only the image is needed.",
        epilog=_EPILOG,
    )
    file_argument(parser, "image", metavar="IMAGE")
    parser.add_argument(
        "answer", nargs="?", choices=tuple(_ANSWERS), default="summary", metavar="ANSWER"
    )
    parser.add_argument(
        "--pid",
        action="append",
        type=number,
        default=[],
        metavar="N",
        help="show only this process; may be repeated",
    )
    parser.add_argument(
        "--cached", action="store_true", help="with files: the files that have pages in memory"
    )
    group = parser.add_argument_group("a file from the page cache")
    group.add_argument("--extract", metavar="PATH", help="write the guest's file PATH to FILE")
    file_argument(group, "-o", dest="target", metavar="FILE", help="the file to write")
    group.add_argument("-F", "--force", action="store_true", help="replace FILE")
    output_options(parser, lines=True)
    place_option(parser)
    index_option(parser)
    progress_options(parser)
    source_options(parser, "image", writes=lambda args: [args.target])
    common_options(parser)
    parser.set_defaults(run=run, failed=ExitCode.FAILED)


def documents() -> Documents:
    """Return what ``-j`` prints."""
    from savefmt.cli.render.linux import ROWS
    from savefmt.linux.facts import Extraction, GuestReport

    return ({"linux": GuestReport}, {"extraction": Extraction}, *ROWS)


def run(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Print one answer, or take one file out."""
    if args.cached and args.answer != "files":
        usage_error(args, "--cached goes with files")
    if args.extract is not None and args.answer not in ("files", "summary"):
        usage_error(args, "--extract goes with files")
    if (args.extract is None) != (args.target is None):
        usage_error(args, "--extract and -o go together")
    if args.force and args.extract is None:
        usage_error(args, "--force goes with --extract")
    io = IOOptions(direct=False)
    with savefmt.open(args.image, io=io, index=args.index, places=args.place) as image:
        ui.prepare(image)
        ui.missing(image)
        return (_answer if args.extract is None else _extract)(image, args, ui)


def _answer(image: SaveImage, args: argparse.Namespace, ui: Ui) -> ExitCode:
    from savefmt.cli.render.linux import answer_lines, rows
    from savefmt.linux.answers import ask

    report = ask(image, "cached" if args.cached else args.answer, args.pid)
    if args.output == "jsonl":
        ui.stream("rows", rows(report))
    elif ui.json:
        ui.document(linux=report)
    else:
        ui.say(answer_lines(report, args.answer))
        if args.answer == "timeline":
            for finding in report.findings:
                ui.remark(finding.message)
    return ExitCode.GOOD


def _extract(image: SaveImage, args: argparse.Namespace, ui: Ui) -> ExitCode:
    from savefmt.cli.render.linux import extraction_lines
    from savefmt.linux.opening import open_kernel
    from savefmt.linux.pagecache import extract

    found = extract(open_kernel(image), args.extract, args.target, overwrite=args.force)
    if ui.json:
        ui.document(extraction=found)
    elif not ui.quiet:
        ui.say(extraction_lines(found))
    return ExitCode.FINDINGS if found.missing else ExitCode.GOOD
