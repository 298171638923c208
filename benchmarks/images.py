"""Make guests of any size for benchmarks and tests: real device state, made-up memory."""

from __future__ import annotations

import argparse
import itertools
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import savefmt
from savefmt import Layout
from savefmt.format.mappedram import encode_bitmap, place_all
from savefmt.format.ram import pack_block_entry, pack_word
from savefmt.format.stream import STREAM_HEADER
from savefmt.format.wire import RamFlag
from savefmt.image import SaveImage

PATTERNS = ("dense", "alternate", "scattered")
_PAGE = 4096
_BATCH = 1024  # pages made at a time
_POOL = 4096  # different pages
_WORDS = (
    b"the of and to in is that for it as was with be by on not he his but at are this have from"
    b" inode mount bridge domain page block memory device driver kernel module thread table"
).split()


def page_numbers(pattern: str, pages: int, data_pages: int) -> Iterator[range]:
    """Yield which pages hold data, as ranges with a step.

    ``dense`` is one run, ``alternate`` every other page, ``scattered`` lone pages far
    apart, as far as the guest is large enough.
    """
    if pattern == "dense":
        yield range(data_pages)
    elif pattern == "alternate":
        yield range(0, min(2 * data_pages, pages), 2)
    else:
        step = max(pages // max(data_pages, 1), 1)
        yield range(0, step * data_pages, step)


def page_contents(seed: int, compressible: bool) -> Iterator[bytes]:
    """Yield pages without end: random bytes, or a mix that a codec halves.

    Content comes again after 16 MiB, farther back than zstd and gzip look by default.
    """
    dice = random.Random(seed)
    make = _mixed_page if compressible else random.Random.randbytes
    pool = [make(dice, _PAGE) for _ in range(_POOL)]
    for number in itertools.count():
        yield number.to_bytes(8, "little") + pool[number % _POOL][8:]


def _mixed_page(dice: random.Random, length: int) -> bytes:
    """Make what memory is full of: noise, kernel pointers, words, small numbers."""
    quarter = length // 4
    pointers = (b"%b\x88\x88\xff\xff" % dice.randbytes(4) for _ in range(quarter // 8))
    words = b" ".join(dice.choices(_WORDS, k=quarter // 4))[:quarter]
    numbers = bytes(
        itertools.chain.from_iterable((n, 0, 0, 0) for n in dice.randbytes(quarter // 4))
    )
    page = dice.randbytes(quarter) + b"".join(pointers) + words + numbers
    return page.ljust(length, b"\0")


def make_mapped(
    template: Path,
    target: Path,
    *,
    ram: int,
    data: int,
    pattern: str = "dense",
    compressible: bool = False,
) -> None:
    """Write a mapped-ram image with `ram` bytes of memory, `data` of them not zero.

    Parameters
    ----------
    template : Path
        A small mapped-ram image: gives machine, envelope, devices and other blocks.
    target : Path
        The new image.
    ram, data : int
        Bytes.
    pattern : str
        One of `PATTERNS`.
    compressible : bool
        Whether a codec can do anything with the pages.
    """
    with SaveImage(template) as image, open(target, "wb", opener=_private) as out:
        listed = image.head.blocks.blocks
        main = max(listed, key=lambda block: block.used_length)
        sizes = [ram if block is main else block.used_length for block in listed]
        configuration = image.head.configuration
        start_of_ram = image.head.ram
        if configuration is None or not image.head.mapped or start_of_ram is None:
            raise SystemExit("the template must be a mapped-ram image")
        if image.envelope is not None:
            out.write(image.envelope.pack())
        out.write(STREAM_HEADER + configuration.pack())
        start = configuration.offset + configuration.length
        out.write(image.file.read(start_of_ram.offset - start, start))
        out.write(start_of_ram.pack() + pack_word(sum(sizes), RamFlag.MEM_SIZE))
        blocks = [_Sized(block.name, size) for block, size in zip(listed, sizes, strict=True)]
        places = place_all(blocks, out.tell(), _PAGE)
        for block, old, pages, place in zip(
            blocks, listed, image.mapped.pages, places, strict=True
        ):
            out.seek(place.entry_offset)
            out.write(pack_block_entry(block.name, block.used_length, header=place.header))
            bitmap = pages.bitmap
            if old is main:
                bitmap = _fill(out, place.pages_offset, ram, data, pattern, compressible)
            else:
                for run in image.memory.runs(old.idstr):
                    out.seek(place.pages_offset + run.first * _PAGE)
                    out.write(image.memory.read(old.idstr, run.first * _PAGE, run.count * _PAGE))
            out.seek(place.bitmap_offset)
            out.write(encode_bitmap(bytes(bitmap)))
        out.seek(places[-1].next_offset)
        out.write(image.file.read(image.length - image.mapped.list_end, image.mapped.list_end))


class _Sized:
    guest_address = None

    def __init__(self, name: bytes, used_length: int) -> None:
        self.name = name
        self.used_length = used_length


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _fill(out, offset: int, ram: int, data: int, pattern: str, compressible: bool) -> bytearray:  # type: ignore[no-untyped-def]
    bitmap = bytearray((ram // _PAGE + 63) // 64 * 8)
    contents = page_contents(1, compressible)
    for numbers in page_numbers(pattern, ram // _PAGE, data // _PAGE):
        for first in range(0, len(numbers), _BATCH):
            batch = numbers[first : first + _BATCH]
            for number in batch:
                bitmap[number >> 3] |= 1 << (number & 7)
            if batch.step == 1:
                out.seek(offset + batch[0] * _PAGE)
                out.write(b"".join(itertools.islice(contents, len(batch))))
                continue
            for number in batch:
                out.seek(offset + number * _PAGE)
                out.write(next(contents))
    return bitmap


def main() -> int:
    """Command line: make one image, in any form."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("template", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--ram", type=int, default=1 << 30)
    parser.add_argument("--data", type=int, default=1 << 28)
    parser.add_argument("--pattern", choices=PATTERNS, default="dense")
    parser.add_argument("--compressible", action="store_true")
    parser.add_argument("--codec", help="make a sequential image with this codec instead")
    args = parser.parse_args()
    options = {
        "ram": args.ram,
        "data": args.data,
        "pattern": args.pattern,
        "compressible": args.compressible,
    }
    if args.codec is None:
        make_mapped(args.template, args.target, **options)
        return 0
    between = args.target.with_name(args.target.name + ".mapped")
    make_mapped(args.template, between, **options)
    try:
        savefmt.convert(
            between, args.target, layout=Layout.SEQUENTIAL, codec=args.codec, overwrite=True
        )
    finally:
        between.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
