"""``savefmt read``: memory by address."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import savefmt
from savefmt.cli.codes import ExitCode
from savefmt.cli.options import (
    common_options,
    cpu_options,
    index_option,
    number,
    place_option,
    progress_options,
    source_options,
)
from savefmt.cli.parser import Commands, file_argument, usage_error
from savefmt.cli.ui import Ui
from savefmt.errors import AddressError

if TYPE_CHECKING:
    from savefmt.image import SaveImage

PIECE_LENGTH = 1 << 20

_EPILOG = """\
Addresses and lengths are decimal or 0x..., and can have the units K, M, G and T.

exit codes: 0 success, 1 failed (if memory ends, what comes before is printed),
64 wrong usage
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "read",
        help="print memory at an address",
        description="Print guest memory as `hexdump -C` does, or as bytes.",
        epilog=_EPILOG,
    )
    file_argument(parser, "image", metavar="IMAGE")
    parser.add_argument("address", type=number, metavar="ADDRESS")
    parser.add_argument("length", type=number, metavar="LENGTH")
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument(
        "--physical", action="store_true", help="ADDRESS is a guest-physical address"
    )
    group.add_argument("--virtual", action="store_true", help="ADDRESS is a virtual address")
    group.add_argument("--block", metavar="NAME", help="ADDRESS is an offset in this RAM block")
    cpu_options(parser)
    parser.add_argument("--raw", action="store_true", help="write bytes, not text")
    place_option(parser)
    index_option(parser)
    progress_options(parser)
    source_options(parser, "image")
    common_options(parser)
    parser.set_defaults(run=run, failed=ExitCode.FAILED)


def run(args: argparse.Namespace, ui: Ui) -> ExitCode:
    """Print memory, piece by piece."""
    if not args.virtual and (args.cpu is not None or args.cr3 is not None):
        usage_error(args, "--cpu and --cr3 go with --virtual")
    if args.raw and sys.stdout is not None and sys.stdout.isatty():
        usage_error(args, "standard output is a terminal, and --raw writes binary data")
    from savefmt.cli.render.read import hexdump

    with (
        savefmt.open(args.image, index=args.index, places=args.place) as image,
        image.file.unchanged(),
    ):
        ui.prepare(image)
        lost = _LostBytes(image, args) if image.rescue is not None else None
        pieces = _pieces(_reader(image, args), args.address, args.length)
        if args.raw:
            for data in pieces:
                sys.stdout.buffer.write(data)
        else:
            ui.say(hexdump(pieces, args.address, lost.among if lost is not None else None))
    return ExitCode.GOOD


class _LostBytes:
    """Tells which bytes by the addresses asked for are lost of a damaged image."""

    def __init__(self, image: SaveImage, args: argparse.Namespace) -> None:
        self._image = image
        self._args = args

    def among(self, address: int, length: int) -> list[tuple[int, int]]:
        """Return stretches of addresses, from their first to behind their last."""
        rescue = self._image.rescue
        assert rescue is not None
        found = []
        for at, block, offset, count in self._pieces(address, length):
            for first, end in rescue.lost_bytes(block, offset, count):
                found.append((at + first - offset, at + end - offset))
        return found

    def _pieces(self, address: int, length: int) -> Iterator[tuple[int, str, int, int]]:
        """Yield parts of the addresses: where, in which block, at which offset, how many."""
        args, guest = self._args, self._image.guest
        if args.block is not None:
            yield address, args.block, address, length
            return
        parts = [(address, length)]
        if args.virtual:
            parts = list(guest.space(args.cpu, args.cr3).pieces(address, length))
        at = address
        for physical, part in parts:
            for found, offset, count in guest.physical.pieces(physical, part):
                yield at, found.block, offset, count
                at += count


def _reader(image: SaveImage, args: argparse.Namespace) -> Callable[[int, int], bytes]:
    if args.physical:
        return image.guest.physical.read
    if args.virtual:
        return image.guest.space(args.cpu, args.cr3).read
    known = {block.idstr: block.used_length for block in image.head.blocks.blocks}
    if args.block not in known:
        raise AddressError(f"the image has no RAM block {args.block!r}; it has: {', '.join(known)}")

    def read(offset: int, length: int) -> bytes:
        if offset + length > known[args.block]:
            raise AddressError(f"the RAM block {args.block!r} ends at {known[args.block]:#x}")
        return image.memory.read(args.block, offset, length)

    return read


def _pieces(read: Callable[[int, int], bytes], address: int, length: int) -> Iterator[bytes]:
    """Yield the bytes of a range, as far as they can be read before an error."""
    end = address + length
    step = PIECE_LENGTH
    while address < end:
        count = min(step - address % step, end - address)
        try:
            data = read(address, count)
        except AddressError:
            if step == 1:
                raise
            step >>= 4  # so that all before the hole gets printed
            continue
        yield data
        address += count
