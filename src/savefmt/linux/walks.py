"""Walks through the kernel's linked structures: each walk ends, whatever the links say."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from savefmt.errors import CorruptError, SavefmtError
from savefmt.linux.kernel import Kernel
from savefmt.linux.words import unpack_words
from savefmt.model import Finding, Severity, StrPath

if TYPE_CHECKING:
    import drgn

MOST = 1 << 17
"""Items of one list at most."""

_MOST_DOUBTS, _MOST_FINDINGS = 2000, 200
"""Of an answer; of all answers together, which people can read."""

NAME_LIMIT = 4096
_PARTS = 256
_XA_NODE_SLOTS = 64
_XA_SIBLINGS = 64 << 2
_MAPLE_DEPTH = 32
_MAPLE_LEAF, _MAPLE_RANGE, _MAPLE_ALLOCATION = 1, 2, 3


def note(kernel: Kernel, code: str, message: str) -> None:
    """Remember a doubt, once.

    Raises
    ------
    CorruptError
        If there were so many that the answer ends here: a table may claim a million entries,
        each of which leads nowhere.
    """
    kernel.doubts += 1
    if kernel.doubts > _MOST_DOUBTS:
        raise CorruptError(
            "too much of what the kernel keeps in memory is damaged", path=kernel.image.path
        )
    finding = Finding(f"linux.{code}", Severity.WARNING, message)
    if len(kernel.findings) < _MOST_FINDINGS and finding not in kernel.findings:
        kernel.findings.append(finding)


def error_types() -> tuple[type[Exception], ...]:
    """Return what reading a damaged structure may raise."""
    import drgn

    return (
        *(drgn.FaultError, drgn.OutOfBoundsError, drgn.ObjectAbsentError),
        *(SavefmtError, LookupError, AttributeError),
        *(ValueError, TypeError, OverflowError, struct.error),  # of types that cannot be
    )


@contextmanager
def damage_told(path: StrPath) -> Iterator[None]:
    """Turn what reading a damaged structure raises into an error of ours.

    Raises
    ------
    CorruptError
        In the place of what drgn, or Python, says of types that cannot be.
    """
    try:
        yield
    except SavefmtError:
        raise
    except error_types() as error:
        what = "what the kernel keeps of itself in memory is damaged"
        raise CorruptError(f"{what}: {error}", path=path) from error


def list_items(
    kernel: Kernel, head: int, kind: str, member: str, what: str, *, hashed: bool = False
) -> Iterator[drgn.Object]:
    """Yield the structures of a list.

    Parameters
    ----------
    kernel : Kernel
        Whose list it is.
    head : int
        Address of the list's head; with `hashed`, of the first item's link.
    kind, member : str
        Structure, and its member that links it.
    what : str
        Of the list, for the note if it is damaged.
    hashed : bool
        A list that ends with a null, or an odd pointer.

    Yields
    ------
    drgn.Object
        A reference each.
    """
    import drgn

    structure = kernel.program.type(kind)
    offset = drgn.offsetof(structure, member)
    for link in _links(kernel, head, drgn.sizeof(structure), what, hashed):
        yield drgn.Object(kernel.program, structure, address=link - offset)


def _links(kernel: Kernel, head: int, size: int, what: str, hashed: bool) -> Iterator[int]:
    seen = set[int]()
    stretch = max(size // 2, 8)
    try:
        at = head if hashed else kernel.word(head)
        while at and not at & 1 and (hashed or at != head):
            # Two structures do not overlap.  (Half, for a task is allocated without the end
            # of its registers.)
            if at // stretch in seen or at % 8:
                note(kernel, "list-damaged", f"the list of {what} leads back into itself")
                return
            if len(seen) >= MOST:
                note(kernel, "list-long", f"the list of {what} has more than {MOST} items")
                return
            seen.add(at // stretch)
            yield at
            at = kernel.word(at)
    except SavefmtError:
        note(kernel, "list-damaged", f"the list of {what} leads to where no memory is")


def xarray_entries(kernel: Kernel, array: Any, what: str) -> Iterator[tuple[int, int, int]]:
    """Yield index, entry and width of an XArray (or, before 4.20's, a radix tree of its shape).

    Parameters
    ----------
    kernel : Kernel
        Whose array it is.
    array : drgn.Object
        ``struct xarray``.
    what : str
        For the note if it is damaged.

    Yields
    ------
    (int, int, int)
        Entries as they stand there, with how many indices each is for.  A value (of a page
        that is elsewhere) is odd.
    """
    import drgn

    node = kernel.program.type("struct xa_node")
    slots_at, shift_at = drgn.offsetof(node, "slots"), drgn.offsetof(node, "shift")
    seen = set[int]()
    stack = [(array.xa_head.value_(), 0, 64, 1)]
    while stack:
        entry, base, above, width = stack.pop()
        if entry & 3 != 2:
            if entry:
                yield base, entry, width
            continue
        if entry < 4096:
            continue
        address = entry - 2
        try:
            shift = kernel.memory.read(address + shift_at, 1)[0]
            data = kernel.memory.read(address + slots_at, 8 * _XA_NODE_SLOTS)
        except SavefmtError:
            note(kernel, "tree-damaged", f"the tree of {what} leads to where no memory is")
            continue
        if address in seen or shift >= above or len(seen) > MOST:
            note(kernel, "tree-damaged", f"the tree of {what} leads back into itself")
            continue
        seen.add(address)
        slots = unpack_words("Q", data)
        width = 0
        for number in range(_XA_NODE_SLOTS - 1, -1, -1):
            slot = slots[number]
            width += 1
            if slot & 3 == 2 and slot < _XA_SIBLINGS:
                continue  # belongs to the entry before it
            if slot:
                stack.append((slot, base + (number << shift), shift, width << shift))
            width = 0


def maple_entries(kernel: Kernel, tree: Any, what: str) -> Iterator[int]:
    """Yield the entries of a maple tree, ascending.

    Parameters
    ----------
    kernel : Kernel
        Whose tree it is.
    tree : drgn.Object
        ``struct maple_tree``.
    what : str
        For the note if it is damaged.

    Yields
    ------
    int
        Pointers.
    """
    import drgn

    shapes = []
    for kind in ("maple_range_64", "maple_arange_64"):
        structure = kernel.program.type(f"struct {kind}")
        pivots, slots = (structure.member(name) for name in ("pivot", "slot"))
        shapes.append(
            (pivots.offset, pivots.type.length or 0, slots.offset, slots.type.length or 0)
        )
    size = drgn.sizeof(kernel.program.type("struct maple_node"))
    seen = set[int]()
    root = tree.ma_root.value_()
    stack = [(root, (1 << 64) - 1, 0, root & 3 == 2 and root > 4096)]
    while stack:
        entry, most, depth, is_node = stack.pop()
        if not is_node:
            if not entry & 3:
                yield entry
            continue
        address, kind = entry & ~0xFF, entry >> 3 & 0xF
        if address in seen or depth > _MAPLE_DEPTH or len(seen) > MOST:
            note(kernel, "tree-damaged", f"the tree of {what} leads back into itself")
            continue
        seen.add(address)
        if kind not in (_MAPLE_LEAF, _MAPLE_RANGE, _MAPLE_ALLOCATION):
            note(kernel, "tree-damaged", f"the tree of {what} has a node of kind {kind}")
            continue
        pivots_at, pivots, slots_at, slots = shapes[kind == _MAPLE_ALLOCATION]
        try:
            data = kernel.memory.read(address, size)
        except SavefmtError:
            note(kernel, "tree-damaged", f"the tree of {what} leads to where no memory is")
            continue
        found = []
        for number in range(slots):
            at = pivots_at + 8 * number
            pivot = int.from_bytes(data[at : at + 8], "little") if number < pivots else most
            last = pivot if pivot or not number else most
            slot = int.from_bytes(data[slots_at + 8 * number :][:8], "little")
            if slot:
                found.append((slot, last, depth + 1, kind != _MAPLE_LEAF))
            if last >= most:
                break
        stack.extend(reversed(found))


def tree_nodes(kernel: Kernel, root: int, what: str) -> Iterator[int]:
    """Yield the addresses of the nodes of a red-black tree, in no order.

    Parameters
    ----------
    kernel : Kernel
        Whose tree it is.
    root : int
        Its first node.
    what : str
        For the note if it is damaged.

    Yields
    ------
    int
        Addresses of ``struct rb_node``.
    """
    seen = set[int]()
    stack = [root]
    while stack:
        at = stack.pop()
        if not at:
            continue
        if at in seen or at % 8 or len(seen) > MOST:
            note(kernel, "tree-damaged", f"the tree of {what} leads back into itself")
            return
        seen.add(at)
        try:
            data = kernel.memory.read(at, 24)
        except SavefmtError:
            note(kernel, "tree-damaged", f"the tree of {what} leads to where no memory is")
            continue
        yield at
        stack += [int.from_bytes(data[16:24], "little"), int.from_bytes(data[8:16], "little")]


def text_at(kernel: Kernel, address: int, limit: int = NAME_LIMIT) -> str:
    """Return the string at an address of the kernel, cut where memory ends."""
    parts = []
    while limit > 0:
        count = min(limit, 4096 - address % 4096, 256)
        data = kernel.memory.read(address, count)
        end = data.find(b"\0")
        parts.append(data[:end] if end >= 0 else data)
        if end >= 0:
            break
        address, limit = address + count, limit - count
    return decode(b"".join(parts))


def decode(data: bytes) -> str:
    """Return text of the guest; bytes that are not text stay visible."""
    return data.decode("utf-8", "backslashreplace")


def text_of(array: Any) -> str:
    """Return the string in an array of characters that has been read."""
    return decode(bytes(array.to_bytes_()).split(b"\0", 1)[0])


def name_parts(kernel: Kernel, entry: Any, root: int) -> tuple[list[str], Any]:
    """Return the names from a dentry up to the root of its file system.

    Parameters
    ----------
    kernel : Kernel
        Whose file it is.
    entry : drgn.Object
        ``struct dentry *``.
    root : int
        The dentry to end at; a dentry that is its own parent also ends the path.

    Returns
    -------
    (list of str, drgn.Object)
        Names, the last one first, and where the way ended.
    """
    names: list[str] = []
    for _ in range(_PARTS):
        if entry.value_() == root:
            break
        content = entry[0].read_()
        parent = content.d_parent
        if parent.value_() == entry.value_():
            break
        length = content.d_name.len.value_()
        names.append(decode(kernel.memory.read(content.d_name.name.value_(), min(length, 255))))
        entry = parent
    return names, entry


def path_of(kernel: Kernel, mount: Any, entry: Any) -> str:
    """Return the path of a file in its mount namespace.

    Parameters
    ----------
    kernel : Kernel
        Whose file it is.
    mount : drgn.Object
        ``struct vfsmount *``.
    entry : drgn.Object
        ``struct dentry *``.

    Returns
    -------
    str
        From the root of the namespace, or of the mount where it is in none.
    """
    import drgn

    offset = drgn.offsetof(kernel.program.type("struct mount"), "mnt")
    pointer = kernel.program.type("struct mount *")
    at = drgn.Object(kernel.program, pointer, value=mount.value_() - offset)
    names: list[str] = []
    for _ in range(_PARTS):
        found, _ = name_parts(kernel, entry, at.mnt.mnt_root.value_())
        names += found
        parent = at.mnt_parent.read_()
        if parent.value_() == at.value_():
            break
        entry, at = at.mnt_mountpoint.read_(), parent
    return "/" + "/".join(reversed(names))
