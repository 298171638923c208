"""What the payload of a `ram` section is made of (format.md 4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from savefmt.errors import CorruptError, UnsupportedError
from savefmt.format.cursor import Cursor, FileCursor
from savefmt.format.mappedram import (
    HEADER_LENGTH,
    PAGES_ALIGN,
    MappedRamHeader,
    Region,
    bitmap_length,
    check_regions,
)
from savefmt.format.stream import Advice
from savefmt.format.wire import MIN_PAGE_SIZE, PAGE_SIZES, RamFlag, decode_name, pack_counted
from savefmt.frozen import dataclass, replace
from savefmt.model import Finding, Severity

IDSTR = "ram"
SECTION_VERSION = 4

_MEM_SIZE_MASK = MIN_PAGE_SIZE - 1
"""The flags of a word whose page size is not known yet."""

_HOST_PAGE_MASK = (1 << 10) - 1
"""All flags; no host has pages as small as this."""

MAX_BLOCKS = 4096
MAX_TOTAL_LENGTH = 1 << 44
"""16 TiB: beyond what hosts save, and small enough to keep one bit a page in memory."""


ZERO_FILL = b"\0"
"""What follows the word, and the name, of a ZERO record."""


def pack_word(address: int, flags: RamFlag) -> bytes:
    """Return a word: a page-aligned address or length, and flags in its low bits."""
    # .value, because the enum would keep a member for every address it meets.
    return (address | flags.value).to_bytes(8, "big")


EOS_WORD = pack_word(0, RamFlag.EOS)
"""Ends the payload of every `ram` section."""


def pack_block_entry(
    name: bytes,
    used_length: int,
    *,
    guest_address: int | None = None,
    header: MappedRamHeader | None = None,
) -> bytes:
    """Return an entry of the block list (format.md 4.2).

    Parameters
    ----------
    name : bytes
        The idstr.
    used_length : int
        Bytes of the block.
    guest_address : int, optional
        Exactly where the stream has the capability x-ignore-shared.
    header : MappedRamHeader, optional
        Exactly where the stream is a mapped-ram one; the bitmap is not included.

    Returns
    -------
    bytes
        As it stands after the MEM_SIZE word or the entry before.
    """
    entry = pack_counted(name) + used_length.to_bytes(8, "big")
    if guest_address is not None:
        entry += guest_address.to_bytes(8, "big")
    if header is not None:
        entry += header.pack()
    return entry


@dataclass(frozen=True, slots=True)
class ListedBlock:
    """An entry of the block list.

    Attributes
    ----------
    idstr : str
        The name to show; `name` is the one on the wire.
    used_length : int
        Bytes.
    page_size : int
        Target page size, the unit of the block's pages.
    backing_page_size : int or None
        The host's page size for this block, where postcopy made the writer tell it.
    guest_address : int or None
        Only with the capability x-ignore-shared.
    header : MappedRamHeader or None
        Only in a mapped-ram stream.
    offset : int
        Of the entry.
    header_offset : int or None
        Of the mapped-ram header.
    """

    idstr: str
    name: bytes
    used_length: int
    page_size: int
    backing_page_size: int | None
    guest_address: int | None
    header: MappedRamHeader | None
    offset: int
    header_offset: int | None

    @property
    def page_count(self) -> int:
        """Target pages in the block."""
        return self.used_length // self.page_size

    @property
    def bitmap_length(self) -> int:
        """Bytes that the mapped-ram bitmap takes."""
        return bitmap_length(self.page_count)

    @property
    def ignored(self) -> bool:
        """Whether a mapped-ram stream keeps no pages for the block."""
        return self.header is not None and self.header.ignored

    @property
    def next_offset(self) -> int | None:
        """Where a mapped-ram stream goes on; None in a sequential one."""
        if self.header is None or self.header_offset is None:
            return None
        if self.header.ignored:
            return self.header_offset + HEADER_LENGTH
        return self.header.pages_offset + self.used_length

    def regions(self) -> list[Region]:
        """Return the parts of a mapped-ram file that the block claims."""
        if self.header is None or self.header_offset is None:
            return []
        entry_end = self.header_offset + HEADER_LENGTH
        entry = Region(f"list entry of {self.idstr!r}", self.offset, entry_end - self.offset)
        if self.header.ignored:
            return [entry]
        bitmap = Region(f"bitmap of {self.idstr!r}", self.header.bitmap_offset, self.bitmap_length)
        pages = Region(f"page area of {self.idstr!r}", self.header.pages_offset, self.used_length)
        return [entry, bitmap, pages]


@dataclass(frozen=True, slots=True)
class BlockList:
    """The blocks that a START section lists, in its order.

    Attributes
    ----------
    blocks : tuple of ListedBlock
        With distinct names.
    total : int
        Sum of their lengths.
    page_size : int
        Target page size.
    offset : int
        Of the first entry.
    end : int
        Where the word after the list stands.
    """

    blocks: tuple[ListedBlock, ...]
    total: int
    page_size: int
    offset: int
    end: int

    def __getitem__(self, idstr: str) -> ListedBlock:
        for block in self.blocks:
            if block.idstr == idstr:
                return block
        raise KeyError(idstr)


def read_block_list(
    cursor: Cursor,
    *,
    total_word: int | None = None,
    mapped: bool = False,
    ignore_shared: bool = False,
    postcopy: Advice | None = None,
    page_size: int | None = None,
    infer: Callable[[Sequence[tuple[bytes, int]]], int] | None = None,
    findings: list[Finding] | None = None,
) -> BlockList:
    """Read the block list of a START section (format.md 4.2, 5.2).

    Parameters
    ----------
    cursor : Cursor
        At the MEM_SIZE word, or behind it if `total_word` is given.  Left at the word
        after the list, which in a mapped-ram stream lies behind the page areas.
    total_word : int, optional
        The MEM_SIZE word.
    mapped : bool
        The stream has the capability mapped-ram.
    ignore_shared : bool
        The stream has the capability x-ignore-shared.
    postcopy : Advice, optional
        What a POSTCOPY_ADVISE command told, the target page size among it.
    page_size : int, optional
        Target page size, if known: a mapped-ram stream tells it itself.
    infer : callable, optional
        Given name and length of all blocks, tells the page size that nothing else has
        told.  Without it the commonest one is taken that divides all lengths.
    findings : list of Finding, optional
        Receives oddities that do not hinder.

    Returns
    -------
    BlockList
        Checked: lengths sum up, names are unique, nothing overlaps.
    """
    at = cursor.tell()
    if total_word is None:
        total_word = cursor.u64("the ram section's first word")
    if total_word & _MEM_SIZE_MASK != RamFlag.MEM_SIZE:
        message = f"the ram section begins with word {total_word:#x}, not with a block list"
        raise CorruptError(message, offset=at)
    total = total_word & ~_MEM_SIZE_MASK
    if total > MAX_TOTAL_LENGTH:
        raise UnsupportedError(
            f"the guest has {total:#x} bytes of memory, and this release reads up to 16 TiB",
            offset=at,
        )
    if mapped and postcopy is not None:
        raise UnsupportedError(
            "the stream uses mapped-ram and postcopy-ram together, which this release does "
            "not read",
            offset=at,
        )

    reader = _ListReader(cursor, total, mapped, ignore_shared, postcopy, page_size)
    offset = cursor.tell()
    entries = reader.read()
    size = reader.page_size or (infer or common_page_size)(
        [(entry.name, entry.used_length) for entry in entries]
    )
    blocks = tuple(_in_pages(entry, size) for entry in entries)
    block_list = BlockList(blocks, total, size, offset, cursor.tell())
    if mapped:
        regions = [region for block in blocks for region in block.regions()]
        check_regions(
            regions, start=offset, end=cursor.end if isinstance(cursor, FileCursor) else None
        )
        _note_oddities(blocks, findings)
    return block_list


def common_page_size(blocks: Sequence[tuple[bytes, int]]) -> int:
    """Return the commonest page size that divides the lengths of all blocks."""
    fitting = (size for size in PAGE_SIZES if not any(length % size for _, length in blocks))
    return next(fitting, MIN_PAGE_SIZE)


def _in_pages(block: ListedBlock, page_size: int) -> ListedBlock:
    if block.used_length % page_size:
        at = block.offset + 1 + len(block.name)
        raise CorruptError(_not_whole(block.idstr, block.used_length), offset=at)
    return replace(block, page_size=page_size)


def _not_whole(idstr: str, length: int) -> str:
    return f"RAM block {idstr!r} is {length:#x} bytes long, not in whole pages"


class _ListReader:
    def __init__(
        self,
        cursor: Cursor,
        total: int,
        mapped: bool,
        ignore_shared: bool,
        postcopy: Advice | None,
        page_size: int | None,
    ) -> None:
        if postcopy is not None and page_size is None and postcopy.page_size in PAGE_SIZES:
            page_size = postcopy.page_size
        self.page_size = page_size
        self._cursor = cursor
        self._total = total
        self._mapped = mapped
        self._ignore_shared = ignore_shared
        self._backing_sizes = postcopy.summary & ~postcopy.page_size if postcopy else 0

    def read(self) -> tuple[ListedBlock, ...]:
        blocks: dict[bytes, ListedBlock] = {}
        listed = 0
        while listed < self._total:
            at = self._cursor.tell()
            if len(blocks) == MAX_BLOCKS:
                raise CorruptError(f"the stream lists more than {MAX_BLOCKS} RAM blocks", offset=at)
            block = self._entry(left=self._total - listed)
            if block.name in blocks:
                raise CorruptError(f"RAM block {block.idstr!r} is listed twice", offset=at)
            blocks[block.name] = block
            listed += block.used_length
        return tuple(blocks.values())

    def _entry(self, left: int) -> ListedBlock:
        cursor = self._cursor
        offset = cursor.tell()
        name = cursor.counted("the RAM block list")
        if not name:
            raise CorruptError("a RAM block has no name", offset=offset)
        idstr = decode_name(name)
        at = cursor.tell()
        used_length = cursor.u64("the RAM block list")
        if used_length % (self.page_size or MIN_PAGE_SIZE):
            raise CorruptError(_not_whole(idstr, used_length), offset=at)
        if not 0 < used_length <= left:
            message = (
                f"RAM block {idstr!r} is {used_length:#x} bytes long, "
                f"and {left:#x} are left of the total"
            )
            raise CorruptError(message, offset=at)

        backing = self._backing_page_size(last=used_length == left)
        address = cursor.u64("the RAM block list") if self._ignore_shared else None
        header = self._header(idstr) if self._mapped else None
        header_offset = cursor.tell() - HEADER_LENGTH if header else None
        block = ListedBlock(
            idstr,
            name,
            used_length,
            self.page_size or MIN_PAGE_SIZE,
            backing,
            address,
            header,
            offset,
            header_offset,
        )
        if block.next_offset is not None:
            self._jump(block.next_offset, idstr)
        return block

    def _header(self, idstr: str) -> MappedRamHeader:
        at = self._cursor.tell()
        what = f"the mapped-ram header of {idstr!r}"
        header = MappedRamHeader.parse(self._cursor.read(HEADER_LENGTH, what), at=at)
        if self.page_size is None:
            self.page_size = header.page_size
        if header.page_size != self.page_size:
            message = (
                f"RAM block {idstr!r} has pages of {header.page_size} bytes, and the stream "
                f"has pages of {self.page_size} bytes"
            )
            raise CorruptError(message, offset=at + 4)
        if header.ignored and not self._ignore_shared:
            message = f"RAM block {idstr!r} has no page area, and the stream leaves no memory out"
            raise CorruptError(message, offset=at + 12)
        # QEMU counts from the beginning of its file, and the bitmap follows the header.
        if header.bitmap_offset == self._cursor.tell() + self._cursor.origin:
            return header.moved(-self._cursor.origin)
        return header

    def _jump(self, target: int, idstr: str) -> None:
        here = self._cursor.tell()
        if target < here:
            message = f"the pages of {idstr!r} would end at {target:#x}, before their header"
            raise CorruptError(message, offset=here)
        self._cursor.skip(target - here, f"the page area of {idstr!r}")

    def _backing_page_size(self, last: bool) -> int | None:
        """Read the page size that only a postcopy writer puts in, and only for huge pages.

        Nothing marks its presence.  Taking it for absent, though, puts its first byte,
        or that of the guest address, where the next name's length stands, and both are
        zero; behind the last entry it takes the place of a word, which has flags.
        """
        if not self._backing_sizes:
            return None
        skipped = 8 if self._ignore_shared else 0
        ahead = self._cursor.peek(skipped + 8)[skipped:]
        flags = int.from_bytes(ahead, "big") & _HOST_PAGE_MASK
        if flags if last else ahead[:1] != b"\0":
            return None
        at = self._cursor.tell()
        backing = self._cursor.u64("the RAM block list")
        if backing.bit_count() != 1 or not backing & self._backing_sizes:
            raise CorruptError(
                f"a RAM block is backed by pages of {backing} bytes, which no host has", offset=at
            )
        return backing


def _note_oddities(blocks: tuple[ListedBlock, ...], findings: list[Finding] | None) -> None:
    if findings is None:
        return
    for block in blocks:
        if block.header is None:
            continue
        if block.header.ignored:
            code, message = "mappedram.ignored-block", "its content is not in this file"
            advice = "keep the file that backs this memory together with the image"
        elif block.header.pages_offset % PAGES_ALIGN:
            code, message = "mappedram.unaligned-pages", "its pages begin at no 1 MiB boundary"
            advice = "direct I/O may be refused; `savefmt convert -O sparse` aligns them"
        else:
            continue
        message = f"RAM block {block.idstr!r}: {message}"
        findings.append(Finding(code, Severity.NOTE, message, block.header_offset, advice))
