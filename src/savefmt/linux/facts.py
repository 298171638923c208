"""Facts about a Linux guest, as values."""

from __future__ import annotations

from savefmt.frozen import dataclass
from savefmt.model import Finding


@dataclass(frozen=True, slots=True)
class Host:
    """The system as a whole.

    Attributes
    ----------
    name : str
        Host name.
    domain : str
        NIS domain name.
    release, version, machine : str
        What ``uname -rvm`` prints.
    command_line : str or None
        Of the kernel; None where it is not told.
    clock : float or None
        Time of day when the image was saved, in seconds since 1970.
    booted : float or None
        Time of day when the guest began.
    uptime : float or None
        Seconds between the two.
    cpus : int
        vCPUs in the image.
    memory : int
        Bytes of RAM.
    """

    name: str
    domain: str
    release: str
    version: str
    machine: str
    command_line: str | None
    clock: float | None
    booted: float | None
    uptime: float | None
    cpus: int
    memory: int


@dataclass(frozen=True, slots=True)
class Process:
    """A process, by the thread that leads it.

    Attributes
    ----------
    pid, parent : int
        As the guest's first namespace counts them.
    name : str
        What the kernel calls it, 15 letters at most.
    uid, gid : int
        Real user and group; 0 is root.
    threads : int
        How many it has.
    state : str
        ``running``, ``sleeping``, ``waiting`` (uninterruptible), ``idle``, ``stopped``,
        ``traced``, ``parked``, ``zombie`` or ``dead``.
    cpu : int or None
        The vCPU that it ran on last.
    uptime : float
        Seconds from boot to its start.
    started : float or None
        Time of day of its start; None where the guest's clock is not told.
    command_line : tuple of str
        Its arguments; empty for a thread of the kernel, and where they are not in memory.
    executable : str or None
        Path of its program; None for a thread of the kernel.
    kernel : bool
        Whether it is a thread of the kernel.
    pid_namespace, own_pid : int
        The namespace that it lives in, and what it is called there.
    user_namespace, mount_namespace, network_namespace : int
        Other namespaces, as ``/proc/PID/ns`` numbers them; 0 where it has none.
    cgroup : str
        Its path in the unified hierarchy.
    address : int
        Of its ``task_struct``.
    """

    pid: int
    parent: int
    name: str
    uid: int
    gid: int
    threads: int
    state: str
    cpu: int | None
    uptime: float
    started: float | None
    command_line: tuple[str, ...]
    executable: str | None
    kernel: bool
    pid_namespace: int
    own_pid: int
    user_namespace: int
    mount_namespace: int
    network_namespace: int
    cgroup: str
    address: int


@dataclass(frozen=True, slots=True)
class LogLine:
    """A message of the kernel.

    Attributes
    ----------
    uptime : float
        Seconds since boot.
    level : int
        0 (emergency) to 7 (debug).
    facility : int
        0 for the kernel's own.
    text : str
        The message.
    """

    uptime: float
    level: int
    facility: int
    text: str


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A file that a process has open.

    Attributes
    ----------
    pid : int
        The process.
    name : str
        Its name.
    descriptor : int
        The number of the file there.
    path : str
        Where it is, or what it is, as ``/proc/PID/fd`` tells it.
    kind : str
        ``file``, ``folder``, ``socket``, ``pipe``, ``device``, ``link`` or ``other``.
    access : str
        ``r``, ``w``, ``rw`` or nothing.
    position : int
        Where it is read or written next.
    size : int
        Bytes of the file.
    inode : int
        Its number.
    deleted : bool
        Whether it has no name any more.
    """

    pid: int
    name: str
    descriptor: int
    path: str
    kind: str
    access: str
    position: int
    size: int
    inode: int
    deleted: bool


@dataclass(frozen=True, slots=True)
class Socket:
    """A socket.

    Attributes
    ----------
    pid : int or None
        The process that has it open; None for one that the kernel alone knows.
    name : str
        Of that process.
    descriptor : int or None
        Its number there.
    family : str
        ``inet``, ``inet6``, ``unix``, ``netlink``, ``packet``, or a number.
    type : str
        ``stream``, ``dgram``, ``raw``, ``seqpacket``, or a number.
    protocol : str
        ``tcp``, ``udp``, ``icmp``, or a number; empty for ``unix``.
    local, remote : str
        Addresses; of ``unix`` the path, ``@`` before an abstract name.
    local_port, remote_port : int
        Ports, 0 for none.
    state : str
        As ``ss`` calls it.
    inode : int
        Its number, which ``/proc/PID/fd`` shows.
    namespace : int
        Its network namespace.
    """

    pid: int | None
    name: str
    descriptor: int | None
    family: str
    type: str
    protocol: str
    local: str
    local_port: int
    remote: str
    remote_port: int
    state: str
    inode: int
    namespace: int


@dataclass(frozen=True, slots=True)
class Interface:
    """A network device.

    Attributes
    ----------
    name : str
        Of the device.
    index : int
        Its number.
    namespace : int
        Its network namespace.
    up : bool
        Whether it is switched on.
    mtu : int
        Bytes of a packet at most.
    hardware : str
        Its hardware address, empty for none.
    addresses : tuple of str
        Its addresses, each with the length of its prefix.
    """

    name: str
    index: int
    namespace: int
    up: bool
    mtu: int
    hardware: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted file system.

    Attributes
    ----------
    namespace : int
        The mount namespace.
    id, parent : int
        As ``/proc/PID/mountinfo`` numbers them.
    source : str
        Device, or what else was mounted.
    target : str
        Where.
    filesystem : str
        Its type.
    options : tuple of str
        ``ro`` or ``rw``, ``nosuid``, ``nodev``, ``noexec``.
    """

    namespace: int
    id: int
    parent: int
    source: str
    target: str
    filesystem: str
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Module:
    """A kernel module.

    Attributes
    ----------
    name : str
        Of the module.
    address, size : int
        Where its code lies, and bytes of all of it.
    state : str
        ``live``, ``coming``, ``going`` or ``unformed``.
    users : int
        How many hold it.
    taints : int
        Bits for what is unusual of it: out of the tree, unsigned, and so on.
    """

    name: str
    address: int
    size: int
    state: str
    users: int
    taints: int


@dataclass(frozen=True, slots=True)
class MemoryArea:
    """A stretch of the memory of a process.

    Attributes
    ----------
    pid : int
        The process.
    name : str
        Its name.
    start, end : int
        Virtual addresses.
    permissions : str
        As in ``/proc/PID/maps``: ``rwxp``, or ``s`` for shared.
    offset : int
        In the file.
    path : str
        The file, ``[heap]``, ``[stack]``, or nothing.
    writable_code : bool
        Whether it may be written and executed at once, which few programs need.
    """

    pid: int
    name: str
    start: int
    end: int
    permissions: str
    offset: int
    path: str
    writable_code: bool


@dataclass(frozen=True, slots=True)
class Environment:
    """The environment that a process was started with.

    Attributes
    ----------
    pid : int
        The process.
    name : str
        Its name.
    variables : tuple of str
        ``NAME=VALUE`` each.
    """

    pid: int
    name: str
    variables: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PageOwner:
    """Whose a page is.

    Attributes
    ----------
    kind : str
        ``free``, ``reserved`` (the kernel's own code and data, and what the machine keeps),
        ``slab``, ``page-table``, ``kernel`` (what else the kernel has), ``file`` (page cache),
        ``anonymous`` (memory of a process), or ``unknown``.
    name : str
        The file, or the process.
    pid : int or None
        Of that process.
    """

    kind: str
    name: str
    pid: int | None


@dataclass(frozen=True, slots=True)
class OwnedPages:
    """How much belongs to whom.

    Attributes
    ----------
    owner : PageOwner
        Who.
    pages : int
        How many.
    """

    owner: PageOwner
    pages: int


@dataclass(frozen=True, slots=True)
class OwnerChange:
    """Pages that differ between two saves.

    Attributes
    ----------
    before, after : PageOwner or None
        Whose they were, and are; None where no RAM is.
    pages : int
        How many.
    """

    before: PageOwner | None
    after: PageOwner | None
    pages: int


@dataclass(frozen=True, slots=True)
class CachedFile:
    """A file of which pages are in memory.

    Attributes
    ----------
    path : str
        Where it is, through the first mount of its file system.
    filesystem : str
        The type of that.
    inode : int
        Its number.
    size : int
        Bytes of the file.
    pages : int
        How many are in memory.
    deleted : bool
        Whether it has no name any more.
    accessed, modified, changed : float
        Its times, in seconds since 1970.
    """

    path: str
    filesystem: str
    inode: int
    size: int
    pages: int
    deleted: bool
    accessed: float
    modified: float
    changed: float


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes of a file, from `start` to before `end`."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Extraction:
    """A file that was taken out of the page cache.

    Attributes
    ----------
    file : CachedFile
        Which.
    output : str
        Where it was written to.
    missing : tuple of ByteRange
        What is not in memory, and zero in the output.
    holes : tuple of ByteRange
        What the file has no data for.
    sha256 : str or None
        Of the output, where nothing is missing.
    dry_run : bool
        Nothing was written.
    """

    file: CachedFile
    output: str
    missing: tuple[ByteRange, ...]
    holes: tuple[ByteRange, ...]
    sha256: str | None
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened.

    Attributes
    ----------
    time : float
        When, in seconds since 1970.
    description : str
        What the time is of, in the words of Timesketch.
    message : str
        What happened.
    """

    time: float
    description: str
    message: str


@dataclass(frozen=True, slots=True)
class GuestReport:
    """The answers that were asked for; None for the others.

    All is as the kernel's own lists say: who controls the kernel can take a process or a
    module out of them.

    Attributes
    ----------
    path : str
        The image.
    host : Host or None
        The system as a whole.
    processes : tuple of Process or None
        In the order of their start.
    log : tuple of LogLine or None
        The kernel's log, the oldest first.
    files : tuple of OpenFile or None
        Open files, process by process.
    sockets : tuple of Socket or None
        Sockets, process by process.
    interfaces : tuple of Interface or None
        Network devices.
    mounts : tuple of Mount or None
        Mounted file systems.
    modules : tuple of Module or None
        Kernel modules, the newest first.
    areas : tuple of MemoryArea or None
        Memory maps, process by process.
    environments : tuple of Environment or None
        Environments of processes.
    cached : tuple of CachedFile or None
        Files of which pages are in memory.
    pages : tuple of OwnedPages or None
        How much of memory belongs to whom, the most first.
    events : tuple of Event or None
        What happened when, the earliest first.
    findings : tuple of Finding
        What is damaged, missing or strange.
    """

    path: str
    host: Host | None
    processes: tuple[Process, ...] | None
    log: tuple[LogLine, ...] | None
    files: tuple[OpenFile, ...] | None
    sockets: tuple[Socket, ...] | None
    interfaces: tuple[Interface, ...] | None
    mounts: tuple[Mount, ...] | None
    modules: tuple[Module, ...] | None
    areas: tuple[MemoryArea, ...] | None
    environments: tuple[Environment, ...] | None
    cached: tuple[CachedFile, ...] | None
    pages: tuple[OwnedPages, ...] | None
    events: tuple[Event, ...] | None
    findings: tuple[Finding, ...]
