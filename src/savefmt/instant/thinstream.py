"""The stream without the pages that QEMU maps itself."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from savefmt.convert.frommapped import SequentialForm
from savefmt.format.ram import ZERO_FILL, pack_word
from savefmt.format.thin import ThinMark
from savefmt.format.wire import RamFlag
from savefmt.image import SaveImage
from savefmt.model import IOOptions
from savefmt.native.allocated import stale_runs
from savefmt.native.jobs import Emitter
from savefmt.native.pages import BlockPages

_STATE = "globalstate"
_STATE_LENGTH = 4 + 100
"""Length of the name of a run state, and room for the name."""


def thin_stream(
    image: SaveImage,
    mapped: Collection[str],
    io: IOOptions,
    *,
    names: Mapping[str, str] | None = None,
    mark: ThinMark | None = None,
    wake: bool = False,
) -> Iterator[bytes | memoryview]:
    """Yield the sequential form of an image, without records for blocks that are mapped.

    What QEMU is told nothing of stays what it mapped.  Stale pages must be told: their
    bits are clear, so they are zeros, and the file has old bytes there.

    Parameters
    ----------
    image : SaveImage
        A mapped-ram one.
    mapped : collection of str
        Idstrs of the blocks that QEMU maps.
    io : IOOptions
        How the pages of the others are read.
    names : mapping of str to str, optional
        Other names for some blocks.
    mark : ThinMark, optional
        For a stream that is kept: where its memory lies.
    wake : bool
        For a stream that is kept: have QEMU run the guest by itself once it is loaded.

    Yields
    ------
    bytes or memoryview
        Each valid until the next is asked for.
    """
    renamed = names or {}
    wire = {
        block.name: renamed[block.idstr].encode()
        for block in image.head.blocks.blocks
        if block.idstr in renamed
    }
    own: list[BlockPages] = []
    others: list[BlockPages] = []
    for block, pages in zip(image.head.blocks.blocks, image.mapped.pages, strict=True):
        if block.ignored:
            continue
        name = wire.get(pages.name, pages.name)
        same = BlockPages(name, pages.count, pages.page_size, pages.offset, pages.bitmap)
        (own if block.idstr in mapped else others).append(same)
    patches = _waking(image) if wake else ()
    for piece in SequentialForm(image, names=wire, mark=mark, patches=patches).pieces():
        if piece is not None:
            yield piece
            continue
        for pages in own:
            yield from _stale_records(image, pages)
        yield from Emitter(image.file, others, None).chunks(io)


def _waking(image: SaveImage) -> tuple[tuple[int, bytes], ...]:
    """Return what makes the stream say that the guest ran: who saves a guest holds it first."""
    for section in image.sections or ():
        if section.idstr == _STATE and section.offset and section.length == _STATE_LENGTH:
            name = b"running\0"
            return ((section.offset, len(name).to_bytes(4, "big") + name.ljust(100, b"\0")),)
    return ()


def _stale_records(image: SaveImage, pages: BlockPages) -> Iterator[bytes]:
    """Yield a record of zeros for each stale page."""
    named = False
    for run in stale_runs(image.file, pages):
        records = bytearray()
        for page in range(run.first, run.first + run.count):
            address = page * pages.page_size
            if named:
                word = pack_word(address, RamFlag.ZERO | RamFlag.CONTINUE)
                records += word + ZERO_FILL
            else:
                head = pack_word(address, RamFlag.ZERO) + bytes([len(pages.name)]) + pages.name
                records += head + ZERO_FILL
                named = True
        yield bytes(records)
