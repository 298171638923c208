"""Where a mapped-ram image keeps its bitmaps and pages (format.md 5)."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from struct import Struct
from typing import ClassVar, Protocol

from savefmt.errors import CorruptError, TruncatedError, UnsupportedError
from savefmt.format.wire import BYTE_ORDERS, MAX_PAGE_SIZE, MIN_PAGE_SIZE, ByteOrder
from savefmt.frozen import dataclass

PAGES_ALIGN = 1 << 20
"""What QEMU aligns page areas to in the file, for direct I/O (format.md 5.2)."""

Bits = bytes | bytearray
"""A bitmap; bytes where nobody changes it."""

_WORD_LENGTH = 8
_PIECE_LENGTH = 1 << 20

_PROBES = 256
"""Pages that `tell_bitmap_order` looks at, at most, for either order."""


@dataclass(frozen=True, slots=True)
class MappedRamHeader:
    """Where one RAMBlock keeps its page bitmap and its pages (format.md 5.2).

    Both offsets are absolute in the file, and zero for an ignored block.
    """

    page_size: int
    bitmap_offset: int
    pages_offset: int

    WIRE: ClassVar[Struct] = Struct(">IQQQ")
    VERSION: ClassVar[int] = 1

    @classmethod
    def parse(cls, data: bytes | memoryview, *, at: int) -> MappedRamHeader:
        """Read the header at the start of `data`.

        Parameters
        ----------
        data : bytes or memoryview
            At least 28 bytes.
        at : int
            Where they lie in the file.

        Returns
        -------
        MappedRamHeader
            One that QEMU would load; 1 MiB alignment is no condition.
        """
        if len(data) < cls.WIRE.size:
            raise TruncatedError(
                "the file ends inside a mapped-ram header; it was cut short, so get a "
                "complete copy",
                offset=at + len(data),
            )
        version, page_size, bitmap_offset, pages_offset = cls.WIRE.unpack_from(data)
        if version != cls.VERSION:
            raise UnsupportedError(
                f"a mapped-ram header has version {version}, which this release does not know",
                offset=at,
            )
        if not MIN_PAGE_SIZE <= page_size <= MAX_PAGE_SIZE or page_size.bit_count() != 1:
            raise CorruptError(
                f"a mapped-ram header names pages of {page_size} bytes, which no guest has",
                offset=at + 4,
            )
        if (bitmap_offset == 0) != (pages_offset == 0):
            raise CorruptError(
                "a mapped-ram header names a bitmap without pages, or pages without a bitmap",
                offset=at + 12,
            )
        if pages_offset % page_size:
            message = f"the pages begin at {pages_offset:#x}, which is not a page boundary"
            raise CorruptError(message, offset=at + 20)
        return cls(page_size, bitmap_offset, pages_offset)

    @property
    def ignored(self) -> bool:
        """Whether the block is listed but kept elsewhere (format.md 5.6)."""
        return self.pages_offset == 0

    def moved(self, by: int) -> MappedRamHeader:
        """Return the same, of a block that lies elsewhere in the file."""
        return MappedRamHeader(self.page_size, self.bitmap_offset + by, self.pages_offset + by)

    def pack(self) -> bytes:
        """Return the bytes that `parse` accepts."""
        return self.WIRE.pack(self.VERSION, self.page_size, self.bitmap_offset, self.pages_offset)


HEADER_LENGTH = MappedRamHeader.WIRE.size


class Placeable(Protocol):
    """What `place_all` needs to know about a RAMBlock."""

    @property
    def name(self) -> bytes:
        """The idstr as on the wire."""

    @property
    def used_length(self) -> int:
        """Bytes."""

    @property
    def guest_address(self) -> int | None:
        """None where the stream does not tell guest addresses."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the parts of one block go in a file; all offsets are absolute."""

    entry_offset: int
    header_offset: int
    bitmap_offset: int
    pages_offset: int
    next_offset: int
    page_size: int

    @property
    def header(self) -> MappedRamHeader:
        """The header that says so."""
        return MappedRamHeader(self.page_size, self.bitmap_offset, self.pages_offset)


def bitmap_length(page_count: int) -> int:
    """Return the bytes that a bitmap takes: whole 64-bit words, as 64-bit hosts write."""
    return 8 * -(-page_count // 64)


def entry_length(block: Placeable) -> int:
    """Return the bytes that a block's list entry takes before any header (format.md 4.2)."""
    return 1 + len(block.name) + 8 + (0 if block.guest_address is None else 8)


def place_all(
    blocks: Iterable[Placeable], at: int, page_size: int, *, align: int = PAGES_ALIGN
) -> tuple[Placement, ...]:
    """Place blocks as QEMU does (format.md 5.2).

    Parameters
    ----------
    blocks : iterable of Placeable
        In the order of the list.
    at : int
        Where the first entry is in the file: behind the MEM_SIZE word.
    page_size : int
        Target page size.
    align : int
        The alignment of page areas.

    Returns
    -------
    tuple of Placement
        One per block; the stream goes on at the last one's `next_offset`.
    """
    placements = []
    for block in blocks:
        header = at + entry_length(block)
        bitmap = header + HEADER_LENGTH
        bitmap_end = bitmap + bitmap_length(block.used_length // page_size)
        pages = -(-bitmap_end // align) * align
        placements.append(
            Placement(at, header, bitmap, pages, pages + block.used_length, page_size)
        )
        at = placements[-1].next_offset
    return tuple(placements)


@dataclass(frozen=True, slots=True)
class Region:
    """A part of the file that `what` claims."""

    what: str
    offset: int
    length: int

    @property
    def end(self) -> int:
        """Behind the last byte."""
        return self.offset + self.length


def check_regions(regions: Iterable[Region], *, start: int, end: int | None = None) -> None:
    """Refuse regions that overlap or leave their place.

    Parameters
    ----------
    regions : iterable of Region
        In any order.
    start : int
        Nothing may lie before.
    end : int, optional
        Length of the file.

    Raises
    ------
    CorruptError
        If two overlap, or one begins before `start`.
    TruncatedError
        If one ends behind `end`.
    """
    ordered = sorted(regions, key=lambda region: (region.offset, region.end))
    for region in ordered:
        if region.offset < start:
            message = f"the {region.what} would lie at {region.offset:#x}, before the block list"
            raise CorruptError(message, offset=start)
        if end is not None and region.end > end:
            message = f"the {region.what} would end at {region.end:#x}, behind the file's end"
            raise TruncatedError(message, offset=end)
    for one, other in pairwise(ordered):
        if one.end > other.offset:
            message = f"the {one.what} overlaps the {other.what}"
            raise CorruptError(message, offset=other.offset)


def decode_bitmap(bitmap: bytearray, page_count: int, order: ByteOrder = "little") -> int:
    """Bring a bitmap into canonical form: page *k* is bit ``k % 8`` of byte ``k // 8``.

    Parameters
    ----------
    bitmap : bytearray
        As in the file, `bitmap_length` bytes; changed in place, because that of a large
        guest is large.
    page_count : int
        Pages of the block.
    order : {"little", "big"}
        Byte order of the host that wrote it (format.md 5.3).

    Returns
    -------
    int
        Bits past the last page that were set: QEMU ignores them, and they are cleared.
    """
    if len(bitmap) % _WORD_LENGTH:
        raise ValueError(f"a bitmap of {len(bitmap)} bytes is no array of 64-bit words")
    if order == "big":
        for at, piece in _pieces(bitmap):
            bitmap[at : at + len(piece)] = _swap(piece)
    strays = stray_count(bitmap, page_count)
    if strays:
        whole, rest = divmod(page_count, 8)
        if rest:
            bitmap[whole] &= (1 << rest) - 1
            whole += 1
        bitmap[whole:] = bytes(len(bitmap) - whole)
    return strays


def encode_bitmap(canonical: Bits, order: ByteOrder = "little") -> Bits:
    """Return a canonical bitmap as a host of that byte order writes it."""
    return canonical if order == "little" else _swap(canonical)


def stray_count(canonical: Bits, page_count: int) -> int:
    """Count the bits past the last page of a canonical bitmap; QEMU writes none."""
    whole, rest = divmod(page_count, 8)
    return (int.from_bytes(canonical[whole:], "little") >> rest).bit_count()


def tell_bitmap_order(
    bitmaps: Sequence[tuple[Bits, int]],
    witnesses: Sequence[Callable[[int, int], bool]] = (),
    envelope: ByteOrder | None = None,
) -> ByteOrder | None:
    """Tell the byte order of the host that wrote the bitmaps of an image (format.md 5.3).

    Bits behind the last page are one hint, because QEMU writes none; where the data lie is
    another.  One stray bit in one block must not decide alone, so the hints have to agree.

    Parameters
    ----------
    bitmaps : sequence of (bitmap, int)
        Each as in the file, with the number of its pages.
    witnesses : sequence of callable
        Each tells whether the file holds data for a page, given the number of the bitmap and
        of the page; the first that tells an order is believed.
    envelope : {"little", "big"}, optional
        Byte order of the envelope, which the same host wrote.  It is believed unless the data
        tell otherwise, and they are asked only where stray bits make it doubtful.

    Returns
    -------
    {"little", "big"} or None
        None where both orders suit equally well.

    Raises
    ------
    CorruptError
        If the hints contradict each other.
    """
    clean = {order for order in BYTE_ORDERS if not any(_strays(*each, order) for each in bitmaps)}
    if envelope in clean:
        return envelope
    told = (_order_by_data(bitmaps, has_data) for has_data in witnesses)
    by_data = next((order for order in told if order is not None), None)
    if envelope is not None:
        clean = {envelope}
    if not clean and by_data is None and _is_same_in_both(bitmaps):
        return None
    likely = clean if by_data is None else (clean or {by_data}) & {by_data}
    if not likely:
        raise CorruptError(
            "the bitmaps contradict each other on the byte order of the host that wrote them"
        )
    return likely.pop() if len(likely) == 1 else None


def _strays(raw: Bits, page_count: int, order: ByteOrder) -> int:
    tail = bytes(raw[page_count // 64 * _WORD_LENGTH :])
    return stray_count(tail if order == "little" else _swap(tail), page_count % 64)


def _is_same_in_both(bitmaps: Sequence[tuple[Bits, int]]) -> bool:
    return not any(_only_in(*each, order) for each in bitmaps for order in BYTE_ORDERS)


def _order_by_data(
    bitmaps: Sequence[tuple[Bits, int]], has_data: Callable[[int, int], bool]
) -> ByteOrder | None:
    """Return the order whose set pages have more data.

    Stale pages have data under a clear bit, so only set bits bear witness.
    """
    shares = []
    for order in BYTE_ORDERS:
        probes = [
            (number, page)
            for number, (raw, page_count) in enumerate(bitmaps)
            for page in _only_in(raw, page_count, order)
        ][:_PROBES]
        shares.append(sum(has_data(*probe) for probe in probes) / max(len(probes), 1))
    if shares[0] == shares[1]:
        return None
    return "little" if shares[0] > shares[1] else "big"


def _only_in(raw: Bits, page_count: int, order: ByteOrder) -> list[int]:
    """Find pages that are set when read in this order, and not in the other."""
    pages: list[int] = []
    for at, little in _pieces(raw):
        big = _swap(little)
        if little == big:
            continue
        one, other = (little, big) if order == "little" else (big, little)
        for index, (mine, theirs) in enumerate(zip(one, other, strict=True), at):
            if only := mine & ~theirs:
                pages += (8 * index + bit for bit in range(8) if only >> bit & 1)
                if len(pages) >= _PROBES:
                    return [page for page in pages if page < page_count][:_PROBES]
    return [page for page in pages if page < page_count]


def _pieces(bitmap: Bits) -> Iterator[tuple[int, bytes]]:
    """Yield where each piece begins, and the piece: the whole may be large."""
    for at in range(0, len(bitmap), _PIECE_LENGTH):
        yield at, bytes(bitmap[at : at + _PIECE_LENGTH])


def _swap(bitmap: Bits) -> bytes:
    words = array("Q", bytes(bitmap))
    words.byteswap()
    return words.tobytes()
