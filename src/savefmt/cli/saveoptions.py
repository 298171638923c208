"""Options that the commands about readers and about saving share."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from savefmt.cli.options import format_option
from savefmt.cli.parser import OnOff
from savefmt.errors import SavefmtError
from savefmt.frozen import replace

if TYPE_CHECKING:
    from savefmt.compat.config import Config
    from savefmt.compat.policy import SaveRequest
    from savefmt.compat.releases import Reader

# As in savefmt.compat.policy, which is too much to load for `savefmt --help`; a test
# compares the two.
SAVE_VERSIONS = ("3", "2", "upstream")
SAVE_FORMATS = ("auto", "raw", "gzip", "bzip2", "xz", "lzop", "zstd", "sparse")


def reader_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--for``."""
    parser.add_argument(
        "--for",
        dest="readers",
        type=_reader,
        action="append",
        default=[],
        metavar="PROGRAM=RELEASE",
        help="a program that must load the image, such as libvirt=9.0.0 or qemu=8.2.2; "
        "may be repeated",
    )


def _reader(text: str) -> Reader:
    from savefmt.compat.releases import Reader

    try:
        return Reader.parse(text)
    except SavefmtError as error:
        raise argparse.ArgumentTypeError(error.message) from error


def monitor_option(parser: argparse._ActionsContainer) -> None:
    """Add ``--qmp``."""
    parser.add_argument(
        "--qmp", dest="qmp", metavar="SOCKET", help="QMP control socket (UNIX) of a running QEMU"
    )


def binary_option(
    parser: argparse._ActionsContainer, help: str = "start this QEMU without a guest, and ask it"
) -> None:
    """Add ``--qemu-binary``."""
    parser.add_argument("--qemu-binary", dest="qemu_binary", metavar="PROGRAM", help=help)


def request_options(parser: argparse.ArgumentParser) -> None:
    """Add what asks for a form of a saved guest."""
    group = parser.add_argument_group("what to write (unset: as configured)")
    format_option(group, SAVE_FORMATS, help="format of the image; auto means sparse if possible")
    group.add_argument(
        "--save-version",
        choices=SAVE_VERSIONS,
        help="3: as proposed; 2: sequential; upstream: sparse, for a released libvirt",
    )
    channels_option(group)
    bypass_option(group)
    either = group.add_mutually_exclusive_group()
    either.add_argument(
        "--prefer",
        dest="missing",
        action="store_const",
        const="prefer",
        help="if something is not possible, do without it",
    )
    either.add_argument(
        "--require",
        dest="missing",
        action="store_const",
        const="require",
        help="if something is not possible, refuse",
    )
    reader_option(parser)


def channels_option(parser: argparse._ActionsContainer) -> None:
    """Add ``--parallel``."""
    parser.add_argument(
        "--parallel",
        type=_channels,
        metavar="N",
        help="number of channels with which QEMU reads or writes",
    )


def bypass_option(parser: argparse._ActionsContainer) -> None:
    """Add ``--bypass-cache``."""
    parser.add_argument(
        "--bypass-cache",
        action=OnOff,
        default=None,
        help="bypass the page cache, or do not",
    )


def ignore_option(parser: argparse._ActionsContainer) -> None:
    """Add ``--ignore``."""
    parser.add_argument(
        "--ignore",
        action="append",
        default=[],
        choices=("machine", "memory", "devices", "versions", "cpu"),
        metavar="KIND",
        help="accept a difference between QEMU and the guest: machine, memory, devices, versions "
        "or cpu; may be repeated",
    )


def _channels(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 9):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of channels")
    return int(text)


def request_of(args: argparse.Namespace, config: Config) -> SaveRequest:
    """Join what `request_options` parsed with the configuration.

    Where neither names a save version or a reader, the reader is this host's libvirt, if
    there is one.

    Parameters
    ----------
    args : argparse.Namespace
        The parsed command line.
    config : Config
        The settings.

    Returns
    -------
    SaveRequest
        For the policy.
    """
    request = config.request(
        save_version=args.save_version,
        format=args.format,
        parallel=args.parallel,
        bypass_cache=args.bypass_cache,
        missing=args.missing,
        readers=tuple(args.readers) or None,
    )
    if request.save_version is not None or request.readers:
        return request
    from savefmt.compat.host import installed_libvirt
    from savefmt.compat.releases import Reader

    release = installed_libvirt()
    return request if release is None else replace(request, readers=(Reader("libvirt", release),))
