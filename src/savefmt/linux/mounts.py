"""Mounted file systems, namespace by namespace."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from savefmt.linux.facts import Mount
from savefmt.linux.kernel import Kernel
from savefmt.linux.openfiles import filesystem_of
from savefmt.linux.processes import Only, tasks
from savefmt.linux.walks import MOST, error_types, list_items, note, path_of, text_at

_FLAGS = ((0x01, "nosuid"), (0x02, "nodev"), (0x04, "noexec"))
_READ_ONLY = 0x40
_SUPERBLOCK_READ_ONLY = 1


def mounts(kernel: Kernel, only: Only = None) -> Iterator[Mount]:
    """Yield mounts.

    Parameters
    ----------
    kernel : Kernel
        Of the guest.
    only : container of int, optional
        Processes whose namespaces are asked for.

    Yields
    ------
    Mount
        Each one after that which it is mounted on.
    """
    seen = set[int]()
    for task in tasks(kernel, only):
        try:
            if not task.content.nsproxy.value_():
                continue
            namespace = task.content.nsproxy.mnt_ns.read_()
            if namespace.value_() in seen:
                continue
            seen.add(namespace.value_())
            number = namespace.ns.inum.value_()
            root = namespace.root[0]
        except error_types():
            note(kernel, "mounts-damaged", f"the mounts of process {task.pid} cannot be read")
            continue
        yield from _below(kernel, root, number)


def superblocks(kernel: Kernel) -> Iterator[tuple[Any, str]]:
    """Yield each mounted file system once, and where it is mounted first."""
    seen = set[int]()
    namespaces = set[int]()
    for task in tasks(kernel):
        try:
            if not task.content.nsproxy.value_():
                continue
            namespace = task.content.nsproxy.mnt_ns.read_()
            if namespace.value_() in namespaces:
                continue
            namespaces.add(namespace.value_())
            for item in _tree(kernel, namespace.root[0]):
                inner = item.mnt.read_()
                if inner.mnt_sb.value_() not in seen:
                    seen.add(inner.mnt_sb.value_())
                    target = path_of(kernel, item.mnt.address_of_(), inner.mnt_root)
                    yield inner.mnt_sb[0], target
        except error_types():
            note(kernel, "mounts-damaged", f"the mounts of process {task.pid} cannot be read")


def _below(kernel: Kernel, root: Any, namespace: int) -> Iterator[Mount]:
    for item in _tree(kernel, root):
        try:
            yield _describe(kernel, item, namespace)
        except error_types():
            note(kernel, "mounts-damaged", f"the mount at {item.address_:#x} cannot be read")


def _tree(kernel: Kernel, root: Any) -> Iterator[Any]:
    """Yield a mount and all below it."""
    stack, seen = [root], set[int]()
    while stack:
        item = stack.pop()
        if item.address_ in seen or len(seen) > MOST:
            note(kernel, "mounts-damaged", "the tree of mounts leads back into itself")
            return
        seen.add(item.address_)
        yield item
        try:
            head = item.mnt_mounts.address_of_().value_()
        except error_types():
            continue
        stack += reversed(list(list_items(kernel, head, "struct mount", "mnt_child", "mounts")))


def _describe(kernel: Kernel, item: Any, namespace: int) -> Mount:
    content = item.read_()
    inner = content.mnt
    flags = inner.mnt_flags.value_()
    read_only = flags & _READ_ONLY or inner.mnt_sb.s_flags.value_() & _SUPERBLOCK_READ_ONLY
    return Mount(
        namespace=namespace,
        id=content.mnt_id.value_(),
        parent=content.mnt_parent.mnt_id.value_(),
        source=text_at(kernel, content.mnt_devname.value_())
        if content.mnt_devname.value_()
        else "",
        target=path_of(kernel, item.mnt.address_of_(), inner.mnt_root),
        filesystem=filesystem_of(kernel, inner.mnt_sb),
        options=("ro" if read_only else "rw", *(word for bit, word in _FLAGS if flags & bit)),
    )
