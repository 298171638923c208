"""The memory maps of processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from savefmt.linux.facts import MemoryArea
from savefmt.linux.kernel import Kernel
from savefmt.linux.openfiles import file_path
from savefmt.linux.processes import Only, Task, tasks
from savefmt.linux.walks import MOST, error_types, maple_entries, note, text_at

_READ, _WRITE, _EXECUTE, _SHARED = 1, 2, 4, 8
_PAGE_BITS = 12
_NAME_LIMIT = 32


def areas(kernel: Kernel, task: Task) -> Iterator[Any]:
    """Yield each ``vm_area_struct`` of a process, read."""
    import drgn

    if task.memory is None:
        return
    if kernel.has("struct mm_struct", "mm_mt"):  # since 6.1
        pointers = maple_entries(kernel, task.memory.mm_mt, f"memory of process {task.pid}")
    else:
        pointers = _linked(kernel, task)
    structure = kernel.program.type("struct vm_area_struct")
    for pointer in pointers:
        try:
            yield drgn.Object(kernel.program, structure, address=pointer).read_()
        except error_types():
            note(kernel, "areas-damaged", f"the memory map of process {task.pid} is damaged")


def _linked(kernel: Kernel, task: Task) -> Iterator[int]:
    import drgn

    following = drgn.offsetof(kernel.program.type("struct vm_area_struct"), "vm_next")
    at, seen = task.memory.mmap.value_(), set[int]()
    while at:
        if at in seen or len(seen) > MOST:
            note(kernel, "areas-damaged", f"the memory map of process {task.pid} ends nowhere")
            return
        seen.add(at)
        yield at
        try:
            at = kernel.word(at + following)
        except error_types():
            note(kernel, "areas-damaged", f"the memory map of process {task.pid} is damaged")
            return


def memory_areas(kernel: Kernel, only: Only = None) -> Iterator[MemoryArea]:
    """Yield the memory maps of processes.

    Parameters
    ----------
    kernel : Kernel
        Of the guest.
    only : container of int, optional
        The numbers of some.

    Yields
    ------
    MemoryArea
        Process by process, ascending.
    """
    for task in tasks(kernel, only):
        for area in areas(kernel, task):
            try:
                yield _describe(kernel, task, area)
            except error_types():
                note(kernel, "areas-damaged", f"the memory map of process {task.pid} is damaged")


def _describe(kernel: Kernel, task: Task, area: Any) -> MemoryArea:
    flags = area.vm_flags.value_()
    letters = zip("rwx", (_READ, _WRITE, _EXECUTE), strict=True)
    permissions = "".join(letter if flags & bit else "-" for letter, bit in letters)
    file = area.vm_file
    return MemoryArea(
        pid=task.pid,
        name=task.name,
        start=area.vm_start.value_(),
        end=area.vm_end.value_(),
        permissions=permissions + ("s" if flags & _SHARED else "p"),
        offset=area.vm_pgoff.value_() << _PAGE_BITS if file.value_() else 0,
        path=area_path(kernel, task, area),
        writable_code=bool(flags & _WRITE and flags & _EXECUTE),
    )


def area_path(kernel: Kernel, task: Task, area: Any) -> str:
    """Return what an area maps: a file, or the kernel's name for it."""
    if area.vm_file.value_():
        file = area.vm_file[0]
        path, deleted = file_path(kernel, file.f_path, file.f_inode[0].read_())
        return f"{path} (deleted)" if deleted else path
    start, end, memory = area.vm_start.value_(), area.vm_end.value_(), task.memory
    if start <= memory.brk.value_() and end >= memory.start_brk.value_():
        return "[heap]"
    if start <= memory.start_stack.value_() <= end:
        return "[stack]"
    return _special(kernel, area)


def _special(kernel: Kernel, area: Any) -> str:
    """Return what the kernel calls an area that it made by itself, such as ``[vdso]``."""
    import drgn

    if not area.vm_ops.value_() or not area.vm_private_data.value_():
        return ""
    try:
        mapping = drgn.cast("struct vm_special_mapping *", area.vm_private_data)
        name = text_at(kernel, mapping.name.value_(), _NAME_LIMIT)
    except error_types():
        return ""
    return name if name.startswith("[") and name.endswith("]") else ""
