"""The owner of each page of memory, by the kernel's own records."""

from __future__ import annotations

import struct
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from savefmt.guest.mappings import lower_half
from savefmt.linux.facts import OwnedPages, PageOwner
from savefmt.linux.freelists import free_at_hand
from savefmt.linux.kernel import Kernel
from savefmt.linux.kernelmemory import KERNEL_HALF, PAGE
from savefmt.linux.mounts import superblocks
from savefmt.linux.openfiles import filesystem_of
from savefmt.linux.pagecache import path_of_inode
from savefmt.linux.pagestructs import PageStructs, ram_ranges
from savefmt.linux.processes import space_of, tasks
from savefmt.linux.walks import damage_told, error_types, note

if TYPE_CHECKING:
    import drgn

_PIECE = 1 << 15
_MAX_GAP = 1 << 20
"""Pages of a hole in a picture at most: 4 GiB."""
_MAX_ORDER = 20
_ANONYMOUS, _MOVABLE = 1, 2
_FIXED = ("unknown", "free", "reserved", "slab", "page-table", "kernel")
_UNKNOWN, _FREE, _RESERVED, _SLAB, _TABLE, _KERNEL = range(6)
_KINDS = {"free": _FREE, "slab": _SLAB, "table": _TABLE}


class PageOwners:
    """Whose the pages of a guest are.

    Parameters
    ----------
    kernel : Kernel
        Of the guest.

    Attributes
    ----------
    owners : list of PageOwner
        All that there are.

    Raises
    ------
    UnsupportedError
        If the kernel's own table of pages was not found.
    CorruptError
        If it cannot be read.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        with damage_told(kernel.image.path):
            self._find()

    def _find(self) -> None:
        kernel = self._kernel
        self._structs = PageStructs(kernel)
        self.owners = [PageOwner(kind, "", None) for kind in _FIXED]
        self._files: dict[int, int] = {}
        self._targets: dict[int, str] | None = None
        self._anonymous = self._add(PageOwner("anonymous", "", None))
        self.ranges = list(ram_ranges(kernel))
        self._by_range = [array("I", bytes(4 * count)) for _, count in self.ranges]
        for (first, count), owners in zip(self.ranges, self._by_range, strict=True):
            self._look(first, count, owners)
        self._mark_free()
        self._name_processes()

    def _add(self, owner: PageOwner) -> int:
        self.owners.append(owner)
        return len(self.owners) - 1

    def _look(self, first: int, count: int, owners: array[int]) -> None:
        structs, size = self._structs, self._structs.size
        heads: list[tuple[int, int]] = []
        read = struct.Struct("<Q").unpack_from
        short = struct.Struct("<I").unpack_from
        head_at, mapping_at = structs.head_at, structs.mapping_at
        private_at, type_at = structs.private_at, structs.type_at
        reserved = structs.flags.get("reserved", 0)
        free_until = 0
        for start in range(0, count, _PIECE):
            length = min(_PIECE, count - start)
            data = structs.read(first + start, length)
            for place in range(length):
                index = start + place
                if index < free_until:
                    owners[index] = _FREE
                    continue
                at = place * size
                (word,) = read(data, at + head_at)
                if word & 1:
                    heads.append((index, word))
                    continue
                (flags,) = read(data, at)
                (kind,) = short(data, at + type_at)
                name = structs.kind(flags, kind)
                if name == "free":
                    order = min(read(data, at + private_at)[0], _MAX_ORDER)
                    free_until = index + (1 << order)
                    owners[index] = _FREE
                elif name:
                    owners[index] = _KINDS[name]
                elif flags & reserved:
                    owners[index] = _RESERVED
                else:
                    owners[index] = self._by_mapping(read(data, at + mapping_at)[0], flags)
        # Once all heads are known: what a page belongs to is known by its first one.
        for index, word in heads:
            head = structs.head_of(first + index, word)
            if head is not None and 0 <= head - first < count:
                owners[index] = owners[head - first]

    def _by_mapping(self, mapping: int, flags: int) -> int:
        if mapping & _ANONYMOUS:
            return self._anonymous
        if mapping & _MOVABLE:
            return _KERNEL
        if mapping >= KERNEL_HALF:
            found = self._files.get(mapping)
            if found is None:
                found = self._files[mapping] = self._file(mapping)
            return found
        return _KERNEL

    def _file(self, mapping: int) -> int:
        import drgn

        try:
            place = drgn.Object(self._kernel.program, "struct address_space *", value=mapping)
            inode = place.host[0].read_()
            if place.host.i_data.address_of_().value_() != mapping and (
                inode.i_mapping.value_() != mapping
            ):
                return _KERNEL
            return self._add(PageOwner("file", self._name(inode), None))
        except error_types():
            return _KERNEL

    def _name(self, inode: drgn.Object) -> str:
        kind = filesystem_of(self._kernel, inode.i_sb)
        if kind == "bdev":
            number = inode.i_rdev.value_()
            return f"block device {number >> 20}:{number & 0xFFFFF}"
        if self._targets is None:
            self._targets = {block.address_: target for block, target in superblocks(self._kernel)}
        target = self._targets.get(inode.i_sb.value_(), f"{kind}:")
        path, deleted = path_of_inode(self._kernel, inode, target)
        return path + " (deleted)" * deleted

    def _mark_free(self) -> None:
        for address, count in free_at_hand(self._kernel):
            physical = self._structs.number_of(address) * PAGE
            marked = 0
            for owners, start, end in self._pieces(physical, count * PAGE):
                if all(owner == _KERNEL for owner in owners[start:end]):
                    owners[start:end] = array("I", [_FREE]) * (end - start)
                    marked += end - start
            if marked != count:  # a page is in one list only: else this walk could go on for ever
                note(self._kernel, "list-damaged", "a page is free twice in the kernel's lists")
                return

    def _name_processes(self) -> None:
        """Tell by the page tables of the processes whose anonymous pages are."""
        for task in tasks(self._kernel):
            space = space_of(self._kernel, task)
            if space is None:
                continue
            owner: int | None = None
            for mapping in lower_half(space.tables):
                for owners, start, end in self._pieces(mapping.physical, mapping.length):
                    for place in range(start, end):
                        if owners[place] == self._anonymous:
                            if owner is None:
                                owner = self._add(PageOwner("anonymous", task.name, task.pid))
                            owners[place] = owner

    def _pieces(self, physical: int, length: int) -> Iterator[tuple[array[int], int, int]]:
        first, last = physical // PAGE, (physical + length) // PAGE
        for (start, count), owners in zip(self.ranges, self._by_range, strict=True):
            low, high = max(first, start), min(last, start + count)
            if low < high:
                yield owners, low - start, high - start

    def of(self, number: int) -> PageOwner | None:
        """Return the owner of a page by its number, None where no RAM is."""
        for (start, count), owners in zip(self.ranges, self._by_range, strict=True):
            if start <= number < start + count:
                return self.owners[owners[number - start]]
        return None

    def kinds_by_page(
        self, kinds: Sequence[str], nowhere: int
    ) -> tuple[bytes, list[tuple[int, int]]]:
        """Return one byte for each page from the first of RAM on: the number of its kind.

        With it comes where page numbers go on by one: (place, page number), since a large hole
        is cut short.

        Parameters
        ----------
        kinds : sequence of str
            All that there may be.
        nowhere : int
            The number for what is no RAM.
        """
        numbers = [kinds.index(owner.kind) for owner in self.owners]
        found = bytearray()
        steps = []
        start = self.ranges[0][0] if self.ranges else 0
        for (first, _), owners in zip(self.ranges, self._by_range, strict=True):
            gap = min(first - start - len(found), _MAX_GAP)
            found += bytes([nowhere]) * max(gap, 0)
            start = first - len(found)
            steps.append((len(found), first))
            found += bytes([numbers[one] for one in owners])
        return bytes(found), steps

    def totals(self) -> tuple[OwnedPages, ...]:
        """Return how much belongs to whom, the most first."""
        counts = Counter[int]()
        for owners in self._by_range:
            counts.update(owners)
        return tuple(OwnedPages(self.owners[one], count) for one, count in counts.most_common())


def page_owners(kernel: Kernel) -> tuple[OwnedPages, ...]:
    """Tell how much of memory belongs to whom, the most first."""
    return PageOwners(kernel).totals()
