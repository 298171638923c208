"""Device sections by the end of the file: quick, and without proof.

Only a walk over all of a sequential stream shows where it ends. The end of the file shows the
end of *a* stream: perhaps of a longer one that was here before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from savefmt.errors import FormatError, UnsupportedError
from savefmt.format.cursor import FileCursor
from savefmt.format.ram import EOS_WORD
from savefmt.format.stream import FOOTER_LENGTH, ItemReader, SectionHead
from savefmt.format.vmstate import find_at_end
from savefmt.format.wire import ItemType, encode_name
from savefmt.frozen import replace
from savefmt.model import Layout, Section
from savefmt.reading.framing import SectionKey
from savefmt.reading.stored import StoredImage
from savefmt.reading.walk import StreamEnd, StreamHead, section_of

Pread = Callable[[int, int], bytes]


def claimed_sections(
    pread: Pread, start: int, end: int, head: StreamHead
) -> tuple[Section, ...] | None:
    """Find the device sections at the end of an uncompressed sequential image.

    Each must begin where the vmdescription has it, and before the first one RAM must end,
    under the number that it begins with.  Only a description of other pages, or another
    section number, shows that this is the end of another stream.

    Parameters
    ----------
    pread : callable
        ``pread(length, offset)`` returns bytes of the file.
    start, end : int
        Where the stream begins and the file ends.
    head : StreamHead
        Of the stream.

    Returns
    -------
    tuple of Section or None
        None where the file does not end like this.
    """
    claimed = claimed_end(pread, start, end, head)
    return claimed.sections if claimed is not None else None


def claimed_end(pread: Pread, start: int, end: int, head: StreamHead) -> StreamEnd | None:
    """Tell how the stream of an uncompressed image ends if the file's end is its own.

    Parameters
    ----------
    pread, start, end, head
        As for `claimed_sections`.

    Returns
    -------
    StreamEnd or None
        A walk that finds the same proves it.
    """
    try:
        description = find_at_end(pread, end)
    except FormatError:
        return None
    if description is None or head.ram is None or description.offset <= start:
        return None
    if description.page_size not in (None, head.blocks.page_size):
        return None
    for has_footers in (True, False):
        eof = description.offset - 1
        found = _walk_back(pread, eof, description.sections, head, has_footers)
        if found is not None:
            sections, ram_end = found
            return StreamEnd(sections, ram_end, eof, description, description.end, None, False)
    return None


def believe_end(image: StoredImage) -> StreamEnd | None:
    """Take the end of an uncompressed file for that of its stream, until a pass shows it.

    That saves a pass over the pages where one will be made anyway, and its result can wait
    for `is_belied`.

    Parameters
    ----------
    image : StoredImage
        Its `ending` is what is believed from here on.

    Returns
    -------
    StreamEnd or None
        None where nothing need or can be believed.
    """
    if image.layout is not Layout.SEQUENTIAL or image.packing.packed or image.ending is not None:
        return None
    claimed = claimed_end(image.file.read, image.stream_offset, image.length, image.head)
    if claimed is None or claimed.description is None:
        return None
    if len(claimed.sections) < len(claimed.description.sections):
        return None  # some come before the pages
    image.ending = claimed
    return claimed


def is_belied(image: StoredImage, believed: StreamEnd) -> bool:
    """Whether no pass has shown the end that was believed, or one has shown another."""
    found = image.ending
    return found is None or found is believed or replace(found, stored_end=None) != believed


def _walk_back(
    pread: Pread,
    eof: int,
    lengths: Mapping[SectionKey, int],
    head: StreamHead,
    has_footers: bool,
) -> tuple[tuple[Section, ...], int] | None:
    """Return the sections behind RAM, and where that ends."""
    if pread(1, eof) != bytes([ItemType.EOF]):
        return None
    at = eof
    found = []
    for key in reversed(list(lengths)):
        section = _section_before(pread, key, lengths[key], at, has_footers)
        if section is None or section.offset is None:
            break  # the first ones may come before RAM ends
        found.append(section)
        at = section.offset - _head_length(key[0])
    footer = head.ram.pack_footer() if has_footers and head.ram is not None else b""
    before = EOS_WORD + footer
    if not found or pread(len(before), max(at - len(before), 0)) != before:
        return None
    return tuple(reversed(found)), at


def _section_before(
    pread: Pread, key: SectionKey, length: int, end: int, has_footers: bool
) -> Section | None:
    """Read the section that ends at `end`, None if no section of that name and length is there."""
    payload = end - length - (FOOTER_LENGTH if has_footers else 0)
    start = payload - _head_length(key[0])
    if start < 0:
        return None
    reader = ItemReader(FileCursor(pread, start, end))
    reader.has_footers = has_footers
    try:
        item = reader.next_item()
        if not isinstance(item, SectionHead) or item.kind is not ItemType.FULL:
            return None
        if (item.idstr, item.instance_id) != key or reader.cursor.tell() != payload:
            return None
        reader.cursor.skip(length)
        reader.finish_section(item)
    except (FormatError, UnsupportedError):
        return None
    return section_of(item, payload, length)


def _head_length(idstr: str) -> int:
    return 1 + 4 + 1 + len(encode_name(idstr)) + 4 + 4
