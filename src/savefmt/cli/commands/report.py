"""``savefmt report``: all that an image tells, on one page."""

from __future__ import annotations

import argparse
import os
import shlex

import savefmt
from savefmt.cli.codes import ExitCode
from savefmt.cli.options import (
    common_options,
    io_of,
    output_options,
    place_option,
    progress_options,
    source_options,
    speed_options,
)
from savefmt.cli.parser import Commands, file_argument
from savefmt.cli.render.document import Documents
from savefmt.cli.saveoptions import reader_option
from savefmt.cli.ui import Ui
from savefmt.model import Severity

_EPILOG = """\
exit codes: 0 written, whatever it says about the image; 1 failed; 3 with --salvage: written, but a
part of the image is lost; 64 wrong usage
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "report",
        help="write a page about an image, for people",
        description="Write everything that savefmt can find out about an image on one HTML page.",
        epilog=_EPILOG,
    )
    file_argument(parser, "image", metavar="IMAGE")
    file_argument(
        parser,
        "-o",
        dest="target",
        metavar="PAGE",
        help="file to write (default: the image's name with .report.html, in this folder)",
    )
    parser.add_argument("-F", "--force", action="store_true", help="replace the file")
    parser.add_argument("--quick", action="store_true", help="read headers and devices, not memory")
    place_option(parser)
    reader_option(parser)
    output_options(parser)
    group = parser.add_argument_group("reading")
    speed_options(group)
    progress_options(group)
    source_options(parser, "image", writes=lambda args: [_target(args)])
    common_options(parser)
    parser.set_defaults(run=run, failed=ExitCode.FAILED)


def documents() -> Documents:
    """Return what ``-j`` prints."""
    from savefmt.report.dossier import ReportWritten

    return ({"report": ReportWritten},)


def run(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Gather, then write the page."""
    import time

    from savefmt.cli.render.html import Making
    from savefmt.cli.render.report import page, report_lines
    from savefmt.report.dossier import ReportWritten, gather
    from savefmt.writing.output import OutputFile

    target = _target(args)
    started, clock = time.time(), time.monotonic()
    with OutputFile(target, overwrite=args.force) as output:
        with ui.progress(args.image) as progress:
            dossier = gather(
                args.image,
                readers=args.readers or (),
                places=args.place,
                quick=args.quick,
                io=io_of(args),
                progress=progress,
            )
        seconds = time.monotonic() - clock
        made = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(started))
        text = page(dossier, Making(savefmt.__version__, _command(args), made, seconds))
        output.file.write(text, 0)
        output.commit(warn=True)
    written = ReportWritten(
        source=dossier.path,
        target=target,
        digest=dossier.digest,
        sound=dossier.check.worst is not Severity.ERROR,
        left_out=dossier.left_out,
        target_length=len(text),
        seconds=time.monotonic() - clock,
    )
    if ui.json:
        ui.document(report=written)
    elif not ui.quiet:
        ui.say(report_lines(written))
    return ExitCode.GOOD


def _target(args: argparse.Namespace) -> str:
    return args.target or f"{os.path.basename(args.image)}.report.html"


def _command(args: argparse.Namespace) -> str:
    """Return what was asked for, to be asked for again."""
    from savefmt.reading.source import find_source

    source = find_source(args.image)
    words = ["savefmt", "report", os.fspath(source)]
    words += [f"--snapshot={source.snapshot}"] if source.snapshot is not None else []
    words += [f"--offset={source.offset}"] * bool(source.offset)
    words += [f"--shared={block}={path}" for block, path in source.shared]
    given = {"map": args.bad, "lost": args.lost}
    words += [f"--{name}={value}" for name, value in given.items() if value]
    words += ["--salvage"] * args.salvage + ["--unproven"] * args.unproven
    words += ["--quick"] * args.quick
    words += [f"--place={block}={address:#x}" for block, address in args.place.items()]
    words += [f"--for={reader.program}={reader.name}" for reader in args.readers or ()]
    return shlex.join(words + (["-o", args.target] if args.target else []))
