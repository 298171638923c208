"""Processes, as the kernel's list of tasks has them."""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import TYPE_CHECKING, Any

from savefmt.frozen import dataclass
from savefmt.linux.clock import Clock
from savefmt.linux.facts import Environment, Process
from savefmt.linux.kernel import Kernel
from savefmt.linux.walks import (
    MOST,
    decode,
    error_types,
    list_items,
    note,
    path_of,
    text_at,
    text_of,
    xarray_entries,
)

if TYPE_CHECKING:
    from savefmt.guest.space import AddressSpace

Only = Container[int] | None
"""Processes that are asked for; None: all."""

_ARGUMENTS_LIMIT = 1 << 20
_CGROUP_DEPTH = 64
_KERNEL_THREAD = 0x0020_0000
_STATES = (
    (0x10, "dead"),
    (0x20, "zombie"),
    (0x04, "stopped"),
    (0x08, "traced"),
    (0x40, "parked"),
    (0x80, "dead"),
    (0x01, "sleeping"),
)
_UNINTERRUPTIBLE, _NO_LOAD = 0x02, 0x400


@dataclass(frozen=True, slots=True)
class Task:
    """A process while it is read from.

    Attributes
    ----------
    pid, name : int and str
        What other structures say about it.
    content : drgn.Object
        Its ``task_struct``, read.
    address : int
        Of that.
    memory : drgn.Object or None
        Its ``mm_struct``, read; None for a thread of the kernel.
    """

    pid: int
    name: str
    content: Any
    address: int
    memory: Any


def tasks(kernel: Kernel, only: Only = None) -> Iterator[Task]:
    """Yield the processes.

    Parameters
    ----------
    kernel : Kernel
        Whose processes.
    only : container of int, optional
        The numbers of some.

    Yields
    ------
    Task
        In the order of the list, which is that of their start.
    """
    first = kernel.variable("init_task")
    if first is None or first.address_ is None:
        note(kernel, "no-processes", "the list of processes was not found")
        return
    head = first.tasks.address_of_().value_()
    for item in list_items(kernel, head, "struct task_struct", "tasks", "processes"):
        task = read_task(kernel, item)
        if task is not None and (only is None or task.pid in only):
            yield task


def read_task(kernel: Kernel, item: Any) -> Task | None:
    """Read a process, None if it makes no sense."""
    try:
        content = item.read_()
        memory = content.mm[0].read_() if content.mm.value_() else None
        name = _name(kernel, content)
        return Task(content.pid.value_(), name, content, item.address_, memory)
    except error_types():
        note(kernel, "task-damaged", f"the process at {item.address_:#x} cannot be read")
        return None


def _name(kernel: Kernel, content: Any) -> str:
    """Return the name of a process; that of a thread of the kernel may be longer."""
    import drgn

    thread = content.flags.value_() & _KERNEL_THREAD
    if thread and kernel.has("struct kthread", "full_name"):  # since 5.17
        try:
            full = drgn.cast("struct kthread *", content.worker_private).full_name.value_()
            if full:
                return text_at(kernel, full, 64)
        except error_types():
            pass
    return text_of(content.comm)


def processes(kernel: Kernel, only: Only = None) -> Iterator[Process]:
    """Yield what is told of the processes.

    Parameters
    ----------
    kernel : Kernel
        Whose processes.
    only : container of int, optional
        The numbers of some.

    Yields
    ------
    Process
        In the order of their start.
    """
    clock = Clock.of(kernel)
    for task in tasks(kernel, only):
        try:
            yield _describe(kernel, task, clock)
        except error_types():
            note(kernel, "task-damaged", f"process {task.pid} cannot be read whole")


def _describe(kernel: Kernel, task: Task, clock: Clock) -> Process:
    content = task.content
    credentials = content.real_cred[0].read_()
    namespace, own_pid = _own_pid(content)
    spaces = content.nsproxy[0].read_() if content.nsproxy.value_() else None
    start = _start(content) / 1e9
    return Process(
        pid=task.pid,
        parent=content.real_parent.tgid.value_(),
        name=task.name,
        uid=credentials.uid.val.value_(),
        gid=credentials.gid.val.value_(),
        threads=content.signal.nr_threads.value_(),
        state=_state(content),
        cpu=_cpu(content),
        uptime=start,
        started=None if clock.booted is None else clock.booted + start,
        command_line=arguments(kernel, task),
        executable=_executable(kernel, task),
        kernel=bool(content.flags.value_() & _KERNEL_THREAD),
        pid_namespace=namespace,
        own_pid=own_pid,
        user_namespace=credentials.user_ns.ns.inum.value_(),
        mount_namespace=spaces.mnt_ns.ns.inum.value_() if spaces is not None else 0,
        network_namespace=spaces.net_ns.ns.inum.value_() if spaces is not None else 0,
        cgroup=_cgroup(kernel, content),
        address=task.address,
    )


def _start(content: Any) -> int:
    """Return nanoseconds from boot to its start, suspended ones counted."""
    for name in ("start_boottime", "real_start_time", "start_time"):
        if content.type_.has_member(name):
            return int(getattr(content, name).value_())
    return 0


def _state(content: Any) -> str:
    name = "__state" if content.type_.has_member("__state") else "state"
    bits = content.member_(name).value_() | content.exit_state.value_()
    if bits & _UNINTERRUPTIBLE:
        return "idle" if bits & _NO_LOAD else "waiting"
    return next((word for bit, word in _STATES if bits & bit), "running")


def _cpu(content: Any) -> int | None:
    for holder in (content, content.thread_info):
        if holder.type_.has_member("cpu"):
            return int(holder.cpu.value_())
    return None


def _own_pid(content: Any) -> tuple[int, int]:
    """Return the namespace that a process lives in, and its number there."""
    identity = content.thread_pid
    if not identity.value_():
        return 0, content.pid.value_()
    level = min(identity.level.value_(), 32)
    entry = identity.numbers[level]
    return entry.ns.ns.inum.value_(), entry.nr.value_()


def _cgroup(kernel: Kernel, content: Any) -> str:
    try:
        node = content.cgroups.dfl_cgrp.kn
        names = []
        for _ in range(_CGROUP_DEPTH):
            parent = node.member_(
                "__parent" if kernel.has("struct kernfs_node", "__parent") else "parent"
            )
            if not parent.value_():
                break
            names.append(text_at(kernel, node.name.value_(), 256))
            node = parent.read_()
    except error_types():
        return ""
    return "/" + "/".join(reversed(names))


def space_of(kernel: Kernel, task: Task) -> AddressSpace | None:
    """Return the memory of a process, None for a thread of the kernel."""
    if task.memory is None:
        return None
    try:
        return kernel.memory.process_space(task.memory.pgd.value_())
    except error_types():
        note(kernel, "no-tables", f"the page tables of process {task.pid} are not in memory")
        return None


def _strings(kernel: Kernel, task: Task, start: int, end: int) -> tuple[str, ...]:
    space = space_of(kernel, task)
    if space is None or not 0 < end - start <= _ARGUMENTS_LIMIT:
        return ()
    data = kernel.memory.read_process(space, start, end - start)
    return tuple(map(decode, data.removesuffix(b"\0").split(b"\0"))) if data else ()


def arguments(kernel: Kernel, task: Task) -> tuple[str, ...]:
    """Return the command line of a process, as far as it is in memory."""
    if task.memory is None:
        return ()
    memory = task.memory
    return _strings(kernel, task, memory.arg_start.value_(), memory.arg_end.value_())


def environments(kernel: Kernel, only: Only = None) -> Iterator[Environment]:
    """Yield the environments of processes, as far as they are in memory."""
    for task in tasks(kernel, only):
        if task.memory is None:
            continue
        start, end = task.memory.env_start.value_(), task.memory.env_end.value_()
        yield Environment(task.pid, task.name, _strings(kernel, task, start, end))


def _executable(kernel: Kernel, task: Task) -> str | None:
    if task.memory is None or not task.memory.exe_file.value_():
        return None
    try:
        place = task.memory.exe_file.f_path.read_()
        return path_of(kernel, place.mnt, place.dentry)
    except error_types():
        return None


def compare_with_numbers(kernel: Kernel, listed: set[int]) -> None:
    """Note processes that the table of numbers has and the list of tasks has not.

    Parameters
    ----------
    kernel : Kernel
        Whose processes.
    listed : set of int
        Addresses of the tasks that are listed.
    """
    import drgn

    program = kernel.program
    space = kernel.variable("init_pid_ns")
    if space is None or not kernel.has("struct pid_namespace", "idr"):
        return
    try:
        links = drgn.offsetof(program.type("struct task_struct"), "pid_links")
        table = space.idr.idr_rt.read_()
        for number, (_, entry, _) in enumerate(xarray_entries(kernel, table, "process numbers")):
            if number > MOST:
                break
            if entry & 1:
                continue
            leader = drgn.Object(program, "struct pid *", value=entry).tasks
            first = leader[1].first.value_()  # PIDTYPE_TGID
            if not first:
                continue
            address = first - links - drgn.sizeof(program.type("struct hlist_node"))
            if address not in listed:
                task = read_task(
                    kernel, drgn.Object(program, "struct task_struct", address=address)
                )
                if task is not None and task.pid:
                    note(
                        kernel,
                        "hidden-process",
                        f"process {task.pid} ({task.name}) is in the table of process numbers "
                        "and not in the list of processes: it may be hidden",
                    )
    except error_types():
        note(kernel, "tree-damaged", "the table of process numbers cannot be read")
