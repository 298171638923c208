"""Files with pages in memory, and the content of these pages."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from savefmt.errors import ConversionError, SavefmtError, UnsupportedError
from savefmt.frozen import dataclass
from savefmt.linux.facts import ByteRange, CachedFile, Extraction
from savefmt.linux.kernel import Kernel
from savefmt.linux.kernelmemory import PAGE
from savefmt.linux.mounts import superblocks
from savefmt.linux.openfiles import filesystem_of
from savefmt.linux.pagestructs import PageStructs, ram_ranges
from savefmt.linux.walks import (
    damage_told,
    error_types,
    list_items,
    name_parts,
    note,
    xarray_entries,
)
from savefmt.model import StrPath
from savefmt.writing.output import OutputFile

_IN_MEMORY = ("tmpfs", "ramfs", "rootfs", "devtmpfs", "hugetlbfs")
"""File systems that keep nothing elsewhere: what has no page is a hole."""

_MOST_PAGES = 1 << 24


@dataclass(frozen=True, slots=True)
class CachedInode:
    """A file while it is read from.

    Attributes
    ----------
    content : drgn.Object
        Its ``struct inode``, read.
    address : int
        Of that.
    target : str
        Where its file system is mounted.
    """

    content: Any
    address: int
    target: str


def cached_inodes(kernel: Kernel) -> Iterator[CachedInode]:
    """Yield the inodes of all mounted file systems that have pages."""
    for superblock, target in superblocks(kernel):
        head = superblock.s_inodes.address_of_().value_()
        for item in list_items(kernel, head, "struct inode", "i_sb_list", "inodes"):
            try:
                content = item.read_()
                if content.i_mapping.nrpages.value_():
                    yield CachedInode(content, item.address_, target)
            except error_types():
                note(kernel, "inode-damaged", f"the inode at {item.address_:#x} cannot be read")


def cached_files(kernel: Kernel) -> Iterator[CachedFile]:
    """Yield files of which pages are in memory."""
    for one in cached_inodes(kernel):
        try:
            yield describe(kernel, one)
        except error_types():
            note(kernel, "inode-damaged", f"the inode at {one.address:#x} cannot be read")


def describe(kernel: Kernel, one: CachedInode) -> CachedFile:
    """Return what is told of a file."""
    content = one.content
    path, deleted = path_of_inode(kernel, content, one.target)
    return CachedFile(
        path=path,
        filesystem=filesystem_of(kernel, content.i_sb),
        inode=content.i_ino.value_(),
        size=content.i_size.value_(),
        pages=content.i_mapping.nrpages.value_(),
        deleted=deleted,
        accessed=_time(content, "atime"),
        modified=_time(content, "mtime"),
        changed=_time(content, "ctime"),
    )


def _time(content: Any, name: str) -> float:
    if content.type_.has_member(f"i_{name}_sec"):  # since 6.11
        seconds, part = content.member_(f"i_{name}_sec"), content.member_(f"i_{name}_nsec")
    else:
        member = f"i_{name}" if content.type_.has_member(f"i_{name}") else f"__i_{name}"
        seconds, part = content.member_(member).tv_sec, content.member_(member).tv_nsec
    return float(seconds.value_() + part.value_() / 1e9)


def path_of_inode(kernel: Kernel, content: Any, target: str) -> tuple[str, bool]:
    """Return the path of an inode by its first name, and whether it has lost it.

    Parameters
    ----------
    kernel : Kernel
        Of the guest.
    content : drgn.Object
        ``struct inode``, read.
    target : str
        Where its file system is mounted.
    """
    import drgn

    first = content.i_dentry.first.value_()
    if not first:
        return f"{target.rstrip('/')}/(inode {content.i_ino.value_()})", True
    structure = kernel.program.type("struct dentry")
    alias = "d_u.d_alias" if structure.has_member("d_u") else "d_alias"
    at = first - drgn.offsetof(structure, alias)
    entry = drgn.Object(kernel.program, kernel.program.pointer_type(structure), value=at)
    names, _ = name_parts(kernel, entry, 0)
    held = entry[0].read_()
    deleted = not held.d_hash.pprev.value_() and held.d_parent.value_() != at
    return "/".join([target.rstrip("/"), *reversed(names)]) or "/", deleted


def pages_of(kernel: Kernel, content: Any, structs: PageStructs) -> tuple[dict[int, int], set[int]]:
    """Return the pages of a file.

    Parameters
    ----------
    kernel : Kernel
        Of the guest.
    content : drgn.Object
        ``struct inode``, read.
    structs : PageStructs
        Of the same guest.

    Returns
    -------
    (dict of int to int, set of int)
        Number of the page in memory by that in the file, and those that are swapped out.
    """
    found: dict[int, int] = {}
    away = set[int]()
    tree = content.i_mapping.i_pages.read_()
    for index, entry, width in xarray_entries(kernel, tree, "pages of a file"):
        if len(found) + width > _MOST_PAGES:
            note(kernel, "pages-many", "a file claims more pages than can be")
            break
        if entry & 1:
            away.update(range(index, index + width))
            continue
        first = structs.number_of(entry & ~3)
        for step in range(width):
            found[index + step] = first + step
    return found, away


def find_file(kernel: Kernel, path: str) -> CachedInode:
    """Return the file with a path.

    Parameters
    ----------
    kernel : Kernel
        Of the guest.
    path : str
        As `cached_files` tells it.

    Returns
    -------
    CachedInode
        The first that has it.

    Raises
    ------
    UnsupportedError
        If no pages of such a file are in memory.
    """
    for one in cached_inodes(kernel):
        try:
            if path_of_inode(kernel, one.content, one.target)[0] == path:
                return one
        except error_types():
            continue
    raise UnsupportedError(
        f"no pages of {path!r} are in memory; `savefmt linux IMAGE files --cached` lists the files "
        "that have some",
        path=kernel.image.path,
    )


def extract(
    kernel: Kernel, path: str, target: StrPath, *, overwrite: bool = False, dry_run: bool = False
) -> Extraction:
    """Take a file out of the page cache.

    Parameters
    ----------
    kernel : Kernel
        Of the guest.
    path : str
        Its path there.
    target : str or os.PathLike
        The file to write; appears when it is complete.  What is missing in memory is zero.
    overwrite : bool
        Replace the target.
    dry_run : bool
        Read all, and write nothing.

    Returns
    -------
    Extraction
        What is missing.

    Raises
    ------
    UnsupportedError
        If no pages of such a file are in memory.
    ConversionError
        If the target exists, or the file claims a length that cannot be.
    """
    with damage_told(kernel.image.path):
        one = find_file(kernel, path)
        told = describe(kernel, one)
        structs = PageStructs(kernel)
        pages, away = pages_of(kernel, one.content, structs)
    if not 0 <= told.size < 1 << 60:
        raise ConversionError(f"{path} claims to have {told.size} bytes", path=kernel.image.path)
    count = -(-told.size // PAGE)
    there = sorted(index for index in pages if index < count)
    writer = _Writer(kernel, told.size)
    with OutputFile(target, overwrite=overwrite, direct=False) as out:
        if not dry_run:
            out.set_length(told.size)
        for index in there:
            data = writer.take(index, pages[index])
            if data is not None and not dry_run:
                out.file.write(data, index * PAGE)
        if not dry_run:
            out.commit(warn=True)
    holes, missing = _absent(writer.written, count, away, told)
    return Extraction(
        told, str(target), missing, holes, None if missing else writer.digest(), dry_run
    )


class _Writer:
    """Reads the pages of a file in order, and sums the file as they make it."""

    def __init__(self, kernel: Kernel, size: int) -> None:
        self._read = kernel.image.guest.physical.read_known
        self._size = size
        self._sum = hashlib.sha256()
        self._summed = 0
        # A file that claims more than all of memory is not summed for as long as it claims.
        self._sums = size <= sum(count * PAGE for _, count in ram_ranges(kernel))
        self.written: list[int] = []

    def take(self, index: int, number: int) -> bytes | None:
        """Return what belongs to a page of the file, None where it cannot be read."""
        try:
            data = self._read(number * PAGE, PAGE)[: self._size - index * PAGE]
        except SavefmtError:
            return None
        self.written.append(index)
        if self._sums:
            self._fill(index * PAGE)
            self._sum.update(data)
            self._summed += len(data)
        return data

    def _fill(self, end: int) -> None:
        while self._summed < end:
            count = min(end - self._summed, 1 << 20)
            self._sum.update(bytes(count))
            self._summed += count

    def digest(self) -> str | None:
        """Return the sum of all."""
        if not self._sums:
            return None
        self._fill(self._size)
        return self._sum.hexdigest()


def _absent(
    written: list[int], count: int, away: set[int], told: CachedFile
) -> tuple[tuple[ByteRange, ...], tuple[ByteRange, ...]]:
    """Return holes, and what is missing: where a file has pages elsewhere, nobody knows which."""
    holes: list[ByteRange] = []
    missing: list[ByteRange] = []
    for start, end in _gaps(written, count):
        if told.filesystem not in _IN_MEMORY:
            missing.append(_bytes(start, end, told.size))
            continue
        at = start
        for index in sorted(index for index in away if start <= index < end):
            if index > at:
                holes.append(_bytes(at, index, told.size))
            missing.append(_bytes(index, index + 1, told.size))
            at = index + 1
        if at < end:
            holes.append(_bytes(at, end, told.size))
    return tuple(holes), tuple(missing)


def _bytes(first: int, last: int, size: int) -> ByteRange:
    return ByteRange(first * PAGE, min(last * PAGE, size))


def _gaps(there: list[int], count: int) -> Iterator[tuple[int, int]]:
    """Yield the stretches of pages below `count` that are not there."""
    at = 0
    for index in there:
        if index > at:
            yield at, index
        at = index + 1
    if at < count:
        yield at, count
