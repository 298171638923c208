"""Files that processes have open, and what they are called."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from typing import Any

from savefmt.linux.facts import OpenFile
from savefmt.linux.kernel import Kernel
from savefmt.linux.processes import Only, Task, tasks
from savefmt.linux.walks import error_types, name_parts, note, path_of, text_at
from savefmt.linux.words import unpack_words

_MAX_DESCRIPTORS = 1 << 20
_PIECE = 4096
_READ, _WRITE = 1, 2
_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "folder",
    stat.S_IFSOCK: "socket",
    stat.S_IFIFO: "pipe",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
    stat.S_IFLNK: "link",
}
_NUMBERED = {"sockfs": "socket", "pipefs": "pipe"}


def descriptors(kernel: Kernel, task: Task) -> Iterator[tuple[int, Any]]:
    """Yield the open files of a process.

    Parameters
    ----------
    kernel : Kernel
        Of the guest.
    task : Task
        The process.

    Yields
    ------
    (int, drgn.Object)
        The number, and ``struct file *``.
    """
    import drgn

    files = task.content.files
    if not files.value_():
        return
    try:
        table = files.fdt[0].read_()
        count, at = table.max_fds.value_(), table.fd.value_()
        pointer = kernel.program.type("struct file *")
    except error_types():
        note(kernel, "files-damaged", f"the open files of process {task.pid} cannot be read")
        return
    if count > _MAX_DESCRIPTORS:
        note(kernel, "files-damaged", f"process {task.pid} claims {count} open files")
        count = _MAX_DESCRIPTORS
    for first in range(0, count, _PIECE):
        try:
            data = kernel.memory.read(at + 8 * first, 8 * min(_PIECE, count - first))
        except error_types():
            note(kernel, "files-damaged", f"the open files of process {task.pid} cannot be read")
            return
        for number, value in enumerate(unpack_words("Q", data), first):
            if value:
                yield number, drgn.Object(kernel.program, pointer, value=value)


def open_files(kernel: Kernel, only: Only = None) -> Iterator[OpenFile]:
    """Yield what processes have open.

    Parameters
    ----------
    kernel : Kernel
        Of the guest.
    only : container of int, optional
        The numbers of some.

    Yields
    ------
    OpenFile
        Process by process.
    """
    for task in tasks(kernel, only):
        for number, file in descriptors(kernel, task):
            try:
                yield _describe(kernel, task, number, file[0].read_())
            except error_types():
                note(kernel, "file-damaged", f"file {number} of process {task.pid} cannot be read")


def _describe(kernel: Kernel, task: Task, number: int, file: Any) -> OpenFile:
    inode = file.f_inode[0].read_()
    mode = file.f_mode.value_()
    path, deleted = file_path(kernel, file.f_path, inode)
    return OpenFile(
        pid=task.pid,
        name=task.name,
        descriptor=number,
        path=path,
        kind=_KINDS.get(stat.S_IFMT(inode.i_mode.value_()), "other"),
        access="r" * bool(mode & _READ) + "w" * bool(mode & _WRITE),
        position=file.f_pos.value_(),
        size=inode.i_size.value_(),
        inode=inode.i_ino.value_(),
        deleted=deleted,
    )


def file_path(kernel: Kernel, place: Any, inode: Any) -> tuple[str, bool]:
    """Return what ``/proc`` calls a file, and whether it has lost its name.

    Parameters
    ----------
    kernel : Kernel
        Of the guest.
    place : drgn.Object
        ``struct path``.
    inode : drgn.Object
        ``struct inode``, read.
    """
    filesystem = filesystem_of(kernel, inode.i_sb)
    number = inode.i_ino.value_()
    if filesystem in _NUMBERED:
        return f"{_NUMBERED[filesystem]}:[{number}]", False
    entry = place.dentry
    content = entry[0].read_()
    deleted = not content.d_hash.pprev.value_() and content.d_parent.value_() != entry.value_()
    if filesystem == "anon_inodefs":
        names, _ = name_parts(kernel, entry, 0)
        return (
            f"anon_inode:{names[0] if names else text_at(kernel, content.d_name.name.value_())}",
            False,
        )
    if filesystem == "nsfs":
        return f"namespace:[{number}]", False
    return path_of(kernel, place.mnt, entry), deleted


def filesystem_of(kernel: Kernel, superblock: Any) -> str:
    """Return the type of a file system, by its ``struct super_block *``."""
    known: dict[int, str] = kernel.program.cache.setdefault("savefmt-filesystems", {})
    kind = superblock.s_type.value_()
    if kind not in known:
        known[kind] = text_at(kernel, superblock.s_type.name.value_(), 64)
    return known[kind]
