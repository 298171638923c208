"""``savefmt fleet``: one question to many images."""

from __future__ import annotations

import argparse
import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any, Self

import savefmt
from savefmt.cli.codes import ExitCode, worst
from savefmt.cli.commands.convert import FORMATS
from savefmt.cli.inputs import names_of
from savefmt.cli.options import (
    common_options,
    number,
    output_options,
    place_option,
    writing_options,
)
from savefmt.cli.parser import Commands, file_argument, usage_error
from savefmt.cli.render.document import Documents
from savefmt.cli.saveoptions import reader_option
from savefmt.cli.ui import Ui
from savefmt.errors import ConversionError

if TYPE_CHECKING:
    from savefmt.fleet.records import FleetRecord, Job
    from savefmt.fleet.targets import Target

_EPILOG = """\
TARGET is a file, a folder (with its subfolders), or a pattern such as '/srv/*.save'.

exit codes: 0 all good; 1 some could not be read; 2 damaged, or (audit) a reader cannot
            load it; 3 usable with findings; 63 not a save image; 64 wrong usage; with
            several images, the worst one counts
"""

_VERBS = {
    "audit": "say who can load images after an upgrade, and what helps",
    "check": "check whether images are sound",
    "hash": "hash the memory of images",
    "os": "say which systems run in images",
    "search": "search the memory of images",
    "convert": "convert images",
}


def add(commands: Commands) -> None:
    """Add the command with its verbs to the parser."""
    group = commands.add_parser(
        "fleet", help="ask the same question about many images", epilog=_EPILOG, leaf=False
    )
    verbs = group.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb, help in _VERBS.items():
        parser = verbs.add_parser(
            verb, help=help, description=f"{help.capitalize()}.", epilog=_EPILOG
        )
        file_argument(parser, "targets", nargs="*", metavar="TARGET")
        if verb in _OPTIONS:
            _OPTIONS[verb](parser)
        if verb in _PLACED:
            place_option(parser)
        _add_shared(parser)
        common_options(parser)
        parser.set_defaults(run=run, failed=ExitCode.FAILED)
    _add_report(verbs)


def _add_report(verbs: Any) -> None:
    parser = verbs.add_parser(
        "report",
        help="write a page about a run, for people",
        description="Write a journal as one HTML page that needs no other file.",
        epilog="exit codes: 0 written, whatever it says; 1 failed; 64 wrong usage\n",
    )
    file_argument(parser, "journal", metavar="JOURNAL")
    file_argument(
        parser,
        "-o",
        dest="target",
        metavar="PAGE",
        help="file to write (default: the journal's name with .html, in this folder)",
    )
    writing_options(parser, replaced="replace the file")
    output_options(parser)
    common_options(parser)
    parser.set_defaults(run=run_report, failed=ExitCode.FAILED)


def _add_shared(parser: argparse.ArgumentParser) -> None:
    file_argument(
        parser,
        "--from-file",
        dash="",
        metavar="LIST",
        help="file with one target per line; - reads standard input",
    )
    file_argument(
        parser,
        "-o",
        dest="target",
        metavar="FILE",
        help="new file: .jsonl, the journal, a line of JSON an image as it ends; .csv or .parquet,"
        " a table of all at the end, with the journal beside it",
    )
    file_argument(
        parser,
        "--resume",
        metavar="JOURNAL",
        help="continue this journal: only images that are not done, have failed or have changed",
    )
    output_options(parser, lines=True, csv=True)
    group = parser.add_argument_group("working")
    group.add_argument(
        "--jobs",
        type=number,
        default=0,
        metavar="N",
        help="number of images at a time (default: the number of cores)",
    )
    group.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="a dask scheduler, such as tcp://10.0.0.5:8786, whose workers do the work",
    )
    group.add_argument(
        "--everywhere",
        action="store_true",
        help="each worker's host finds the targets among its own files, and reads them",
    )
    group.add_argument(
        "--time-limit",
        type=number,
        default=0,
        metavar="SECONDS",
        help="for one image (default: none)",
    )
    group.add_argument(
        "--memory-limit",
        type=number,
        default=0,
        metavar="SIZE",
        help="for one image (default: none)",
    )
    group.add_argument(
        "--retries",
        type=number,
        default=1,
        metavar="N",
        help="further tries if a worker died or reached a limit (default: 1)",
    )


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--full", action="store_true", help="read every page, too")


def _add_hash(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-a",
        "--algorithm",
        choices=("sha256", "sha512", "sha1", "md5", "blake3", "xxh3"),
        default="sha256",
        help="hash to use (default: sha256)",
    )


def _add_search(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--text", action="append", metavar="TEXT", help="text to find; may be repeated"
    )
    file_argument(what, "--yara", metavar="RULES", help="file with YARA rules")


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-O", dest="format", choices=tuple(FORMATS), required=True, help="target format"
    )
    file_argument(
        parser,
        "--to",
        required=True,
        metavar="FOLDER",
        help="folder for the results, which gets the same subfolders",
    )
    writing_options(parser, replaced="replace existing files")


_OPTIONS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "audit": reader_option,
    "check": _add_check,
    "hash": _add_hash,
    "search": _add_search,
    "convert": _add_convert,
}


_PLACED = ("os", "search")
"""Verbs that need addresses, as the commands of these names do."""


def documents() -> Documents:
    """Return what ``-j`` prints."""
    from savefmt.fleet.overview import FleetReportWritten
    from savefmt.fleet.records import FleetRecord

    return (
        {"records": list[FleetRecord], "complete": bool},
        FleetRecord,
        {"report": FleetReportWritten},
    )


def run(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Go through all images, then report on the run."""
    from savefmt.cli.render.fleet import Summary
    from savefmt.cli.render.plain import many
    from savefmt.fleet import running
    from savefmt.fleet.cluster import Cluster
    from savefmt.fleet.journal import Journal
    from savefmt.fleet.pool import Engine, Limits, ProcessPool

    _refuse_contradictions(args)
    summary = Summary()
    with ExitStack() as stack:
        name, suffix = os.path.splitext(args.target or "")
        table = stack.enter_context(_Table(args.target)) if suffix in _TABLES else None
        limits = Limits(args.time_limit, args.memory_limit, args.retries)
        engine: Engine
        if args.scheduler:
            cluster = Cluster(args.scheduler, limits, everywhere=args.everywhere)
            engine = stack.enter_context(closing(cluster))
        else:
            engine = stack.enter_context(ProcessPool(args.jobs or _cores(), limits))
        journal, journal_name = None, args.resume or (f"{name}.jsonl" if name else "")
        if journal_name:
            journal = Journal(journal_name, resume=bool(args.resume))
            stack.callback(journal.close)
        jobs = _jobs(args, engine.find(_names(args)))
        records = running.run(jobs, engine, savefmt.__version__, journal)
        _print(_counted(records, summary, ui), args, ui)
        if table is not None:
            table.write(journal_name)
    kept = journal.kept if journal is not None else Counter()
    if not ui.quiet and summary.verdicts:
        summary.print(color=ui.error_color)
    if kept:
        ui.remark(f"{many(kept.total(), 'image')} done before")
    return worst(_CODES[verdict] for verdict in {*summary.verdicts, *kept})


def _refuse_contradictions(args: argparse.Namespace) -> None:
    suffix = os.path.splitext(args.target or "")[1]
    if not args.targets and not args.from_file:
        usage_error(args, "name a TARGET, or give --from-file")
    if args.target and suffix not in (".jsonl", *_TABLES):
        usage_error(args, "-o names a FILE.jsonl, FILE.csv or FILE.parquet")
    if args.resume and suffix == ".jsonl":
        usage_error(
            args,
            "--resume continues its own journal, so with it -o can name a table only (.csv or "
            ".parquet)",
        )
    if args.scheduler and args.jobs:
        usage_error(args, "--jobs is for this host; the scheduler knows its workers")
    if args.everywhere and not args.scheduler:
        usage_error(args, "--everywhere is for the hosts of a --scheduler")


_TABLES = (".csv", ".parquet")


class _Table:
    """A table that appears when the run is over."""

    def __init__(self, target: str) -> None:
        from savefmt.cli.render import fleettable
        from savefmt.writing.output import OutputFile

        if os.path.lexists(target):
            raise ConversionError("the file exists; name another one for the table", path=target)
        self._write = fleettable.writer(os.path.splitext(target)[1])
        self._output = OutputFile(target, overwrite=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._output.abort()

    def write(self, journal: str) -> None:
        """Make it of all that the journal has."""
        from savefmt.fleet.journal import read_journal

        self._write(read_journal(journal), self._output)
        self._output.commit(warn=True)


_CODES = {
    "good": ExitCode.GOOD,
    "findings": ExitCode.FINDINGS,
    "refused": ExitCode.DAMAGED,
    "damaged": ExitCode.DAMAGED,
    "not-an-image": ExitCode.NOT_AN_IMAGE,
    "failed": ExitCode.FAILED,
}


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _counted(records: Iterable[FleetRecord], summary: Any, ui: Ui) -> Iterator[FleetRecord]:
    others: set[tuple[str, str]] = set()
    for record in records:
        summary.add(record)
        other = record.host, record.version
        if record.version != savefmt.__version__ and other not in others:
            others.add(other)
            ui.remark(
                f"{record.host} has savefmt {record.version}, and this is {savefmt.__version__}: "
                "what it says may differ"
            )
        yield record


def _print(records: Iterable[FleetRecord], args: argparse.Namespace, ui: Ui) -> None:
    if args.output == "csv":
        from savefmt.cli.render.fleet import COLUMNS, csv_row

        ui.table(COLUMNS, map(csv_row, records))
    elif ui.json:
        ui.stream("records", records)
    else:
        from savefmt.cli.render.fleet import record_line

        quiet = ui.quiet or args.target or args.resume
        ui.say((record_line(r) for r in records if not quiet or r.verdict != "good"), at_once=True)


# --- jobs ---


def _jobs(args: argparse.Namespace, targets: Iterable[Target]) -> Iterator[Job]:
    from savefmt.fleet.records import Job

    options = _options(args)
    if getattr(args, "place", None):
        options["places"] = args.place
    for target in targets:
        more = {"target": _converted(args.to, target)} if args.verb == "convert" else {}
        yield Job(args.verb, target, options | more)


def _names(args: argparse.Namespace) -> Iterator[str]:
    yield from args.targets
    if args.from_file:
        yield from names_of(args.from_file)


def _options(args: argparse.Namespace) -> dict[str, Any]:
    if args.verb == "audit":
        return {"readers": [f"{reader.program}={reader.name}" for reader in args.readers]}
    if args.verb == "check":
        return {"full": args.full}
    if args.verb == "hash":
        return {"algorithm": args.algorithm}
    if args.verb == "search":
        return {"yara": os.path.abspath(args.yara)} if args.yara else {"texts": args.text}
    if args.verb == "convert":
        layout, codec = FORMATS[args.format]
        return {
            "layout": layout,
            "codec": codec,
            "dry_run": args.dry_run,
            "overwrite": args.force,
        }
    return {}


def _converted(folder: str, target: Target) -> str:
    """Return where an image's conversion goes."""
    return os.path.join(os.path.abspath(folder), os.path.relpath(target.path, target.base))


# --- the page ---


def run_report(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Read the journal, then write the page."""
    import time

    from savefmt.cli.render.fleetpage import page, written_lines
    from savefmt.cli.render.html import Making
    from savefmt.fleet.overview import FleetReportWritten, survey
    from savefmt.writing.output import OutputFile

    stem = os.path.basename(args.journal).removesuffix(".jsonl")
    target = args.target or f"{stem}.html"
    started, clock = time.time(), time.monotonic()
    words = ["savefmt", "fleet", "report", args.journal]
    command = shlex.join(words + (["-o", args.target] if args.target else []))
    with OutputFile(target, overwrite=args.force) as output:
        overview = survey(args.journal)
        made = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(started))
        making = Making(savefmt.__version__, command, made, time.monotonic() - clock)
        text = page(overview, making)
        if not args.dry_run:
            output.file.write(text, 0)
            output.commit(warn=True)
    written = FleetReportWritten(
        source=args.journal,
        target=target,
        digest=overview.digest,
        images=overview.total,
        shown=len(overview.shown),
        target_length=len(text),
        seconds=time.monotonic() - clock,
        dry_run=args.dry_run,
    )
    if ui.json:
        ui.document(report=written)
    elif not ui.quiet:
        ui.say(written_lines(written))
    return ExitCode.GOOD
