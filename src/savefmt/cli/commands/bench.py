"""``savefmt bench``: what a disk gives for save images, and which settings to choose."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from savefmt.cli.codes import ExitCode
from savefmt.cli.options import (
    common_options,
    number,
    output_options,
    progress_options,
    threads_argument,
    window_argument,
    writing_options,
)
from savefmt.cli.parser import Commands, file_argument, usage_error
from savefmt.cli.render.document import Documents
from savefmt.cli.ui import Ui
from savefmt.errors import SavefmtError

if TYPE_CHECKING:
    from savefmt.bench.values import BenchReport

ENGINES = ("psync", "io_uring")
T = TypeVar("T")
PLOTS = (".png", ".svg", ".pdf")

_MODES = {"both": (True, False), "on": (True,), "off": (False,)}
_EPILOG = """\
In a folder, nameless files are written and read back: guest pages as QEMU's multifd
channels and savefmt move them, one stream as libvirt's helper writes it, and, where it
is installed, fio with the same block size and as many requests at once.  An image is
only read.

examples:
  savefmt bench /var/lib/libvirt/qemu/save
  savefmt bench /mnt --size 4G --threads 1,2,4,8 --window 1M,4M,16M --plot mnt.svg
  savefmt bench guest.save --direct on -j >before.json

exit codes: 0 measured, 1 failed, 64 wrong usage
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "bench",
        help="measure what a disk gives for save images",
        description="Measure how fast a disk takes and gives the pages of save images, and say\n"
        "which settings to choose.",
        epilog=_EPILOG,
    )
    file_argument(parser, "target", metavar="DIR|IMAGE")
    parser.add_argument(
        "--size", type=number, metavar="SIZE", help="bytes that each run moves (default: 1G)"
    )
    parser.add_argument(
        "--pattern",
        default="dense",
        metavar="dense|sparse|IMAGE",
        help="which pages of the made-up guest hold data; an image's: as it has them",
    )
    parser.add_argument(
        "--repeat", type=number, default=3, metavar="N", help="runs of each setting (default: 3)"
    )
    parser.add_argument("--fill", action="store_true", help="use the last 10 %% of the disk, too")
    _setting_options(parser)
    _output_options(parser)
    progress_options(parser)
    common_options(parser)
    parser.set_defaults(run=run, failed=ExitCode.FAILED, subject="target")


def _setting_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("settings, of which every combination is measured")
    group.add_argument(
        "-T",
        "--threads",
        type=_listed(threads_argument),
        default=(1, 2, 4),
        metavar="N,N...",
        help="worker threads (default: 1,2,4)",
    )
    group.add_argument(
        "--window",
        type=_listed(window_argument),
        default=(1 << 20, 4 << 20),
        metavar="SIZE,SIZE...",
        help="bytes that a thread moves at a time (default: 1M,4M)",
    )
    group.add_argument(
        "--direct",
        choices=tuple(_MODES),
        default="both",
        help="with the page cache, without it, or both (default)",
    )
    group.add_argument(
        "--engine",
        type=_listed(_engine),
        default=ENGINES[:1],
        metavar="NAME,NAME...",
        help="what moves the bytes: psync (default), io_uring",
    )


def _output_options(parser: argparse.ArgumentParser) -> None:
    output_options(parser, csv=True)
    file_argument(parser, "--plot", metavar="FILE", help="draw the rates: .png, .svg or .pdf")
    writing_options(parser, replaced="replace the file of --plot")
    file_argument(
        parser,
        "--baseline",
        metavar="FILE",
        help="compare with what --output=json printed earlier",
    )


def documents() -> Documents:
    """Return what ``-j`` prints."""
    from savefmt.bench.values import BenchReport

    return ({"bench": BenchReport}, {"amount": int})


def run(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Measure once."""
    _check(args)
    from savefmt.bench import amount, bench
    from savefmt.bench.baseline import load_baseline
    from savefmt.bench.plot import draw, require_matplotlib
    from savefmt.bench.values import BenchOptions
    from savefmt.writing.output import check_target

    if args.plot:
        require_matplotlib()
        check_target(args.plot, overwrite=args.force)
    baseline = load_baseline(args.baseline) if args.baseline else None
    options = BenchOptions(
        length=args.size or BenchOptions().length,
        threads=args.threads,
        windows=args.window,
        direct=_MODES[args.direct],
        engines=args.engine,
        pattern=args.pattern,
        repeat=args.repeat,
        fill=args.fill,
    )
    if args.dry_run:
        return _tell(amount(args.target, options), args, ui)
    with ui.progress(args.target) as progress:
        report = bench(args.target, options, baseline=baseline, progress=progress)
    _show(report, args.output, ui)
    try:
        if args.plot:
            draw(report, args.plot, overwrite=args.force)
    except (SavefmtError, OSError) as error:
        ui.complain(error, args.plot)  # the figures are out, and took their time
        return ExitCode.FAILED
    return ExitCode.GOOD


def _tell(moved: int, args: argparse.Namespace, ui: Ui) -> ExitCode:
    from savefmt.cli.render.plain import plain, size

    if ui.json:
        ui.document(amount=moved)
    else:
        ui.say([f"{plain(args.target)}: would move {size(moved)}"])
    return ExitCode.GOOD


def _show(report: BenchReport, output: str, ui: Ui) -> None:
    from savefmt.cli.render import bench as render_bench

    if output == "json":
        ui.document(bench=report)
    elif output == "csv":
        print(render_bench.csv_text(report), end="", flush=True)
    else:
        ui.say(render_bench.bench_lines(report))


def _check(args: argparse.Namespace) -> None:
    """Refuse what argparse cannot see to be wrong."""
    if args.plot and os.path.splitext(args.plot)[1] not in PLOTS:
        usage_error(args, f"--plot makes {', '.join(PLOTS)}; the name must end in one of them")
    if args.size is not None and args.size < 1 << 20:
        usage_error(args, "--size must be 1M at least")
    if not 1 <= args.repeat <= 1000:
        usage_error(args, "--repeat must be 1 to 1000")
    made_up = args.pattern in ("dense", "sparse")
    if args.size is not None and not made_up:
        usage_error(args, "--size does not go with the pattern of an image, which has its own")
    if os.path.isfile(args.target) and (args.size is not None or args.pattern != "dense"):
        usage_error(args, "--size and --pattern are for a folder; an image is read as it is")


def _engine(text: str) -> str:
    if text not in ENGINES:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(ENGINES)}")
    return text


def _listed(item: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    """Return a parser of one or more values with commas between them, each but once."""

    def parse(text: str) -> tuple[T, ...]:
        values = tuple(dict.fromkeys(item(word) for word in text.split(",")))
        if 0 in values:
            raise argparse.ArgumentTypeError("0 cannot be measured")
        return values

    return parse
