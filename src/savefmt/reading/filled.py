"""An image whose left-out memory is in other files, shown as a complete mapped-ram image.

QEMU leaves out memory that it shares with others (x-ignore-shared; memory-backend-file with
share=on). Everything except that memory is written to a temporary file, and a view puts the
other files in the place of the page areas. A reader of the view need not know this.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

from savefmt.errors import ConversionError, ImageIOError
from savefmt.format import ram
from savefmt.format.configuration import IGNORE_SHARED, MAPPED_RAM
from savefmt.format.cursor import FileCursor
from savefmt.format.mappedram import HEADER_LENGTH, MappedRamHeader, encode_bitmap, place_all
from savefmt.format.ram import ListedBlock, pack_block_entry, pack_word
from savefmt.format.stream import STREAM_HEADER, Command, SectionHead
from savefmt.format.wire import ByteOrder, ItemType, RamFlag
from savefmt.frozen import replace
from savefmt.model import IOOptions, Layout, StrPath
from savefmt.native.allocated import set_bits, stored_pages
from savefmt.native.file import File, View
from savefmt.native.pages import BlockPages
from savefmt.progress import Meter
from savefmt.reading.mapped import EndMarkers
from savefmt.reading.pages import PageStore
from savefmt.reading.spool import Spool
from savefmt.reading.stored import StoredImage
from savefmt.reading.visitors import SkimVisitor, pass_over
from savefmt.reading.walk import Onlooker, StreamEnd, Take, Walk

_PIECE_LENGTH = 1 << 20


class _Skeleton(Onlooker):
    """Passes on all of a stream but its pages, in the mapped-ram form."""

    def __init__(
        self, write: Callable[[bytes | memoryview], None], write_list: Callable[[SectionHead], None]
    ) -> None:
        self._write = write
        self._write_list = write_list

    def command(self, command: Command) -> None:
        """Copy a command."""
        self._write(command.pack())

    def section(self, head: SectionHead) -> Take:
        """Copy a section."""
        self._write(head.pack())
        return self._write

    def ram_start(self, head: SectionHead, blocks: object) -> EndMarkers:
        """Pass over a mapped-ram stream's sections."""
        return EndMarkers()

    def section_end(self, head: SectionHead, footer: bytes, end: int) -> None:
        """End a section; in one of RAM there is the list, or nothing."""
        if head.idstr == ram.IDSTR:
            if head.announces:
                self._write_list(head)
            else:
                self._write(head.pack())
            self._write(ram.EOS_WORD)
        self._write(footer)


class _Composer:
    """Writes an image again, with room for the memory that is in other files."""

    def __init__(self, image: StoredImage, shared: Mapping[str, File], spool: Spool) -> None:
        self._image = image
        self._shared = shared
        self._spool = spool
        self._at = 0
        self._areas: list[tuple[int, str]] = []
        self._pages: list[BlockPages | None] = []
        self._bitmaps: list[int] = []

    def write(self, data: bytes | memoryview) -> None:
        self._spool.write(data, self._at)
        self._at += len(data)

    def run(self, store: PageStore, missing: frozenset[str], order: ByteOrder) -> View:
        """Write everything, and tell how the files make one.

        Parameters
        ----------
        store : PageStore
            The pages that the image has.
        missing : frozenset of str
            Blocks that are still nowhere.
        order : str
            Byte order of the bitmaps.
        """
        configuration = self._image.head.configuration
        if configuration is None:
            raise AssertionError("capabilities without a configuration")
        changed = configuration.with_capability(MAPPED_RAM, True)
        changed = changed.with_capability(IGNORE_SHARED, bool(missing))
        self.write(STREAM_HEADER + changed.pack())
        end = self._walk(_Skeleton(self.write, lambda head: self._write_list(head, missing)))
        self.write(bytes([ItemType.EOF]))
        if end.description is not None:
            self.write(end.description.with_capabilities(changed.capabilities).pack())
        for number, pages in enumerate(self._pages):
            if pages is not None:
                self._fill(number, pages, store)
                self._spool.write(encode_bitmap(pages.bitmap, order), self._bitmaps[number])
        return self._view()

    def _walk(self, skeleton: _Skeleton) -> StreamEnd:
        image = self._image
        if image.layout is Layout.MAPPED_RAM:
            cursor = FileCursor(
                image.file.read, image.stream_offset, image.length, origin=image.source.offset
            )
            return Walk(cursor, skeleton).run()
        visitor = SkimVisitor(image.filename, skeleton)
        return pass_over(image, visitor, IOOptions(threads=1), Meter(None))

    def _write_list(self, head: SectionHead, missing: frozenset[str]) -> None:
        blocks = self._image.head.blocks
        self.write(head.pack() + pack_word(blocks.total, RamFlag.MEM_SIZE))
        for block in blocks.blocks:
            listed = block if missing else replace(block, guest_address=None)
            if block.idstr in missing:
                self._write_missing(listed)
            else:
                self._place(listed)

    def _write_missing(self, block: ListedBlock) -> None:
        header = MappedRamHeader(block.page_size, 0, 0)
        self.write(_entry(block, header))
        self._pages.append(None)
        self._bitmaps.append(0)

    def _place(self, block: ListedBlock) -> None:
        (place,) = place_all((block,), self._at, block.page_size)
        self.write(_entry(block, place.header))
        if self._at != place.header_offset + HEADER_LENGTH:
            raise AssertionError("an entry of another length than was foreseen")
        bitmap = bytearray(block.bitmap_length)
        self._bitmaps.append(place.bitmap_offset)
        self._pages.append(
            BlockPages(block.name, block.page_count, block.page_size, place.pages_offset, bitmap)
        )
        if block.idstr in self._shared and block.used_length:
            self._areas.append((place.pages_offset, block.idstr))
        self._at = place.next_offset

    def _fill(self, number: int, pages: BlockPages, store: PageStore) -> None:
        """Copy the pages of a block, or tell which of them its own file has."""
        shared = self._shared.get(self._image.head.blocks.blocks[number].idstr)
        if shared is not None:
            whole = BlockPages(pages.name, pages.count, pages.page_size, 0, _ones(pages))
            pages.bitmap[:] = stored_pages(shared, whole)
            return
        size = pages.page_size
        step = max(_PIECE_LENGTH // size, 1)
        for run in store.runs(number):
            end = run.first + run.count
            set_bits(pages.bitmap, run.first, end)
            for first in range(run.first, end, step):
                data = store.read(number, first, min(step, end - first))
                self._spool.write(data, pages.offset + first * size)

    def _view(self) -> View:
        names = list(self._shared)
        extents: list[tuple[int, int, int, int]] = []
        at = 0
        lengths = {block.idstr: block.used_length for block in self._image.head.blocks.blocks}
        for offset, name in self._areas:
            if offset > at:
                extents.append((at, offset - at, at, 0))
            extents.append((offset, lengths[name], 0, names.index(name) + 1))
            at = offset + lengths[name]
        if self._at > at:
            extents.append((at, self._at - at, at, 0))
        return View(self._at, extents, list(self._shared.values()))

    @property
    def length(self) -> int:
        """Bytes of all of it."""
        return self._at


def _entry(block: ListedBlock, header: MappedRamHeader) -> bytes:
    return pack_block_entry(
        block.name, block.used_length, guest_address=block.guest_address, header=header
    )


def _ones(pages: BlockPages) -> bytearray:
    bitmap = bytearray(len(pages.bitmap))
    if pages.count:
        set_bits(bitmap, 0, pages.count)
    return bitmap


def fill_in(
    image: StoredImage,
    shared: Sequence[tuple[str, StrPath]],
    store: PageStore,
    left_out: frozenset[str],
    order: ByteOrder,
    io: IOOptions,
) -> File:
    """Show an image together with the files that the rest of its memory lies in.

    Parameters
    ----------
    image : StoredImage
        Of any form, with RAM.
    shared : sequence of (str, str or os.PathLike)
        Block and file.
    store : PageStore
        The pages that the image has.
    left_out : frozenset of str
        Blocks that it has not.
    order : str
        Byte order of the host that saved it.
    io : IOOptions
        How the files are read.

    Returns
    -------
    File
        A mapped-ram image without an envelope; to be closed.

    Raises
    ------
    ConversionError
        If a block is not listed, or is in the image itself, or its file is another's.
    ImageIOError
        What the operating system refused.
    """
    with Spool() as spool, ExitStack() as stack:
        files: dict[str, File] = {}
        for name, path in shared:
            block = _require_left_out(image, name, left_out)
            files[name] = stack.enter_context(_open(path, block, io))
        composer = _Composer(image, files, spool)
        view = composer.run(store, left_out - files.keys(), order)
        file = spool.open(io, composer.length, view=view, path=image.filename)
        stack.pop_all()
        return file


def _require_left_out(image: StoredImage, name: str, left_out: frozenset[str]) -> ListedBlock:
    for block in image.head.blocks.blocks:
        if block.idstr != name:
            continue
        if name not in left_out:
            raise ConversionError(
                f"the image itself holds the RAM block {name!r}; only what was left out of it is "
                f"taken from a file: {', '.join(sorted(left_out)) or 'nothing was'}",
                path=image.filename,
            )
        return block
    raise ConversionError(f"the image has no RAM block {name!r}", path=image.filename)


def _open(path: StrPath, block: ListedBlock, io: IOOptions) -> File:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise ImageIOError.from_os(error, path=path) from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode) and not stat.S_ISBLK(os.fstat(fd).st_mode):
            raise ConversionError("neither a regular file nor a block device", path=path)
        file = File(fd, path=path, direct=bool(io.direct), engine=io.engine)
    finally:
        os.close(fd)
    if file.length < block.used_length:
        length = file.length
        file.close()
        raise ConversionError(
            f"this file has {length} bytes, and the RAM block {block.idstr!r} has "
            f"{block.used_length}; this file belongs to another block",
            path=path,
        )
    return file
