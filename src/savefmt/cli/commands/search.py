"""``savefmt search``: find patterns in guest memory."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import savefmt
from savefmt.cli.codes import ExitCode
from savefmt.cli.inputs import shown, texts_of
from savefmt.cli.options import (
    common_options,
    cpu_options,
    io_of,
    number,
    output_options,
    place_option,
    process_options,
    processes_of,
    scan_options,
    source_options,
)
from savefmt.cli.parser import Commands, file_argument, usage_error
from savefmt.cli.render.document import Documents
from savefmt.cli.ui import Ui
from savefmt.errors import ImageIOError, SavefmtError, UnsupportedError

if TYPE_CHECKING:
    from savefmt.image import SaveImage
    from savefmt.model import OnProgress
    from savefmt.scan.patterns import Matcher
    from savefmt.scan.results import Hit
    from savefmt.scan.search import Places
    from savefmt.scan.windows import Memory

_EPILOG = """\
PATTERN is text.  A match can extend over several pages.  Regular expressions use the syntax of RE2.

exit codes: 0 found, 1 not found, 2 failed, 64 wrong usage
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "search",
        help="find bytes, text, expressions or YARA rules in guest memory",
        description="Find patterns in guest memory, and show the addresses "
        "at which the guest sees them.",
        epilog=_EPILOG,
    )
    file_argument(parser, "image", metavar="IMAGE")
    parser.add_argument("patterns", nargs="*", metavar="PATTERN", help="text to look for")
    group = parser.add_argument_group("what to look for")
    file_argument(
        group,
        "-f",
        "--file",
        dash="",
        action="append",
        default=[],
        metavar="FILE",
        help="search for each line of FILE; - reads standard input; may be repeated",
    )
    group.add_argument(
        "--hex",
        action="append",
        default=[],
        metavar="DIGITS",
        help="bytes as hexadecimal digits; ? means any digit: '4d5a ?? 9?'",
    )
    group.add_argument(
        "--bytes",
        action="append",
        default=[],
        metavar="TEXT",
        help=r"bytes as text with escapes such as \x90 and \0",
    )
    group.add_argument(
        "--regex", action="append", default=[], metavar="EXPRESSION", help="regular expression"
    )
    file_argument(
        group,
        "--yara",
        action="append",
        default=[],
        metavar="RULES",
        help="file with YARA rules, or a folder of such files, "
        "instead of patterns; may be repeated",
    )
    group.add_argument(
        "--define",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a variable that the rules use: true, false, a number, or text; may be repeated",
    )
    group.add_argument(
        "--encoding",
        action="append",
        choices=("ascii", "utf-8", "utf-16le", "utf-16be"),
        help="search for PATTERN in this encoding; may be repeated (default: utf-8)",
    )
    group.add_argument(
        "-i",
        "--ignore-case",
        action="store_true",
        help="ignore the difference between small and capital letters",
    )
    group = parser.add_argument_group("what to show")
    group.add_argument(
        "--virtual", action="store_true", help="also show virtual addresses, from page tables"
    )
    cpu_options(group)
    process_options(group)
    group.add_argument(
        "--context",
        type=number,
        default=16,
        metavar="BYTES",
        help="number of bytes to show around a match, up to 4096 (default: 16)",
    )
    group.add_argument("--max-count", type=number, metavar="N", help="stop after N matches")
    group.add_argument(
        "-c", "--count", action="store_true", help="print only the number of matches"
    )
    output_options(parser, lines=True, csv=True)
    place_option(parser)
    scan_options(parser)
    source_options(parser, "image")
    common_options(parser)
    parser.set_defaults(run=run, failed=ExitCode.TROUBLE)


def documents() -> Documents:
    """Return what ``-j`` prints."""
    from savefmt.cli.render.search import HitValues

    return (
        {"hits": list[HitValues], "complete": bool},
        {"count": int},
        HitValues,
    )


def run(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Print matches as they are found."""
    _refuse_nonsense(args)
    try:
        matchers = list(_matchers(args))
        rules = _rules(args)
    except ValueError as error:
        if isinstance(error, SavefmtError):
            raise
        usage_error(args, str(error))
    with (
        savefmt.open(args.image, io=io_of(args), places=args.place) as image,
        ui.progress(args.image) as progress,
    ):
        places, memory = _places(image, args, progress)
        hits = _hits(image, args, matchers, rules, places, memory, progress)
        if args.count:
            count = _count(image, args, matchers, hits, memory, progress)
            _show_count(count, ui)
        else:
            count = _show(hits, args.output, ui)
        _remark(image, places, ui)
        ui.missing(image)
    return ExitCode.GOOD if count else ExitCode.FAILED


def _show_count(count: int, ui: Ui) -> None:
    if ui.json:
        ui.document(count=count)
    else:
        ui.say([str(count)])


def _show(hits: Iterator[Hit], output: str, ui: Ui) -> int:
    """Print matches as they are found, and return how many there were."""
    from savefmt.cli.render.search import COLUMNS, csv_rows, hit_line, hit_object

    if ui.json:
        return ui.stream_objects("hits", map(hit_object, hits))
    if output == "csv":
        return ui.table(COLUMNS, csv_rows(hits))
    return ui.say((hit_line(hit, ui.color) for hit in hits), at_once=True)


def _count(
    image: SaveImage,
    args: argparse.Namespace,
    matchers: list[Matcher],
    hits: Iterator[Hit],
    memory: Memory | None,
    progress: OnProgress | None,
) -> int:
    """Count matches, without a look at each where that can be."""
    if args.yara or args.max_count is not None:
        return sum(1 for _ in hits)
    from savefmt.scan.search import count

    return count(
        image, matchers, blocks=args.block, memory=memory, io=io_of(args), progress=progress
    )


def _refuse_nonsense(args: argparse.Namespace) -> None:
    patterns = args.patterns or args.file or args.hex or args.bytes or args.regex
    if args.yara and patterns:
        usage_error(args, "--yara goes without other patterns")
    if not (args.yara or patterns):
        usage_error(
            args, "nothing to look for: give a PATTERN, -f, --hex, --bytes, --regex or --yara"
        )
    if args.define and not args.yara:
        usage_error(args, "--define goes with --yara")
    if not args.virtual and (args.cpu is not None or args.cr3 is not None):
        usage_error(args, "--cpu and --cr3 go with --virtual")
    if processes_of(args) is not None and (args.virtual or args.block):
        usage_error(args, "--pid and --each-process go without --virtual and --block")
    if args.context > 4096:
        usage_error(args, "--context is 4096 at most")


def _matchers(args: argparse.Namespace) -> Iterator[Matcher]:
    from savefmt.scan import patterns

    fold = args.ignore_case
    encodings = dict.fromkeys(args.encoding or ["utf-8"])
    for path in args.file:
        yield from _listed(path, encodings, fold)
    for words in args.patterns:
        for encoding in encodings:
            name = f"{words} ({encoding})" if len(args.encoding or ()) > 1 else words
            yield patterns.text(words, encoding, ignore_case=fold, name=name)
    yield from (patterns.hexadecimal(words) for words in args.hex)
    yield from (patterns.escaped(words) for words in args.bytes)
    yield from (patterns.regex(words, ignore_case=fold) for words in args.regex)


def _listed(path: str, encodings: Iterable[str], fold: bool) -> Iterator[Matcher]:
    """Read the texts of a file."""
    from savefmt.scan import patterns

    try:
        words = texts_of(path)
    except OSError as error:
        raise ImageIOError.from_os(error, path=path) from error
    for encoding in encodings:
        try:
            yield from patterns.texts(words, encoding, ignore_case=fold)
        except ValueError as error:
            raise ValueError(f"{shown(path)}: {error}") from error


def _rules(args: argparse.Namespace) -> Any:
    if not args.yara:
        return None
    from savefmt.scan.yara import compile_rules

    variables = {}
    for words in args.define:
        name, equals, value = words.partition("=")
        if not equals or not name:
            raise ValueError(f"--define takes NAME=VALUE, not {words!r}")
        if name in variables:
            raise ValueError(f"--define {name} is given twice")
        variables[name] = value
    return compile_rules(*args.yara, variables=variables)


def _places(
    image: SaveImage, args: argparse.Namespace, progress: OnProgress | None
) -> tuple[Places, Memory | None]:
    """Return what tells addresses, and the memory of processes where it is asked for."""
    pids = processes_of(args)
    if pids is not None:
        from savefmt.linux.processmemory import process_memory

        memory, places = process_memory(image, pids, io=io_of(args), progress=progress)
        return places, memory
    from savefmt.scan.search import Places

    return Places(image, image.guest.space(args.cpu, args.cr3) if args.virtual else None), None


def _hits(
    image: SaveImage,
    args: argparse.Namespace,
    matchers: list[Matcher],
    rules: Any,
    places: Places,
    memory: Memory | None,
    progress: OnProgress | None,
) -> Iterator[Hit]:
    options: dict[str, Any] = {
        "blocks": args.block,
        "context": args.context,
        "max_count": args.max_count,
        "places": places,
        "memory": memory,
        "io": io_of(args),
        "progress": progress,
    }
    if rules is not None:
        from savefmt.scan.yara import search_rules

        return search_rules(image, rules, **options)
    from savefmt.scan.search import search

    return search(image, matchers, **options)


def _remark(image: SaveImage, places: Places, ui: Ui) -> None:
    """Say what could not be looked at, or told."""
    if places.problem:
        ui.remark(f"{image.path}: {places.problem}")
    for block in image.head.blocks.blocks:
        try:
            image.memory.read(block.idstr, 0, 0)
        except UnsupportedError as error:
            ui.remark(f"{image.path}: {error.message}")
