"""``savefmt save``: the guest of a running QEMU, into an image."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from savefmt.cli.codes import ExitCode
from savefmt.cli.inputs import domain_document
from savefmt.cli.interrupt import telling_of_the_guest
from savefmt.cli.options import (
    common_options,
    output_options,
    progress_options,
    refuse_mixing,
    threads_option,
    writing_options,
)
from savefmt.cli.parser import Commands, file_argument, usage_error
from savefmt.cli.planning import show_plan, tell_of_version
from savefmt.cli.render.document import Documents
from savefmt.cli.saveoptions import monitor_option, request_of, request_options
from savefmt.cli.ui import Ui
from savefmt.model import IOOptions

if TYPE_CHECKING:
    from savefmt.qemu import SaveReport

_EPILOG = """\
save does what `savefmt plan` says.  TARGET can be - for standard output, with a sequential format.
It gets its name when it is complete.  On any failure, and on Ctrl-C, the guest continues as before
and nothing is left behind.

exit codes: 0 saved, 1 refused or failed, 64 wrong usage
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "save",
        help="save the guest of a running QEMU",
        description="Save the guest of the QEMU behind SOCKET to TARGET.",
        epilog=_EPILOG,
    )
    file_argument(parser, "target", dash="", metavar="TARGET")
    monitor_option(parser)
    request_options(parser)
    file_argument(
        parser,
        "--xml",
        dash="",
        metavar="FILE",
        help="domain XML for the image; - reads standard input (default: what QEMU answers)",
    )
    group = parser.add_argument_group(
        "the guest (default: stop it, and let it run again if it ran)"
    )
    fate = group.add_mutually_exclusive_group()
    fate.add_argument("--live", action="store_true", help="let the guest run during the save")
    fate.add_argument(
        "--keep-paused",
        dest="afterwards",
        action="store_const",
        const="keep-paused",
        default="resume",
        help="leave it paused",
    )
    fate.add_argument(
        "--quit", dest="afterwards", action="store_const", const="quit", help="end QEMU"
    )
    writing_options(parser, replaced="replace TARGET; write binary data to a terminal")
    output_options(parser)
    threads_option(parser)
    progress_options(parser)
    common_options(parser)
    parser.set_defaults(run=run, failed=ExitCode.FAILED, subject="target")
    parser.surplus = (
        "savefmt save takes one name, the file, and knows no libvirt domains: `virsh save` saves "
        "those, and `savefmt convert` gives such an image another form"
    )


def documents() -> Documents:
    """Return what ``-j`` prints."""
    from savefmt.qemu import SaveReport
    from savefmt.reports import Refusal, SavePlan

    return ({"save": SaveReport}, {"plan": SavePlan}, {"refusal": Refusal})


def run(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Save once, or tell how."""
    from savefmt.cli.render.save import save_lines

    if args.qmp is None:
        usage_error(
            args,
            "give the socket of the guest's QEMU with --qmp; use `virsh save` for a guest of "
            "libvirt",
        )
    if args.dry_run:
        return show_plan(args, ui)
    if args.target == "-":
        refuse_mixing(args)
    with telling_of_the_guest(ui):
        report = _save(args, ui)
    if ui.json:
        ui.document(save=report)
    elif args.target == "-":
        for line in save_lines(report):
            ui.step(line)
    elif not ui.quiet:
        ui.say(save_lines(report))
    return ExitCode.GOOD


def _save(args: argparse.Namespace, ui: Ui) -> SaveReport:
    from savefmt.compat import config
    from savefmt.qemu import Afterwards, save

    settings = config.load()
    xml = domain_document(args.xml) if args.xml is not None else None
    request = request_of(args, settings)
    with ui.progress(args.target) as progress:
        report = save(
            args.target,
            qmp=args.qmp,
            request=request,
            xml=xml,
            live=args.live,
            afterwards=Afterwards(args.afterwards),
            overwrite=args.force,
            io=IOOptions(threads=args.threads),
            timeout=settings.timeout,
            progress=progress,
        )
    tell_of_version(request, ui)
    return report
