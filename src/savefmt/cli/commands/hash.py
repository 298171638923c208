"""``savefmt hash``: hashes of guest memory, and checking them."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator

import savefmt
from savefmt.cli.codes import ExitCode
from savefmt.cli.inputs import lines_of, shown
from savefmt.cli.options import common_options, io_of, output_options, scan_options, source_options
from savefmt.cli.parser import Commands, file_argument, usage_error
from savefmt.cli.render.document import Documents
from savefmt.cli.ui import Ui
from savefmt.errors import SavefmtError

_EPILOG = """\
Images of the same guest have the same hashes, whatever their layout and codec.  A block's hash
is the hash of its content.  The hash of all memory is computed from those of the blocks (see the
manual).

exit codes: 0 success, 1 failed, or with --check something differs, 64 wrong usage
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "hash",
        help="hash guest memory, or check such hashes",
        description="Print a manifest with the hashes of all guest memory and of each block.",
        epilog=_EPILOG,
    )
    file_argument(parser, "image", metavar="IMAGE")
    parser.add_argument(
        "-a",
        "--algorithm",
        choices=("sha256", "sha512", "sha1", "md5", "blake3", "xxh3"),
        help="algorithm (default: sha256)",
    )
    parser.add_argument("--pages", action="store_true", help="also hash each page")
    parser.add_argument(
        "--lost-as-zero",
        action="store_true",
        help="with --salvage: treat lost pages as zeros instead of refusing",
    )
    file_argument(
        parser,
        "--check",
        dash="",
        metavar="MANIFEST",
        help="compare with hashes printed earlier; - reads standard input",
    )
    output_options(parser, lines=True)
    scan_options(parser)
    source_options(parser, "image")
    common_options(parser)
    parser.set_defaults(run=run, failed=ExitCode.FAILED)


def documents() -> Documents:
    """Return what ``-j`` prints."""
    from savefmt.cli.render.hash import CheckValues
    from savefmt.scan.results import MemoryHash

    return (
        {"hashes": list[MemoryHash], "complete": bool},
        {"checks": list[CheckValues], "complete": bool},
        MemoryHash,
        CheckValues,
    )


def run(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Print hashes as they are made, or whether they hold."""
    if args.check:
        if args.pages or args.algorithm or args.block:
            usage_error(args, "--check takes its manifest's algorithm, blocks and pages")
        return _check(args, ui)
    from savefmt.scan.hashes import hash_memory, manifest_lines

    algorithm = args.algorithm or "sha256"
    with savefmt.open(args.image, io=io_of(args)) as image, ui.progress(args.image) as progress:
        hashes = hash_memory(
            image,
            algorithm,
            pages=args.pages,
            blocks=args.block,
            lost_as_zero=args.lost_as_zero,
            io=io_of(args),
            progress=progress,
        )
        if ui.json:
            ui.stream("hashes", hashes)
        else:
            ui.say(manifest_lines(algorithm, hashes, pages=args.pages))
        ui.missing(image)
    return ExitCode.GOOD


def _check(args: argparse.Namespace, ui: Ui) -> ExitCode:
    from savefmt.cli.render.hash import check_lines, check_values
    from savefmt.errors import FormatError
    from savefmt.scan.hashes import Manifest, check_manifest, refuse_lost

    counts = Counter[bool | None]()

    def results() -> Iterator[tuple[str, bool | None]]:
        with (
            lines_of(args.check) as lines,
            savefmt.open(args.image, io=io_of(args)) as image,
            ui.progress(args.image) as progress,
        ):
            if not args.lost_as_zero:
                refuse_lost(image)
            try:
                manifest = Manifest(lines)
                for result in check_manifest(image, manifest, io=io_of(args), progress=progress):
                    counts[result[1]] += 1
                    yield result
                ui.missing(image)
            except ValueError as error:
                if isinstance(error, SavefmtError):
                    raise
                raise FormatError(
                    f"this is not a manifest of savefmt hash: {error}", path=shown(args.check)
                ) from error

    if ui.json:
        ui.stream("checks", check_values(results()))
    else:
        ui.say(check_lines(results(), quiet=ui.quiet))
    wrong = counts.total() - counts[True]
    if wrong:
        ui.remark(f"{args.image}: {wrong} of {counts.total()} hashes do not match")
    return ExitCode.DIFFERENT if wrong else ExitCode.GOOD
