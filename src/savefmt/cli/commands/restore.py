"""``savefmt restore``: a saved guest, into a QEMU that waits for one."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import savefmt
from savefmt.cli.codes import ExitCode
from savefmt.cli.interrupt import telling_of_the_guest
from savefmt.cli.options import (
    common_options,
    output_options,
    progress_options,
    source_options,
    threads_option,
    writing_options,
)
from savefmt.cli.parser import Commands, file_argument, usage_error
from savefmt.cli.render.document import Documents
from savefmt.cli.saveoptions import (
    binary_option,
    bypass_option,
    channels_option,
    ignore_option,
    monitor_option,
)
from savefmt.cli.ui import Ui
from savefmt.frozen import replace
from savefmt.model import IOOptions

if TYPE_CHECKING:
    from savefmt.qemu import CommandSkeleton, RestoreReport

_EPILOG = """\
Start QEMU with the machine, the memory and the devices of the saved guest, and with
-incoming defer.  --print-command prints as much of its command line as the image records.

exit codes: 0 restored or printed, 1 refused or failed, 64 wrong usage
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "restore",
        help="restore a guest into a waiting QEMU",
        description="Restore the guest in IMAGE into the QEMU behind SOCKET.",
        epilog=_EPILOG,
    )
    file_argument(parser, "image", metavar="IMAGE")
    whither = parser.add_mutually_exclusive_group()
    monitor_option(whither)
    whither.add_argument(
        "--print-command",
        action="store_true",
        help="print a QEMU command line that you can complete",
    )
    instant = parser.add_argument_group("instantly (mapped-ram images)")
    instant.add_argument(
        "--instant",
        action="store_true",
        help="let QEMU map the image as the guest's memory instead of loading it",
    )
    file_argument(
        instant,
        "--writable-copy",
        metavar="FILE",
        help="let the guest write to FILE, which shares the image's pages at first",
    )
    instant.add_argument(
        "--warm",
        action="store_true",
        help="read the image into the page cache while the guest runs",
    )
    file_argument(
        instant, "--order", metavar="FILE", help="read only the pages that FILE lists, in its order"
    )
    file_argument(
        instant,
        "--record",
        metavar="FILE",
        help="write to FILE which pages the guest uses in its first ten seconds, in order",
    )
    group = parser.add_argument_group("how to read it")
    channels_option(group)
    bypass_option(group)
    state = parser.add_argument_group("state of the guest afterwards (default: as the image says)")
    either = state.add_mutually_exclusive_group()
    for name, running, text in (
        ("--paused", False, "leave it paused"),
        ("--running", True, "let it run"),
    ):
        either.add_argument(name, dest="running", action="store_const", const=running, help=text)
    state.add_argument(
        "--resume",
        action="store_true",
        help="load nothing; let the guest run that an interrupted restore left paused",
    )
    ignore_option(parser)
    binary_option(
        parser, "program of the QEMU behind SOCKET, to ask it about device state, or to print"
    )
    writing_options(parser)
    output_options(parser)
    threads_option(parser)
    progress_options(parser)
    source_options(parser, "image", damaged=False, writes=_written)
    common_options(parser)
    parser.set_defaults(run=run, failed=ExitCode.FAILED)


def documents() -> Documents:
    """Return what ``-j`` prints."""
    from savefmt.qemu.report import CommandSkeleton, RestoreReport

    return ({"restore": RestoreReport}, {"command": CommandSkeleton})


def run(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Restore once, or print a command."""
    from savefmt.cli.render.restore import command_lines, restore_lines

    if args.qmp is None and not args.print_command:
        usage_error(
            args,
            "give the socket of the QEMU that is to load the image with --qmp; use `virsh "
            "restore` for a guest of libvirt",
        )
    if args.resume and (args.print_command or args.instant or args.running is False):
        usage_error(args, "--resume lets a guest run, so it goes with --qmp and without --paused")
    for name in ("writable_copy", "warm", "order", "record"):
        if getattr(args, name) and not args.instant:
            usage_error(args, f"--{name.replace('_', '-')} goes with --instant")
    if args.record and (args.warm or args.order):
        usage_error(
            args,
            "--record goes without --warm and --order: what is read ahead hides what the "
            "guest touches",
        )
    if args.instant and (args.parallel or args.bypass_cache):
        usage_error(args, "--parallel and --bypass-cache go without --instant, which loads nothing")
    if args.print_command:
        skeleton = _command(args)
        if args.qemu_binary is not None:
            skeleton = replace(skeleton, words=((args.qemu_binary,), *skeleton.words[1:]))
        if ui.json:
            ui.document(command=skeleton)
        else:
            ui.say(command_lines(skeleton))
        return ExitCode.GOOD
    with telling_of_the_guest(ui):
        report = _restore_on_image(args, ui) if args.instant else _restore(args, ui)
    if ui.json:
        ui.document(restore=report)
    elif not ui.quiet:
        ui.say(restore_lines(report))
    return ExitCode.GOOD


def _written(args: argparse.Namespace) -> list[str | None]:
    # With --qmp, a guest writes into the copy all the time.
    return [args.record, args.writable_copy if args.print_command else None]


def _command(args: argparse.Namespace) -> CommandSkeleton:
    if not args.instant:
        from savefmt.qemu import command_line

        with savefmt.open(args.image) as image:
            return command_line(image)
    from savefmt.instant import instant_command, make_copy

    with savefmt.open(args.image) as image:
        if args.writable_copy is not None:
            make_copy(image, args.writable_copy, dry_run=args.dry_run)
        return instant_command(image, copy=args.writable_copy)


def _restore_on_image(args: argparse.Namespace, ui: Ui) -> RestoreReport:
    from savefmt.compat import config
    from savefmt.instant import restore_on_image

    with ui.progress(args.image) as progress:
        return restore_on_image(
            args.image,
            qmp=args.qmp,
            running=args.running,
            ignore=args.ignore,
            binary=args.qemu_binary,
            dry_run=args.dry_run,
            copy=args.writable_copy,
            warm=args.warm,
            order=args.order,
            record=args.record,
            io=IOOptions(threads=args.threads),
            timeout=config.load().timeout,
            progress=progress,
        )


def _restore(args: argparse.Namespace, ui: Ui) -> RestoreReport:
    from savefmt.compat import config
    from savefmt.qemu import restore

    settings = config.load()
    with ui.progress(args.image) as progress:
        return restore(
            args.image,
            qmp=args.qmp,
            parallel=args.parallel,
            bypass_cache=bool(args.bypass_cache),
            running=args.running,
            resume=args.resume,
            ignore=args.ignore,
            binary=args.qemu_binary,
            dry_run=args.dry_run,
            io=IOOptions(threads=args.threads),
            timeout=settings.timeout,
            progress=progress,
        )
