"""``savefmt check``: whether images are sound."""

from __future__ import annotations

import argparse

import savefmt
from savefmt.cli.codes import ExitCode, worst
from savefmt.cli.options import common_options, io_of, io_options, output_options, source_options
from savefmt.cli.parser import Commands, file_argument
from savefmt.cli.render.check import check_lines, unjudged
from savefmt.cli.render.document import Documents, error_values
from savefmt.cli.saveoptions import binary_option, ignore_option, monitor_option, reader_option
from savefmt.cli.ui import Ui
from savefmt.errors import FormatError, NotASaveImageError, SavefmtError
from savefmt.frozen import replace
from savefmt.model import CheckLevel, OnProgress, Severity
from savefmt.reports import CheckReport, HostReport

_EPILOG = """\
exit codes: 0 sound, 1 could not finish, 2 damaged, 3 usable with findings,
            63 not a save image, 64 wrong usage; with several images, the worst one counts
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "check",
        help="check whether images are sound",
        description="Check whether each image follows the rules of its format.",
        epilog=_EPILOG,
    )
    file_argument(parser, "images", nargs="+", metavar="IMAGE")
    parser.add_argument("--full", action="store_true", help="read every page")
    reader_option(parser)
    host = parser.add_argument_group("asking this host")
    host.add_argument(
        "--host", action="store_true", help="ask this host's libvirt and the image's QEMU"
    )
    whom = host.add_mutually_exclusive_group()
    binary_option(whom)
    monitor_option(whom)
    ignore_option(host)
    output_options(parser)
    io_options(parser)
    source_options(parser, "images")
    common_options(parser)
    parser.set_defaults(run=run, failed=ExitCode.FAILED)


def documents() -> Documents:
    """Return what ``-j`` prints."""
    from typing import NotRequired

    from savefmt.cli.render.failure import FailedValues
    from savefmt.reports import CheckReport, HostReport

    return (
        {
            "reports": list[CheckReport | FailedValues],
            "hosts": NotRequired[list[HostReport]],
        },
    )


def run(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Check every image; a bad one never hides the next."""
    level = CheckLevel.FULL if args.full else CheckLevel.QUICK
    codes: list[ExitCode] = []
    results: list[object] = []
    hosts: list[HostReport] = []
    for path in args.images:
        try:
            with ui.progress(path) as progress:
                report = savefmt.check(path, level=level, io=io_of(args), progress=progress)
                if _asks(args):
                    report = _add_readers(report, args, progress, hosts)
        except (SavefmtError, OSError) as error:
            ui.complain(error, path)
            codes.append(_code_of_error(error))
            results.append({"path": path, "error": error_values(error, path)})
            continue
        codes.append(_code_of_report(report))
        if ui.json:
            results.append(report)
        elif not (ui.quiet and report.ok):
            ui.say(check_lines(report, verbose=ui.verbosity > 0, color=ui.color))
            _say_host(ui, hosts, path)
    if ui.json:
        ui.document(reports=results, **({"hosts": hosts} if hosts else {}))
    return worst(codes)


def _asks(args: argparse.Namespace) -> bool:
    return bool(args.readers or args.host or args.qemu_binary or args.qmp)


def _add_readers(
    report: CheckReport,
    args: argparse.Namespace,
    progress: OnProgress | None,
    hosts: list[HostReport],
) -> CheckReport:
    """Add what the readers make of an image that can be read at all."""
    from savefmt.compat.config import load
    from savefmt.compat.findings import reader_findings
    from savefmt.compat.host import HostQuestion, probe_host
    from savefmt.compat.traits import examine
    from savefmt.image import SaveImage

    if report.summary is None:
        return report
    with SaveImage(report.path, io=io_of(args), strict=False) as image:
        traits = examine(image, io=io_of(args), progress=progress)
        findings = [*report.findings, *reader_findings(traits, args.readers)]
        if args.host or args.qemu_binary or args.qmp:
            question = HostQuestion(args.qemu_binary, args.qmp, load().timeout)
            hosts.append(probe_host(image, traits, question))
            findings += hosts[-1].findings
        if args.qmp:
            from savefmt.qemu.preflight import target_findings

            findings += target_findings(image, args.qmp, args.ignore, timeout=load().timeout)
    return replace(report, findings=tuple(findings))


def _say_host(ui: Ui, hosts: list[HostReport], path: str) -> None:
    for host in hosts:
        if host.path == path:
            from savefmt.cli.render.compat import host_lines

            ui.say(host_lines(host))


def _code_of_report(report: CheckReport) -> ExitCode:
    if report.ok:
        return ExitCode.GOOD
    if unjudged(report):
        return ExitCode.FAILED
    return ExitCode.DAMAGED if report.worst is Severity.ERROR else ExitCode.FINDINGS


def _code_of_error(error: SavefmtError | OSError) -> ExitCode:
    if isinstance(error, NotASaveImageError):
        return ExitCode.NOT_AN_IMAGE
    return ExitCode.DAMAGED if isinstance(error, FormatError) else ExitCode.FAILED
