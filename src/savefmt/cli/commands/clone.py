"""``savefmt clone``: guests that run on one image's pages."""

from __future__ import annotations

import argparse
import re

from savefmt.cli.codes import ExitCode
from savefmt.cli.options import (
    common_options,
    evidence_options,
    output_options,
    threads_option,
    writing_options,
)
from savefmt.cli.parser import Commands, file_argument, usage_error
from savefmt.cli.render.document import Documents
from savefmt.cli.saveoptions import binary_option
from savefmt.cli.ui import Ui
from savefmt.model import IOOptions

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

_EPILOG = """\
Each guest gets a thin image of a few hundred KiB.  Its memory stays in IMAGE.  IMAGE must be
sparse (mapped-ram; see savefmt prepare), and must not change as long as a thin image uses it.

exit codes: 0 made, 1 failed, 64 wrong usage
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "clone",
        help="prepare guests that run on one image without loading it",
        description="Prepare guests in the folder DIR that run on the pages of IMAGE.",
        epilog=_EPILOG,
    )
    file_argument(parser, "image", metavar="IMAGE")
    file_argument(parser, "folder", metavar="DIR")
    parser.add_argument(
        "--count", type=_count, default=1, metavar="N", help="number of guests (default: 1)"
    )
    writing_options(parser, replaced="replace files in DIR")
    binary_option(
        parser, "QEMU that the scripts start (default: the one for the guest's architecture)"
    )
    group = parser.add_argument_group("for libvirt")
    group.add_argument(
        "--libvirt", action="store_true", help="make images that virsh restore starts"
    )
    group.add_argument(
        "--name", metavar="NAME", help="name of the guest; several guests get numbers"
    )
    group.add_argument("--uuid", type=_uuid, metavar="UUID", help="UUID of a single guest")
    output_options(parser)
    threads_option(parser)
    evidence_options(parser, "image", writes=lambda args: [args.folder])
    common_options(parser)
    parser.set_defaults(run=run, failed=ExitCode.FAILED)


def documents() -> Documents:
    """Return what ``-j`` prints."""
    from savefmt.instant.outcomes import CloneReport

    return ({"clone": CloneReport},)


def run(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Make the clones."""
    from savefmt.cli.render.clone import clone_lines
    from savefmt.instant import clone, clone_for_libvirt

    if not args.libvirt and (args.name or args.uuid):
        usage_error(args, "--name and --uuid go with --libvirt; QEMU takes them as its options")
    if args.libvirt and args.qemu_binary:
        usage_error(args, "--qemu-binary is for scripts; libvirt takes its emulator from the XML")
    if args.uuid and args.count != 1:
        usage_error(args, "several guests cannot have the same UUID")
    io = IOOptions(threads=args.threads)
    if args.libvirt:
        report = clone_for_libvirt(
            args.image,
            args.folder,
            count=args.count,
            name=args.name,
            uuid=args.uuid,
            overwrite=args.force,
            dry_run=args.dry_run,
            io=io,
        )
    else:
        report = clone(
            args.image,
            args.folder,
            count=args.count,
            binary=args.qemu_binary,
            overwrite=args.force,
            dry_run=args.dry_run,
            io=io,
        )
    if ui.json:
        ui.document(clone=report)
    elif not ui.quiet:
        ui.say(clone_lines(report, dry_run=args.dry_run))
    return ExitCode.GOOD


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 4096):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 4096")
    return int(text)


def _uuid(text: str) -> str:
    if not _UUID.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a UUID")
    return text
