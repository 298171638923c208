"""Options that several commands share; each command declares its own options in its module."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from savefmt.cli.parser import OnOff, file_argument, usage_error
from savefmt.cli.salvageoptions import salvage_options, salvage_parts
from savefmt.model import ENGINES, IOOptions

Outputs = Callable[[argparse.Namespace], Sequence[str | None]] | None
_PLACES_LIMIT = 1 << 20
"""Characters of a file of places that are read."""


def common_options(parser: argparse.ArgumentParser, *, top: bool = False) -> None:
    """Add what every command understands, before or after its name.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        The parser of ``savefmt`` itself or of one command.
    top : bool
        Set the defaults; a command's own parser must not undo options that stand before the
        command.
    """
    group = parser.add_argument_group("common options")
    unset = argparse.SUPPRESS
    group.add_argument(
        "-q",
        "--quiet",
        action="store_true",
        default=False if top else unset,
        help="print errors only",
    )
    group.add_argument(
        "-v",
        "--verbose",
        action="count",
        default=0 if top else unset,
        help="say more; -vv adds a traceback to errors",
    )
    group.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto" if top else unset,
        help="use colour; auto follows NO_COLOR, FORCE_COLOR and TERM",
    )


def source_options(
    parser: argparse.ArgumentParser,
    *names: str,
    also: Sequence[str] = (),
    apart: Mapping[str, str] | None = None,
    writes: Outputs = None,
    damaged: bool = True,
) -> None:
    """Add what tells where in a file an image is, and ``--case-notes``.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        The command's parser.
    *names : str
        The arguments that name images.
    apart : mapping of str to str, optional
        Arguments that get options of their own, and what these begin with.
    also, writes
        As for `evidence_options`.
    damaged : bool
        Offer to read what is left of a damaged image.
    """
    evidence_options(parser, *names, *also, writes=writes)
    _source_group(parser.add_argument_group("where the image is"), "")
    for label in (apart or {}).values():
        _source_group(parser.add_argument_group(f"where {label.upper()} alone is"), f"{label}-")
    parser.set_defaults(sources=names, apart=apart or {})
    parser.set_defaults(salvage=False, bad=None, lost=None, unproven=False, tell_lost=True)
    if damaged:
        group = parser.add_argument_group("a damaged image")
        group.add_argument(
            "--salvage",
            action="store_true",
            help="read what can be read of a file that is cut short, damaged or on a failing disk",
        )
        salvage_options(group)


def _source_group(group: argparse._ArgumentGroup, prefix: str) -> None:
    one = group.add_mutually_exclusive_group()
    one.add_argument(
        f"--{prefix}snapshot",
        metavar="NAME",
        help="name or ID of a snapshot in a qcow2 disk image; the same as disk.qcow2:NAME",
    )
    one.add_argument(
        f"--{prefix}offset",
        type=number,
        default=0,
        metavar="N",
        help="offset in the file at which the image begins (default: 0)",
    )
    group.add_argument(
        f"--{prefix}shared",
        type=shared_argument,
        action="append",
        default=[],
        metavar="BLOCK=FILE",
        help="file with a RAM block that the image does not contain (x-ignore-shared); "
        "may be repeated",
    )


def evidence_options(parser: argparse.ArgumentParser, *names: str, writes: Outputs = None) -> None:
    """Add ``--case-notes``, for every command that reads an image.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        The command's parser.
    *names : str
        The arguments that name images.
    writes : callable, optional
        Returns the files and folders that the command writes, of its parsed arguments.
    """
    group = parser.add_argument_group("case notes")
    file_argument(
        group,
        "--case-notes",
        metavar="FILE",
        help="add a line to FILE: this command, when and where it ran, and the SHA-256 of what "
        "it read and wrote",
    )
    parser.set_defaults(evidence=names, writes=writes or (lambda args: []))


def take_sources(args: argparse.Namespace) -> None:
    """Put what `source_options` parsed in the place of the paths that it belongs to."""
    salvage = salvage_parts(args)
    apart: Mapping[str, str] = getattr(args, "apart", {})
    for name in {**dict.fromkeys(getattr(args, "sources", ())), **apart}:
        parts = _source_parts(args, f"{apart[name]}_") if name in apart else None
        if parts is None and name in args.sources:
            parts = _source_parts(args, "") or ((None, 0, ()) if salvage else None)
        if parts is None:
            continue
        value = getattr(args, name)
        if value is None:
            usage_error(args, f"--{apart[name]}-snapshot, -offset and -shared go with --{name}")
        from savefmt.reading.source import Source

        paths = value if isinstance(value, list) else [value]
        rest = salvage if name in args.sources else ()
        found = [Source(path, *parts, *rest) for path in paths]
        setattr(args, name, found if isinstance(value, list) else found[0])


def _source_parts(
    args: argparse.Namespace, prefix: str
) -> tuple[str | None, int, tuple[tuple[str, str], ...]] | None:
    """Return what was said of one image, None where nothing was."""
    snapshot, offset, shared = (
        getattr(args, prefix + name) for name in ("snapshot", "offset", "shared")
    )
    if len(dict(shared)) != len(shared):
        usage_error(args, "--shared names a block twice")
    if snapshot is None and not offset and not shared:
        return None
    return snapshot, offset, tuple(shared)


def output_options(
    parser: argparse.ArgumentParser, *, lines: bool = False, csv: bool = False
) -> None:
    """Add ``--output`` and ``-j``.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        The command's parser.
    lines : bool
        Offer ``jsonl``, one JSON object per line, too.
    csv : bool
        Offer ``csv``, too.
    """
    kinds = ("human", "json", *(["jsonl"] if lines else []), *(["csv"] if csv else []))
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--output", choices=kinds, default="human", help="how to print the result")
    group.add_argument(
        "-j", dest="output", action="store_const", const="json", help="short for --output=json"
    )


def format_option(
    parser: argparse._ActionsContainer,
    formats: Sequence[str],
    *,
    default: str | None = None,
    help: str,
    aliases: Sequence[str] = ("--format",),
) -> None:
    """Add ``-O``, which names what to write.

    Parameters
    ----------
    parser : argparse.ArgumentParser or argument group
        Where to add it.
    formats : sequence of str
        What there is.
    default : str, optional
        What is taken without it.
    help : str
        What it does.
    aliases : sequence of str
        Older names, which the help leaves out.
    """
    parser.add_argument("-O", dest="format", choices=formats, default=default, help=help)
    parser.add_argument(
        *aliases,
        dest="format",
        choices=formats,
        default=argparse.SUPPRESS,
        help=argparse.SUPPRESS,
    )


def writing_options(parser: argparse._ActionsContainer, *, replaced: str = "") -> None:
    """Add ``-n`` and ``-F``, for commands that write a file.

    Parameters
    ----------
    parser : argparse.ArgumentParser or argument group
        Where to add them.
    replaced : str
        What ``-F`` does; a command that changes the image itself replaces nothing else.
    """
    parser.add_argument("-n", "--dry-run", action="store_true", help="only say what would happen")
    if replaced:
        parser.add_argument("-F", "--force", action="store_true", help=replaced)


def scan_options(parser: argparse.ArgumentParser) -> None:
    """Add blocks, threads, direct I/O and progress, for commands that scan guest memory.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        The command's parser.
    """
    block_options(parser)
    group = parser.add_argument_group("reading")
    speed_options(group)
    progress_options(group)


def speed_options(group: argparse._ActionsContainer) -> None:
    """Add ``--threads`` and ``--direct``.

    Parameters
    ----------
    group : argparse.ArgumentParser or argument group
        Where to add them.
    """
    threads_option(group)
    group.add_argument(
        "--direct",
        action=OnOff,
        help="bypass the page cache if the file system supports it",
    )


def io_options(parser: argparse.ArgumentParser) -> None:
    """Add threads, direct I/O and progress, for commands that read a whole image.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        The command's parser.
    """
    group = parser.add_argument_group("reading and writing")
    speed_options(group)
    group.add_argument(
        "--window",
        type=window_argument,
        default=IOOptions().window,
        metavar="SIZE",
        help="bytes that a thread moves at a time, 1M to 64M, a power of 2 (default: 2M)",
    )
    group.add_argument(
        "--engine",
        choices=ENGINES,
        default=ENGINES[0],
        help="how to read and write (default: auto, io_uring if the kernel permits it)",
    )
    progress_options(group)


def clone_option(parser: argparse._ActionsContainer) -> None:
    """Add ``--no-clone``, for commands whose target may share pages with the image.

    Parameters
    ----------
    parser : argparse.ArgumentParser or argument group
        Where to add it.
    """
    parser.add_argument(
        "--no-clone",
        dest="clone",
        action="store_false",
        help="copy pages even if the file system could share them with the source",
    )


def threads_option(parser: argparse._ActionsContainer) -> None:
    """Add ``-T``.

    Parameters
    ----------
    parser : argparse.ArgumentParser or argument group
        Where to add it.
    """
    parser.add_argument(
        "-T",
        "--threads",
        type=threads_argument,
        default=0,
        metavar="N",
        help="worker threads, 1 to 64; 0 (default) means one per usable core, at most 8",
    )


def progress_options(parser: argparse._ActionsContainer) -> None:
    """Add ``-p`` and ``--progress``.

    Parameters
    ----------
    parser : argparse.ArgumentParser or argument group
        Where to add them.
    """
    parser.add_argument("-p", dest="show_progress", action="store_true", help="show progress")
    parser.add_argument(
        "--progress",
        dest="progress_fd",
        type=_descriptor,
        metavar="FD",
        help="write progress to this file descriptor, one line N/100 per percent",
    )


def io_of(args: argparse.Namespace) -> IOOptions:
    """Gather what `io_options` parsed.

    Parameters
    ----------
    args : argparse.Namespace
        The parsed command line.

    Returns
    -------
    IOOptions
        For the library.
    """
    given = {
        name: getattr(args, name) for name in ("window", "engine", "clone") if hasattr(args, name)
    }
    return IOOptions(threads=args.threads, direct=args.direct, **given)


def number(text: str) -> int:
    """Read an address or a length: decimal, ``0x``, or with a unit K, M, G or T."""
    match = re.fullmatch(r"(0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20})([KMGT]?)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at most 64 bits")
    digits, unit = match.groups()
    value = int(digits, 16 if digits[:2] in ("0x", "0X") else 10)
    value <<= 10 * " KMGT".index(unit or " ")
    if value >> 64:
        raise argparse.ArgumentTypeError(f"{text} has more than 64 bits")
    return value


def cpu_options(parser: argparse._ActionsContainer) -> None:
    """Add what chooses page tables.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        The command's parser.
    """
    parser.add_argument(
        "--cpu", type=number, metavar="N", help="use this vCPU's page tables (default: the first)"
    )
    parser.add_argument(
        "--cr3",
        type=number,
        metavar="ADDRESS",
        help="use this page table root instead of the vCPU's own (Arm: TTBR0)",
    )


def place_option(parser: argparse._ActionsContainer) -> None:
    """Add ``--place``, for commands that need addresses: ``args.place`` maps blocks to them.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        The command's parser.
    """
    parser.add_argument(
        "--place",
        type=place_argument,
        action=_Places,
        default={},
        metavar="BLOCK=ADDRESS",
        help="use this address for a RAM block, whatever the image says; may be repeated; "
        "@FILE reads a file with one per line",
    )


class _Places(argparse.Action):
    """Collects what each ``--place`` says; no block may be named twice."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        known: dict[str, int] = getattr(namespace, self.dest)
        try:
            setattr(namespace, self.dest, _with_places(known, values))
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentError(self, str(error)) from error


def _with_places(known: dict[str, int], more: dict[str, int]) -> dict[str, int]:
    for block in more:
        if block in known:
            raise argparse.ArgumentTypeError(f"{block!r} is named twice")
    return known | more


def place_argument(text: str) -> dict[str, int]:
    """Parse ``BLOCK=ADDRESS``, or the lines of ``@FILE``, as an option's type."""
    if not text.startswith("@"):
        block, equals, address = text.rpartition("=")
        if not equals or not block:
            raise argparse.ArgumentTypeError(f"{text!r} is not of the form BLOCK=ADDRESS")
        return {block: number(address)}
    try:
        with open(text[1:], encoding="utf-8") as file:
            lines = file.read(_PLACES_LIMIT + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise argparse.ArgumentTypeError(f"{text[1:]!r} cannot be read: {error}") from error
    if len(lines) > _PLACES_LIMIT:
        raise argparse.ArgumentTypeError(f"{text[1:]!r} is too long for a file of places")
    places: dict[str, int] = {}
    for line in map(str.strip, lines.splitlines()):
        if line.startswith("@"):
            raise argparse.ArgumentTypeError(f"{text[1:]!r} names another file: {line!r}")
        if line and not line.startswith("#"):
            places = _with_places(places, place_argument(line))
    return places


def process_options(parser: argparse._ActionsContainer) -> None:
    """Add what chooses processes of a Linux guest, instead of all memory.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        The command's parser.
    """
    parser.add_argument(
        "--pid",
        action="append",
        type=number,
        metavar="N",
        help="search the memory of this process of a Linux guest, by its own addresses; "
        "may be repeated",
    )
    parser.add_argument(
        "--each-process", action="store_true", help="search the memory of each process"
    )


def processes_of(args: argparse.Namespace) -> list[int] | None:
    """Return which processes were asked for: none means each, None means all of memory."""
    pids: list[int] | None = args.pid
    if args.each_process:
        if pids:
            usage_error(args, "--each-process and --pid exclude each other")
        return []
    return pids


def index_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--index``, for commands that read single places of an image.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        The command's parser.
    """
    file_argument(
        parser,
        "--index",
        metavar="FILE",
        help="keep the index of a sequential image in FILE, so only the first command reads the "
        "whole image; `auto` means a file in the cache folder",
    )


def shared_argument(text: str) -> tuple[str, str]:
    """Parse ``BLOCK=FILE``, as an option's type."""
    block, equals, path = text.partition("=")
    if not block or not equals or not path:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form BLOCK=FILE")
    return block, path


def window_argument(text: str) -> int:
    """Parse the size of a window, as an option's type."""
    try:
        return IOOptions(window=number(text)).window
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def threads_argument(text: str) -> int:
    """Parse a number of threads, as an option's type."""
    if not (text.isascii() and text.isdigit() and len(text) < 8 and int(text) <= 64):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 64")
    return int(text)


def _descriptor(text: str) -> int:
    """Take a copy of a descriptor at once: a file that we open may not become what it means."""
    import fcntl

    if not (text.isascii() and text.isdigit() and len(text) < 8):
        raise argparse.ArgumentTypeError(f"{text!r} is not a file descriptor")
    try:
        copy = fcntl.fcntl(int(text), fcntl.F_DUPFD_CLOEXEC, 3)
        access = fcntl.fcntl(copy, fcntl.F_GETFL) & os.O_ACCMODE
    except OSError as error:
        raise argparse.ArgumentTypeError(f"descriptor {text}: {error.strerror}") from error
    if access == os.O_RDONLY:
        raise argparse.ArgumentTypeError(f"descriptor {text} is not open for writing")
    return copy


def block_options(parser: argparse._ActionsContainer) -> None:
    """Add what chooses RAM blocks.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        The command's parser.
    """
    parser.add_argument(
        "--block",
        action="append",
        metavar="NAME",
        help="use only this RAM block; may be repeated",
    )


def refuse_mixing(args: argparse.Namespace) -> None:
    """Refuse other output on standard output if the image goes there.

    Parameters
    ----------
    args : argparse.Namespace
        Of a command with `output_options`, `progress_options` and `writing_options`.
    """
    if args.output == "json":
        usage_error(args, "--output=json and the image both want standard output")
    if sys.stdout is None:
        return
    if args.progress_fd is not None and _same_file(args.progress_fd, 1):
        usage_error(args, "--progress and the image both want standard output")
    if not args.force and sys.stdout.isatty():
        usage_error(args, "standard output is a terminal; -F writes the image there anyway")


def _same_file(one: int, other: int) -> bool:
    try:
        return os.path.sameopenfile(one, other)
    except OSError:
        return False
