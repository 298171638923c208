"""``savefmt mount``: an image as a folder of files."""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Callable

from savefmt.cli.codes import ExitCode
from savefmt.cli.options import (
    common_options,
    index_option,
    io_of,
    place_option,
    progress_options,
    source_options,
    speed_options,
)
from savefmt.cli.parser import Commands, file_argument
from savefmt.cli.ui import Ui

_EPILOG = """\
To unmount, use `umount DIR`, or `fusermount3 -u DIR` as an ordinary user.  With --foreground,
Ctrl-C also unmounts.

exit codes: 0 mounted, or with --foreground mounted and then unmounted; 1 failed; 64 wrong usage
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "mount",
        help="mount an image as a folder of files",
        description="Show an image's memory and what savefmt knows about it as "
        "files, without converting it.",
        epilog=_EPILOG,
    )
    file_argument(parser, "image", metavar="IMAGE")
    file_argument(parser, "folder", metavar="DIR")
    parser.add_argument("--foreground", action="store_true", help="stay until it is unmounted")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="do not read memory first: no os.txt, no vmcoreinfo.txt",
    )
    place_option(parser)
    group = parser.add_argument_group("reading")
    index_option(group)
    speed_options(group)
    progress_options(group)
    source_options(parser, "image")
    common_options(parser)
    parser.set_defaults(run=run, failed=ExitCode.FAILED)


def run(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Mount, here or in a process of its own."""
    from savefmt.mount.serving import check_mountpoint

    check_mountpoint(args.folder)
    if args.foreground:
        _mount(args, ui, lambda: None)
        return ExitCode.GOOD
    return _in_background(lambda ready: _mount(args, ui, ready))


def _mount(args: argparse.Namespace, ui: Ui, ready: Callable[[], None]) -> None:
    from savefmt.cli.render.mount import texts
    from savefmt.cli.salvaged import tell_lost
    from savefmt.image import SaveImage
    from savefmt.mount.folder import build
    from savefmt.mount.serving import serve

    def left_out(name: str, reason: str) -> None:
        ui.remark(f"{args.image}: without {name}: {reason}")

    with SaveImage(
        args.image, io=io_of(args), strict=False, index=args.index, places=args.place
    ) as image:
        ui.prepare(image)
        ui.missing(image)
        with ui.progress(args.image) as progress:
            files = texts(
                image, quick=args.quick, io=io_of(args), progress=progress, left_out=left_out
            )
        top = build(image, files, search=not args.quick, left_out=left_out)
        modified = os.stat(args.image).st_mtime_ns
        if image.rescue is not None:
            # From here on lost memory is an error and no longer reads as zeros.
            image.memory.refuse = image.rescue.refuse_lost
            tell_lost(args, ui, ExitCode.GOOD)
            args.rescued = []  # told once
        serve(top, args.folder, modified=modified, ready=ready)


def _in_background(work: Callable[[Callable[[], None]], None]) -> ExitCode:
    """Do the work in a child, and return when it says that it is ready, or has failed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        try:
            with os.fdopen(reading, "rb") as told:
                if told.read(1):
                    return ExitCode.GOOD
            _, status = os.waitpid(child, 0)
        except BaseException:
            os.kill(child, signal.SIGTERM)
            raise
        raise SystemExit(os.waitstatus_to_exitcode(status))
    os.close(reading)

    def ready() -> None:
        os.setsid()
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(null, stream)
        os.write(writing, b"1")
        os.close(writing)

    work(ready)
    return ExitCode.GOOD
