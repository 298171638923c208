"""What ran in a Linux guest, as tables and as JSON."""

from __future__ import annotations

import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, get_type_hints

from savefmt.cli.render.document import values
from savefmt.cli.render.plain import brief_size, plain
from savefmt.linux.facts import (
    CachedFile,
    Environment,
    Event,
    Extraction,
    GuestReport,
    Host,
    Interface,
    LogLine,
    MemoryArea,
    Module,
    Mount,
    OpenFile,
    OwnedPages,
    OwnerChange,
    PageOwner,
    Process,
    Socket,
)
from savefmt.model import Finding

_PAGE = 4096
_SHOWN = 8
"""Rows of a kind in the summary."""
_SERIOUS = 3
"""Level of the log from which on the summary shows it: errors."""
_GAP = "  "


def moment(seconds: float | None) -> str:
    """Give a time of day, in UTC."""
    if seconds is None:
        return "-"
    try:
        return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(seconds))
    except (OverflowError, ValueError, OSError):
        return f"{seconds:.0f}"


def span(seconds: float | None) -> str:
    """Give a time that passed, as ``3d 04:05:06``."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days}d " * bool(days) + f"{hours:02}:{minutes:02}:{rest:02}"


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """Align columns; the last one is cut at the edge of a terminal.

    Parameters
    ----------
    heads : sequence of str
        Names of the columns; one that begins with ``>`` is aligned to the right.
    rows : iterable of sequence
        Their content.

    Yields
    ------
    str
        Lines.
    """
    right = [head.startswith(">") for head in heads]
    texts = [[head.removeprefix(">").upper() for head in heads]]
    texts += [[plain(str(cell)) for cell in row] for row in rows]
    widths = [max(len(row[place]) for row in texts) for place in range(len(heads))]
    edge = _edge()
    for row in texts:
        cells = [
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(row, widths, right, strict=True)
        ]
        line = _GAP.join(cells).rstrip()
        yield line if edge is None or len(line) <= edge else line[: max(edge - 1, 1)] + "…"


def _edge() -> int | None:
    if sys.stdout is None or not sys.stdout.isatty():
        return None
    from shutil import get_terminal_size

    return get_terminal_size().columns


def answer_lines(report: GuestReport, answer: str) -> Iterator[str]:
    """Say an answer.

    Parameters
    ----------
    report : GuestReport
        What was asked for.
    answer : str
        Its name.

    Yields
    ------
    str
        Lines.
    """
    if answer == "summary":
        yield from _summary(report)
    elif answer == "tree":
        yield from _tree(report.processes or ())
    else:
        parts = [name for name in _TABLES if getattr(report, name) is not None]
        for number, name in enumerate(parts):
            if len(parts) > 1:
                yield from [""] * bool(number) + [f"{name}:"]
            yield from _TABLES[name](getattr(report, name))
    if answer == "timeline":
        return  # a table for another program
    for finding in report.findings:
        yield f"{finding.severity}: {plain(finding.message)}"


def _host(host: Host) -> Iterator[str]:
    yield f"host:          {plain(host.name)}" + f".{plain(host.domain)}" * bool(host.domain)
    yield plain(f"system:        Linux {host.release} ({host.machine}), {host.version}")
    yield f"command line:  {plain(host.command_line) if host.command_line else '-'}"
    yield f"booted:        {moment(host.booted)}"
    yield f"saved:         {moment(host.clock)}, up {span(host.uptime)}"
    yield f"vCPUs, RAM:    {host.cpus}, {brief_size(host.memory)}"


def _summary(report: GuestReport) -> Iterator[str]:
    """One screen for somebody who has never seen this guest."""
    if report.host is not None:
        yield from _host(report.host)
    found = report.processes or ()
    own = [one for one in found if not one.kernel]
    yield f"processes:     {len(own)}, and {len(found) - len(own)} threads of the kernel"
    yield from _few("", own, _process_line)
    for (namespace, group), members in sorted(_containers(own).items()):
        yield (
            f"container:     namespace {namespace}, cgroup {plain(group) or '-'}: "
            f"{len(members)} processes"
        )
    listening = [
        one for one in report.sockets or () if one.state == "listening" and one.family != "unix"
    ]
    yield from _few("listening:", listening, _listener)
    connected = [
        one for one in report.sockets or () if one.state == "established" and one.family != "unix"
    ]
    yield from _few("connected:", connected, _connection)
    yield from _few(
        "networks:",
        [one for one in report.interfaces or () if one.addresses],
        lambda one: f"{one.name} {', '.join(one.addresses)}",
    )
    modules = report.modules
    yield f"modules:       {len(modules) if modules is not None else '-'}"
    code = [one for one in report.areas or () if one.writable_code]
    yield from _few(
        "writable code:",
        code,
        lambda one: f"{one.start:#x}-{one.end:#x} of {one.name}({one.pid}) {one.path}",
    )
    errors = [one for one in report.log or () if one.level <= _SERIOUS]
    yield from _few("errors logged:", errors, lambda one: f"[{one.uptime:.3f}] {one.text}")
    yield "all as the kernel's own lists say"


def _few(title: str, items: Sequence[Any], line: Callable[[Any], str]) -> Iterator[str]:
    edge = _edge()
    for number, item in enumerate(items[:_SHOWN]):
        text = f"{title if not number else '':<15}{plain(line(item))}".rstrip()
        yield text if edge is None or len(text) <= edge else text[: max(edge - 1, 1)] + "…"
    if len(items) > _SHOWN:
        yield f"{'':<15}and {len(items) - _SHOWN} more"


def _containers(found: Iterable[Process]) -> dict[tuple[int, str], list[Process]]:
    """Processes outside of the first one's pid namespace, by namespace and cgroup."""
    groups: dict[tuple[int, str], list[Process]] = defaultdict(list)
    first = None
    for one in found:
        first = one.pid_namespace if first is None else first
        if one.pid_namespace != first:
            groups[one.pid_namespace, one.cgroup].append(one)
    return groups


def _process_line(one: Process) -> str:
    return f"{one.pid:>6} {_user(one.uid):<6} {_command(one)}"


def _user(uid: int) -> str:
    return "root" if uid == 0 else str(uid)


def _command(one: Process) -> str:
    words = " ".join(one.command_line)
    return f"[{one.name}]" if one.kernel or not words else words


def _place(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _owner(one: Socket) -> str:
    return f"{one.name}({one.pid})" if one.pid is not None else "no process"


def _listener(one: Socket) -> str:
    return f"{one.protocol} {_place(one.local, one.local_port)} {_owner(one)}"


def _connection(one: Socket) -> str:
    far = _place(one.remote, one.remote_port)
    return f"{one.protocol} {_place(one.local, one.local_port)} to {far} {_owner(one)}"


def _processes(found: Iterable[Process]) -> Iterator[str]:
    found = list(found)
    spaces = Counter(one.pid_namespace for one in found)
    heads = [">pid", ">parent", "user", ">threads", "state", ">cpu", "started"]
    several = len(spaces) > 1
    yield from table(
        [*heads, *(["pid namespace", "cgroup"] if several else []), "command"],
        (
            (
                *(one.pid, one.parent, _user(one.uid), one.threads, one.state),
                "-" if one.cpu is None else one.cpu,
                moment(one.started) if one.started is not None else f"+{one.uptime:.2f} s",
                *((one.pid_namespace, one.cgroup) if several else ()),
                _command(one),
            )
            for one in found
        ),
    )


def _tree(found: Iterable[Process]) -> Iterator[str]:
    children: dict[int, list[Process]] = defaultdict(list)
    pids = set()
    for one in found:
        children[one.parent].append(one)
        pids.add(one.pid)
    roots = [one for parent in children if parent not in pids for one in children[parent]]
    stack = [(one, 0) for one in reversed(roots)]
    seen = set[int]()
    while stack:
        one, depth = stack.pop()
        if one.address in seen:
            continue
        seen.add(one.address)
        yield plain(f"{one.pid:>7}  {'  ' * min(depth, 40)}{_command(one)}")
        stack += [(child, depth + 1) for child in reversed(children[one.pid])]
    # A process that is its own ancestor cannot be reached from any root.
    for one in (one for group in children.values() for one in group if one.address not in seen):
        yield plain(f"{one.pid:>7}  {_command(one)} (below itself)")


def _log(found: Iterable[LogLine]) -> Iterator[str]:
    for one in found:
        yield plain(f"[{one.uptime:12.6f}] {one.text}")


def _files(found: Iterable[OpenFile]) -> Iterator[str]:
    return table(
        [">pid", "name", ">fd", "access", "kind", ">size", ">inode", "path"],
        (
            (
                *(one.pid, one.name, one.descriptor, one.access, one.kind, one.size, one.inode),
                f"{one.path}{' (deleted)' * one.deleted}",
            )
            for one in found
        ),
    )


def _sockets(found: Iterable[Socket]) -> Iterator[str]:
    def ends(one: Socket) -> tuple[str, str]:
        if one.family in ("inet", "inet6"):
            return _place(one.local, one.local_port), _place(one.remote, one.remote_port)
        return one.local or "-", one.remote or "-"

    return table(
        [">pid", "name", ">fd", "family", "protocol", "state", "local", "remote"],
        (
            (
                "-" if one.pid is None else one.pid,
                one.name or "-",
                "-" if one.descriptor is None else one.descriptor,
                *(one.family, one.protocol or one.type, one.state, *ends(one)),
            )
            for one in found
        ),
    )


def _interfaces(found: Iterable[Interface]) -> Iterator[str]:
    return table(
        ["namespace", ">index", "name", "state", ">mtu", "hardware", "addresses"],
        (
            (
                *(one.namespace, one.index, one.name, "up" if one.up else "down", one.mtu),
                *(one.hardware or "-", ", ".join(one.addresses) or "-"),
            )
            for one in found
        ),
    )


def _mounts(found: Iterable[Mount]) -> Iterator[str]:
    return table(
        ["namespace", ">id", ">parent", "filesystem", "options", "source", "target"],
        (
            (
                *(one.namespace, one.id, one.parent, one.filesystem, ",".join(one.options)),
                *(one.source or "-", one.target),
            )
            for one in found
        ),
    )


def _modules(found: Iterable[Module]) -> Iterator[str]:
    return table(
        ["name", "address", ">size", ">users", "state", "taints"],
        (
            (one.name, hex(one.address), one.size, one.users, one.state, hex(one.taints))
            for one in found
        ),
    )


def _areas(found: Iterable[MemoryArea]) -> Iterator[str]:
    return table(
        [">pid", "name", "start", "end", "permissions", "offset", "path"],
        (
            (
                *(one.pid, one.name, hex(one.start), hex(one.end)),
                f"{one.permissions}{' !' * one.writable_code}",
                *(hex(one.offset), one.path),
            )
            for one in found
        ),
    )


def _environments(found: Iterable[Environment]) -> Iterator[str]:
    for one in found:
        yield f"{plain(one.name)}({one.pid}):"
        yield from (f"  {plain(variable)}" for variable in one.variables)


def _cached(found: Iterable[CachedFile]) -> Iterator[str]:
    return table(
        ["filesystem", ">inode", ">size", ">in memory", "modified", "path"],
        (
            (
                *(one.filesystem, one.inode, one.size, one.pages * _PAGE, moment(one.modified)),
                f"{one.path}{' (deleted)' * one.deleted}",
            )
            for one in found
        ),
    )


def owner_name(owner: PageOwner) -> str:
    """Say whose a page is."""
    if owner.kind == "anonymous" and owner.pid is not None:
        return f"memory of {owner.name}({owner.pid})"
    return f"file {owner.name}" if owner.kind == "file" else owner.kind


def _pages(found: Iterable[OwnedPages]) -> Iterator[str]:
    return table([">pages", "owner"], ((one.pages, owner_name(one.owner)) for one in found))


def owner_change_lines(changes: Sequence[OwnerChange]) -> Iterator[str]:
    """Say whose the pages are that differ."""
    if changes:
        yield "owners:"
    for one in changes:
        before, after = (owner_name(side) if side else "nobody" for side in (one.before, one.after))
        was = "" if before == after else f", before: {before}"
        yield plain(f"  {one.pages:>8} pages of {after}{was}")


def _events(found: Iterable[Event]) -> Iterator[str]:
    """A table as Timesketch takes it."""
    yield "message,datetime,timestamp_desc"
    for one in found:
        words = (plain(one.message), _exact(one.time), one.description)
        yield ",".join(f'"{word.replace(chr(34), chr(34) * 2)}"' for word in words)


def _exact(seconds: float) -> str:
    """Give a time of day to the microsecond, as ISO 8601 has it."""
    try:
        whole = datetime.fromtimestamp(round(seconds, 6), UTC)
    except (OverflowError, ValueError, OSError):
        return f"{seconds:.6f}"
    return whole.isoformat(timespec="microseconds")


def extraction_lines(found: Extraction) -> Iterator[str]:
    """Say what was taken out of the page cache, and what is missing of it."""
    would = "would write " if found.dry_run else ""
    yield f"{would}{plain(found.output)}: {found.file.size} bytes of {plain(found.file.path)}"
    if found.sha256:
        yield f"  SHA-256 {found.sha256}"
    for title, places in (("missing", found.missing), ("hole", found.holes)):
        for place in places[:_SHOWN]:
            yield f"  {title}: {place.start:#x} to {place.end:#x}"
        if len(places) > _SHOWN:
            yield f"  and {len(places) - _SHOWN} more"


_TABLES: dict[str, Callable[[Any], Iterator[str]]] = {
    "host": _host,
    "processes": _processes,
    "log": _log,
    "files": _files,
    "sockets": _sockets,
    "interfaces": _interfaces,
    "mounts": _mounts,
    "modules": _modules,
    "areas": _areas,
    "environments": _environments,
    "cached": _cached,
    "pages": _pages,
    "events": _events,
}


_ROW_TYPES: dict[str, type] = {
    "host": Host,
    "processes": Process,
    "log": LogLine,
    "files": OpenFile,
    "sockets": Socket,
    "interfaces": Interface,
    "mounts": Mount,
    "modules": Module,
    "areas": MemoryArea,
    "environments": Environment,
    "cached": CachedFile,
    "pages": OwnedPages,
    "events": Event,
    "findings": Finding,
}


def _row_of(name: str, kind: type) -> Any:
    return {"row": Literal[name], **get_type_hints(kind)}


ROWS: tuple[Any, ...] = tuple(_row_of(name, kind) for name, kind in _ROW_TYPES.items())
"""What one line of JSON may be."""


def rows(report: GuestReport) -> Iterator[dict[str, Any]]:
    """Yield one object for each row, which says by ``row`` what it is of."""
    for name in _ROW_TYPES:
        found = getattr(report, name)
        for row in (found,) if name == "host" and found is not None else found or ():
            yield {"row": name, **values(row)}
