"""``savefmt hash``: hashes of guest memory, and checking them."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack

import savefmt
from savefmt.cli.codes import ExitCode
from savefmt.cli.parser import (
    Commands,
    common_options,
    file_argument,
    io_of,
    output_options,
    scan_options,
    usage_error,
)
from savefmt.cli.ui import Ui, is_broken_pipe
from savefmt.errors import SavefmtError
from savefmt.frozen import asdict

_EPILOG = """\
Images of one guest agree, whatever their layout and codec.  A block's hash is that of
its content, and the hash of all memory is one over the blocks' (see the manual).

exit codes: 0 good, 1 failed, or with --check something differs, 64 wrong usage
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "hash",
        help="hash guest memory, or check such hashes",
        description="Hash guest memory, whole and block by block, as a manifest.",
        epilog=_EPILOG,
    )
    file_argument(parser, "image", metavar="IMAGE")
    parser.add_argument(
        "-a",
        "--algorithm",
        choices=("sha256", "sha512", "sha1", "md5", "blake3", "xxh3"),
        help="hash to use (default: sha256)",
    )
    parser.add_argument("--pages", action="store_true", help="hash each page, too")
    file_argument(parser, "--check", metavar="MANIFEST", help="compare with hashes printed earlier")
    output_options(parser, lines=True)
    scan_options(parser)
    common_options(parser)
    parser.set_defaults(run=run, failed=ExitCode.FAILED)


def run(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Print hashes as they are made, or whether they hold."""
    if args.check:
        if args.pages or args.algorithm or args.block:
            usage_error(args, "--check takes its manifest's algorithm, blocks and pages")
        return _check(args, ui)
    from savefmt.cli.render.hits import stream_json
    from savefmt.scan.hashes import hash_memory, manifest_lines

    algorithm = args.algorithm or "sha256"
    with ExitStack() as stack:
        try:
            image = stack.enter_context(savefmt.open(args.image, io=io_of(args)))
            hashes = hash_memory(
                image,
                algorithm,
                pages=args.pages,
                blocks=args.block,
                io=io_of(args),
                progress=stack.enter_context(ui.progress(args.image)),
            )
        except (SavefmtError, OSError) as error:
            ui.fail(error, args.image)
            return ExitCode.FAILED
        try:
            if ui.json:
                stream_json(args.output, "hashes", map(asdict, hashes))
            else:
                ui.say(manifest_lines(algorithm, hashes, pages=args.pages))
        except (SavefmtError, OSError) as error:
            if is_broken_pipe(error):
                raise
            ui.complain(error, args.image)
            return ExitCode.FAILED
    return ExitCode.GOOD


def _check(args: argparse.Namespace, ui: Ui) -> ExitCode:
    from savefmt.cli.render.hits import stream_json
    from savefmt.errors import FormatError
    from savefmt.scan.hashes import Manifest, check_manifest

    counts = Counter[bool | None]()

    def results() -> Iterator[tuple[str, bool | None]]:
        with (
            open(args.check, encoding="utf-8", errors="surrogateescape") as file,
            savefmt.open(args.image, io=io_of(args)) as image,
            ui.progress(args.image) as progress,
        ):
            try:
                manifest = Manifest(file)
                for result in check_manifest(image, manifest, io=io_of(args), progress=progress):
                    counts[result[1]] += 1
                    yield result
            except ValueError as error:
                if isinstance(error, SavefmtError):
                    raise
                raise FormatError(f"no manifest: {error}", path=args.check) from error

    try:
        if ui.json:
            stream_json(
                args.output,
                "checks",
                ({"label": label, "result": _WORDS[good].lower()} for label, good in results()),
            )
        else:
            ui.say(_told(results(), quiet=ui.quiet))
    except (SavefmtError, OSError) as error:
        if is_broken_pipe(error):
            raise
        ui.complain(error)
        return ExitCode.FAILED
    wrong = counts.total() - counts[True]
    if wrong:
        ui.remark(f"{args.image}: {wrong} of {counts.total()} hashes do not match")
    return ExitCode.DIFFERENT if wrong else ExitCode.GOOD


_WORDS = {True: "OK", False: "FAILED", None: "MISSING"}


def _told(results: Iterable[tuple[str, bool | None]], *, quiet: bool) -> Iterator[str]:
    """Leave out pages that are as they should be: there are too many."""
    for label, good in results:
        if not (good and (quiet or label.startswith("page:"))):
            yield f"{label}: {_WORDS[good]}"
