"""A memory dump, shown as a mapped-ram stream of RAM alone.

A temporary file holds what is around the page areas; the page areas stay in the dump. A reader
of the view need not know this, and finds a block for each stretch of guest-physical addresses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from savefmt.errors import CorruptError, UnsupportedError
from savefmt.format import ram
from savefmt.format.configuration import MAPPED_RAM, Configuration
from savefmt.format.mappedram import place_all
from savefmt.format.ram import ListedBlock, pack_block_entry, pack_word
from savefmt.format.stream import STREAM_HEADER, SectionHead
from savefmt.format.wire import ItemType, RamFlag
from savefmt.frozen import dataclass
from savefmt.model import IOOptions, StrPath
from savefmt.native.allocated import set_bits
from savefmt.native.file import File, View
from savefmt.reading.spool import Spool

PAGE_SIZE = 4096
"""The page size of the blocks, which may differ from the guest's."""
_LEAST_BLOCKS = 1024
_BYTES_A_BLOCK = 256 << 10
"""A dump may have more gaps the longer it is: what is shown takes memory for each of them."""

_SECTION_ID = 2


@dataclass(frozen=True, slots=True)
class Stretch:
    """Guest-physical memory that is in one piece in a dump.

    Attributes
    ----------
    address : int
        Guest-physical.
    length : int
        Bytes.
    offset : int
        In the file.
    """

    address: int
    length: int
    offset: int

    @property
    def end(self) -> int:
        """The first address behind it."""
        return self.address + self.length


@dataclass(frozen=True, slots=True)
class Vcpus:
    """Notes that QEMU puts into the ELF core of an x86 guest.

    Attributes
    ----------
    notes : tuple of bytes
        One for each vCPU.
    long_mode : bool
        Whether the core is marked as one of x86_64.
    """

    notes: tuple[bytes, ...]
    long_mode: bool


@dataclass(frozen=True, slots=True)
class Dump:
    """A dump that is shown as an image.

    Attributes
    ----------
    kind : str
        What it is, in words.
    places : dict of str to int
        Guest-physical addresses of its blocks, by idstr.
    vcpus : Vcpus or None
        What it tells about vCPUs, if anything.
    """

    kind: str
    places: dict[str, int]
    vcpus: Vcpus | None = None

    def no_machine(self, path: StrPath) -> UnsupportedError:
        """Say what cannot be done with it."""
        return UnsupportedError(
            "a memory dump has no devices, so it cannot become an image that QEMU loads; "
            "savefmt export writes its memory",
            path=path,
        )


def _check(stretch: Stretch, length: int) -> None:
    if stretch.offset > length or stretch.length > length - stretch.offset:
        raise CorruptError(
            f"memory at {stretch.address:#x} is not in the file: {stretch.length} bytes at "
            f"{stretch.offset:#x}, and the file has {length}; get a complete copy",
            offset=stretch.offset,
        )
    if stretch.address % PAGE_SIZE or stretch.length % PAGE_SIZE or stretch.end > 1 << 63:
        raise UnsupportedError(
            f"memory at {stretch.address:#x}, {stretch.length} bytes long, does not consist of "
            "whole pages"
        )


def _without_overlaps(found: Sequence[Stretch]) -> list[Stretch]:
    """Put stretches in order, each address once: with paging some come by several names."""
    result: list[Stretch] = []
    for stretch in sorted(found, key=lambda item: (item.address, -item.length)):
        taken = max(result[-1].end - stretch.address, 0) if result else 0
        if taken < stretch.length:
            result.append(
                Stretch(stretch.address + taken, stretch.length - taken, stretch.offset + taken)
            )
    return result


def _neighbours(stretches: Sequence[Stretch]) -> Iterator[list[Stretch]]:
    """Gather what follows each other in the guest."""
    group: list[Stretch] = []
    for stretch in stretches:
        if group and group[-1].end != stretch.address:
            yield group
            group = []
        group.append(stretch)
    if group:
        yield group


def show(
    file: File,
    stretches: Sequence[Stretch],
    kind: str,
    io: IOOptions,
    vcpus: Vcpus | None = None,
) -> tuple[File, Dump]:
    """Show stretches of a file as an image of RAM alone.

    Parameters
    ----------
    file : File
        The file with them; closed together with the returned view.
    stretches : sequence of Stretch
        In any order; duplicates count once.
    kind : str
        What it is, in words.
    io : IOOptions
        How it is read.
    vcpus : Vcpus, optional
        What the dump tells about vCPUs.

    Returns
    -------
    File
        To be closed.
    Dump
        What it is of.

    Raises
    ------
    CorruptError, UnsupportedError
        If that cannot be.
    """
    for stretch in stretches:
        _check(stretch, file.length)
    places: dict[str, int] = {}
    extents: list[tuple[int, int, int, int]] = []
    stretches = _without_overlaps(stretches)
    groups = list(_neighbours(stretches))
    if not groups:
        raise UnsupportedError("this memory dump holds no memory")
    most = min(max(_LEAST_BLOCKS, file.length // _BYTES_A_BLOCK), ram.MAX_BLOCKS)
    if len(groups) > most:
        raise UnsupportedError(
            f"this memory dump has {len(groups)} gaps, so pages were left out of it "
            "(makedumpfile); open it with crash or drgn, or dump the guest without a filter"
        )
    total = sum(stretch.length for stretch in stretches)
    configuration = Configuration.plain("none").with_capability(MAPPED_RAM, True)
    start = SectionHead(0, ItemType.START, _SECTION_ID, ram.IDSTR, 0, ram.SECTION_VERSION)
    end = SectionHead(0, ItemType.END, _SECTION_ID, ram.IDSTR, 0, ram.SECTION_VERSION)
    with Spool() as spool:
        at = kept = 0

        def write(data: bytes | bytearray) -> None:
            nonlocal at
            spool.write(data, at)
            at += len(data)

        write(STREAM_HEADER + configuration.pack() + start.pack())
        write(pack_word(total, RamFlag.MEM_SIZE))
        for group in groups:
            block = _block(group)
            (place,) = place_all((block,), at, PAGE_SIZE)
            write(pack_block_entry(block.name, block.used_length, header=place.header))
            bitmap = bytearray(block.bitmap_length)
            set_bits(bitmap, 0, block.page_count)
            write(bitmap)
            extents.append((kept, at - kept, kept, 0))
            at = place.pages_offset
            for stretch in group:
                extents.append((at, stretch.length, stretch.offset, 1))
                at += stretch.length
            kept = at
            places[block.idstr] = group[0].address
        write(ram.EOS_WORD + start.pack_footer())
        write(end.pack() + ram.EOS_WORD + end.pack_footer() + bytes([ItemType.EOF]))
        extents.append((kept, at - kept, kept, 0))
        shown = spool.open(io, at, view=View(at, extents, (file,)), path=file.path)
    return shown, Dump(kind, places, vcpus)


def _block(group: Sequence[Stretch]) -> ListedBlock:
    idstr = f"physical@{group[0].address:#x}"
    length = group[-1].end - group[0].address
    return ListedBlock(
        idstr, idstr.encode(), length, PAGE_SIZE, None, None, None, offset=0, header_offset=None
    )
