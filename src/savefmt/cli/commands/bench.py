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
In a folder, bench writes files without a name and reads them back.  It compares three ways:
pages in parallel, as QEMU's multifd channels and savefmt do it; one stream, as libvirt's
helper writes it; and fio, if it is installed, with the same block size and number of requests.
An image is only read.

examples:
  savefmt bench /var/lib/libvirt/qemu/save
  savefmt bench /mnt --size 4G --threads 1,2,4 --window 1M,4M --plot mnt.svg
  savefmt bench guest.save --direct on -j >before.json
  savefmt bench /mnt --window 4K,64K,1M --runtime 30 --fio-job mnt.fio
  savefmt bench --compare host-a.json host-b.json

exit codes: 0 measured, 1 failed, 64 wrong usage
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "bench",
        help="measure how fast a disk writes and reads save images",
        description="Measure how fast a disk writes and reads the pages of save images, and say\n"
        "which settings to choose.",
        epilog=_EPILOG,
    )
    file_argument(parser, "target", metavar="DIR|IMAGE", nargs="?")
    parser.add_argument(
        "--size", type=number, metavar="SIZE", help="bytes that each run moves (default: 1G)"
    )
    parser.add_argument(
        "--pattern",
        default="dense",
        metavar="dense|sparse|IMAGE",
        help="which pages of the invented guest have data; IMAGE: the same as in this image",
    )
    parser.add_argument(
        "--repeat",
        type=number,
        default=3,
        metavar="N",
        help="number of runs of each setting (default: 3)",
    )
    parser.add_argument(
        "--runtime",
        type=_seconds,
        default=0,
        metavar="SECONDS",
        help="repeat until each setting was measured that long, and say whether rates are steady",
    )
    parser.add_argument(
        "--jobs",
        type=_jobs,
        default=1,
        metavar="N",
        help="number of guests at the same time, each with its own file and threads (default: 1)",
    )
    parser.add_argument("--fill", action="store_true", help="also use the last 10 %% of the disk")
    _setting_options(parser)
    _output_options(parser)
    progress_options(parser)
    common_options(parser)
    parser.set_defaults(run=run, failed=ExitCode.FAILED, subject="target")


def _setting_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("settings (every combination is measured)")
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
        type=_listed(_window),
        default=(1 << 20, 4 << 20),
        metavar="SIZE,SIZE...",
        help="bytes that a thread moves at a time, from 4K on (default: 1M,4M)",
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
        help="how to read and write: psync (default), io_uring",
    )


def _output_options(parser: argparse.ArgumentParser) -> None:
    output_options(parser, csv=True)
    file_argument(parser, "--plot", metavar="FILE", help="draw the rates: .png, .svg or .pdf")
    file_argument(parser, "--fio-job", metavar="FILE", help="write a fio job that does the same")
    writing_options(parser, replaced="replace the files of --plot and --fio-job")
    file_argument(
        parser,
        "--baseline",
        metavar="FILE",
        help="compare with the output of an earlier --output=json",
    )
    file_argument(
        parser,
        "--compare",
        metavar=("A.json", "B.json"),
        nargs=2,
        help="measure nothing; compare the output of --output=json from two hosts",
    )


def documents() -> Documents:
    """Return what ``-j`` prints."""
    from savefmt.bench.values import BenchComparison, BenchReport

    return ({"bench": BenchReport}, {"amount": int}, {"comparison": BenchComparison})


def run(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Measure, or compare what was measured."""
    _check(args)
    if args.compare:
        return _compare(args, ui)
    from savefmt.bench import amount, bench, fio_job
    from savefmt.bench.baseline import load_baseline
    from savefmt.bench.plot import draw, require_matplotlib
    from savefmt.bench.values import BenchOptions
    from savefmt.writing.output import check_target

    if args.plot:
        require_matplotlib()
        check_target(args.plot, overwrite=args.force)
    if args.fio_job:
        check_target(args.fio_job, overwrite=args.force)
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
        runtime=args.runtime,
        jobs=args.jobs,
    )
    if args.dry_run:
        return _tell(amount(args.target, options), args, ui)
    if args.fio_job:
        _write(args.fio_job, fio_job(args.target, options), args.force)
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
        least = " at least" if args.runtime else ""
        ui.say([f"{plain(args.target)}: would move {size(moved)}{least}"])
    return ExitCode.GOOD


def _compare(args: argparse.Namespace, ui: Ui) -> ExitCode:
    from savefmt.bench.comparing import compare_reports
    from savefmt.cli.render import bench as render_bench

    comparison = compare_reports(*args.compare)
    if args.output == "json":
        ui.document(comparison=comparison)
    elif args.output == "csv":
        print(render_bench.comparison_csv(comparison), end="", flush=True)
    else:
        ui.say(render_bench.comparison_lines(comparison))
    return ExitCode.GOOD


def _write(path: str, text: str, overwrite: bool) -> None:
    from savefmt.writing.output import OutputFile

    with OutputFile(path, overwrite=overwrite) as out:
        out.file.write(text.encode(), 0)
        out.commit(warn=True)


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
    if bool(args.target) == bool(args.compare):
        usage_error(args, "name what to measure, or two reports to --compare")
    if args.compare:
        return
    if args.plot and os.path.splitext(args.plot)[1] not in PLOTS:
        usage_error(args, f"--plot makes {', '.join(PLOTS)}; the name must end in one of them")
    if args.size is not None and args.size < 1 << 20:
        usage_error(args, "--size must be 1M at least")
    if not 1 <= args.repeat <= 1000:
        usage_error(args, "--repeat must be 1 to 1000")
    made_up = args.pattern in ("dense", "sparse")
    if args.size is not None and not made_up:
        usage_error(args, "--size does not go with the pattern of an image, which has its own")
    of_folders = args.size is not None or args.pattern != "dense" or args.jobs > 1
    if os.path.isfile(args.target) and of_folders:
        usage_error(args, "--size, --pattern, --jobs are for a folder; an image is read as it is")


def _engine(text: str) -> str:
    if text not in ENGINES:
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(ENGINES)}")
    return text


def _whole(text: str, least: int, most: int, unit: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 8 and least <= int(text) <= most):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of {unit} from {least} to {most}"
        )
    return int(text)


def _seconds(text: str) -> int:
    return _whole(text, 0, 86400, "seconds")


def _jobs(text: str) -> int:
    return _whole(text, 1, 64, "guests")


def _window(text: str) -> int:
    length = number(text)
    if not 4096 <= length <= 64 << 20 or length.bit_count() != 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a power of 2 from 4K to 64M")
    return length


def _listed(item: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    """Return a parser of one or more values with commas between them, each but once."""

    def parse(text: str) -> tuple[T, ...]:
        values = tuple(dict.fromkeys(item(word) for word in text.split(",")))
        if 0 in values:
            raise argparse.ArgumentTypeError("0 cannot be measured")
        return values

    return parse
