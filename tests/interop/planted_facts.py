"""What `savefmt.linux` tells of a planted guest, against what the guest printed of itself."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from socket import AF_INET, AF_INET6, inet_ntop

from interop.planted import HOST, KERNEL_LOG, SECRET, Report
from savefmt.image import SaveImage
from savefmt.linux.answers import ask
from savefmt.linux.facts import GuestReport

_STATES = {
    "S": "sleeping",
    "D": "waiting",
    "I": "idle",
    "Z": "zombie",
    "T": "stopped",
    "P": "parked",
}
_TCP_STATES = {"01": "established", "0A": "listening"}
CLOCK_SLACK = 30.0
_WORKER = re.compile(r"kworker/[\w:]+")


def check_host(found: GuestReport, report: Report, *, clock: bool = True) -> None:
    """Names, release, command line and time."""
    assert found.host is not None
    assert found.host.name == HOST
    assert report.text("/proc/version").startswith(f"Linux version {found.host.release} ")
    assert found.host.version in report.text("/proc/version")
    assert found.host.command_line == report.text("/proc/cmdline").strip()
    if clock:
        assert found.host.clock is not None
        assert found.host.uptime is not None
        assert abs(found.host.clock - report.clock) < CLOCK_SLACK
        uptime = float(report.text("/proc/uptime").split()[0])
        assert abs(found.host.uptime - uptime) < CLOCK_SLACK


def check_processes(found: GuestReport, report: Report) -> None:
    """Every process that was there, with all that is told of it."""
    assert found.processes is not None
    told = {one.pid: one for one in found.processes}
    assert len(told) == len(found.processes)
    there = report.pids()
    assert len(there) > 20
    stays = [pid for pid in there if pid in told]
    # Threads of the kernel come and go by themselves; they have no arguments.
    gone = [pid for pid in there if pid not in told]
    assert [report.status(pid) for pid in gone if report.files[f"/proc/{pid}/cmdline"]] == []
    assert len(gone) < 10
    for pid in stays:
        one = told[pid]
        status = report.status(pid)
        fields = report.text(f"/proc/{pid}/stat").rpartition(")")[2].split()
        assert one.parent == int(status["PPid"])
        assert one.uid == int(status["Uid"].split()[0])
        assert one.gid == int(status["Gid"].split()[0])
        assert one.threads == int(status["Threads"])
        assert one.own_pid == int(status["NSpid"].split()[-1])
        assert abs(one.uptime - int(fields[19]) / 100) < 0.02
        if not _WORKER.match(one.name):
            assert one.name[:15] == status["Name"][:15]
            # Those of the kernel do some work in between.
            if report.files[f"/proc/{pid}/cmdline"] and fields[0] == "S":
                assert one.state in ("sleeping", "waiting", "running")
            assert one.state in (*_STATES.values(), "running")
        words = report.files[f"/proc/{pid}/cmdline"].split(b"\0")[:-1]
        assert list(one.command_line) == [word.decode() for word in words]
        assert one.kernel == (not words)
        target = report.files.get(f"/proc/{pid}/exe")
        assert one.executable == (target.decode() if target is not None else None)
        if one.pid_namespace:
            for kind in ("pid", "user", "net", "mnt"):
                names = {"net": "network", "mnt": "mount"}
                number = getattr(one, f"{names.get(kind, kind)}_namespace")
                assert report.text(f"/proc/{pid}/ns/{kind}") == f"{kind}:[{number}]"
        if f"/proc/{pid}/cgroup" in report.files:
            assert f"0::{one.cgroup}" in report.text(f"/proc/{pid}/cgroup").splitlines()


def check_log(found: GuestReport, report: Report) -> None:
    """Line by line."""
    assert found.log is not None
    told = [one.text for one in found.log]
    said = [line.split("] ", 1)[-1] for line in report.log if line.strip()]
    assert any(KERNEL_LOG in line for line in told)
    kept = [line.strip() for text in told for line in text.split("\n") if line.strip()]
    # dmesg of busybox shows the end of a long log only.
    assert len(said) > 100
    assert kept[len(kept) - len(said) :] == [line.strip() for line in said]


def check_files(found: GuestReport, report: Report) -> None:
    """Every descriptor of every process."""
    assert found.files is not None
    told = {(one.pid, one.descriptor): one for one in found.files}
    said = {
        (int(match[1]), int(match[2])): data.decode()
        for path, data in report.files.items()
        if (match := re.fullmatch(r"/proc/(\d+)/fd/(\d+)", path))
    }
    gone = {pid for pid, _ in said} - set(report.pids())
    said = {key: path for key, path in said.items() if key[0] not in gone}
    assert len(said) > 20
    for key, path in said.items():
        one = told[key]
        assert one.path + " (deleted)" * one.deleted == path, key
    deleted = [one for one in found.files if one.deleted]
    assert [(one.path, one.size) for one in deleted] == [("/tmp/gone", 35)]


def _address(digits: str, family: int) -> str:
    data = bytes.fromhex(digits)
    words = struct.unpack(f">{len(data) // 4}I", data)
    return inet_ntop(family, struct.pack(f"<{len(words)}I", *words))


def _from_table(text: str, protocol: str, family: int) -> Iterable[tuple[object, ...]]:
    for line in text.splitlines()[1:]:
        fields = line.split()
        (local, port), (remote, far) = (field.split(":") for field in fields[1:3])
        state = _TCP_STATES.get(fields[3], "") if protocol == "tcp" else "unconnected"
        yield (
            *(protocol, _address(local, family), int(port, 16), _address(remote, family)),
            *(int(far, 16), state, int(fields[9])),
        )


def check_sockets(found: GuestReport, report: Report) -> None:
    """The tables of TCP and UDP, the sockets of unix, and the devices."""
    assert found.sockets is not None
    said = {
        *_from_table(report.text("/proc/net/tcp"), "tcp", AF_INET),
        *_from_table(report.text("/proc/net/tcp6"), "tcp", AF_INET6),
        *_from_table(report.text("/proc/net/udp"), "udp", AF_INET),
    }
    told = {
        (one.protocol, one.local, one.local_port, one.remote, one.remote_port, one.state, one.inode)
        for one in found.sockets
        if one.family in ("inet", "inet6")
    }
    assert said == told
    assert len(said) == 5
    unix = [one for one in found.sockets if one.family == "unix"]
    assert [one.local for one in unix] == ["/run/canary.sock"]
    assert f"{unix[0].inode} /run/canary.sock" in report.text("/proc/net/unix")
    assert found.interfaces is not None
    own = [one for one in found.interfaces if one.namespace == found.interfaces[0].namespace]
    for one in own:
        said_of_it = report.addresses[report.addresses.index(f": {one.name}:") :]
        assert one.hardware in said_of_it
        for address in one.addresses:
            assert address in said_of_it
    assert {one.name for one in own} == set(re.findall(r"^\d+: (\w+):", report.addresses, re.M))
    assert "10.9.8.7/24" in {address for one in own for address in one.addresses}


def check_mounts(found: GuestReport, report: Report) -> None:
    """As each process sees them."""
    assert found.mounts is not None
    assert found.processes is not None
    for one in found.processes:
        lines = report.files.get(f"/proc/{one.pid}/mountinfo", b"").decode().splitlines()
        if one.kernel or not lines:
            continue
        said = {tuple(map(int, line.split()[:2])): line.split() for line in lines}
        own = [m for m in found.mounts if m.namespace == one.mount_namespace]
        told = {(m.id, m.parent): m for m in own}
        # mountinfo leaves out what lies above the root of the process.
        assert said.keys() <= told.keys()
        for key, words in said.items():
            mount, dash = told[key], words.index("-")  # type: ignore[index]
            assert mount.target == words[4]
            assert mount.filesystem == words[dash + 1]
            assert mount.source == words[dash + 2]
            assert set(mount.options) <= set(words[5].split(","))


def check_modules(found: GuestReport, report: Report) -> None:
    """Name, size, users and address."""
    assert found.modules is not None
    said = [line.split() for line in report.text("/proc/modules").splitlines()]
    assert [(one.name, one.size, one.users) for one in found.modules] == [
        (words[0], int(words[1]), int(words[2])) for words in said
    ]
    assert [one.address for one in found.modules] == [int(words[5], 16) for words in said]
    assert {"dummy", "loop"} <= {one.name for one in found.modules}


def check_areas(found: GuestReport, report: Report) -> None:
    """Line by line of ``/proc/PID/maps``."""
    assert found.areas is not None
    for pid in report.pids():
        said = report.text(f"/proc/{pid}/maps").splitlines()
        told = [one for one in found.areas if one.pid == pid]
        assert len(told) == len(said)
        for one, line in zip(told, said, strict=True):
            words = line.split(maxsplit=5)
            assert f"{one.start:08x}-{one.end:08x}" == words[0]
            assert one.permissions == words[1]
            assert one.offset == int(words[2], 16) or one.path.startswith("[")
            assert one.path == (words[5].strip() if len(words) > 5 else "")
    code = [one for one in found.areas if one.writable_code]
    assert [one.name for one in code] == ["plant"]


def check_environments(found: GuestReport, report: Report) -> None:
    """Each variable."""
    assert found.environments is not None
    for one in found.environments:
        if one.pid in report.pids():
            said = report.files[f"/proc/{one.pid}/environ"].split(b"\0")[:-1]
            assert list(one.variables) == [word.decode() for word in said]
    assert f"SAVEFMT_SECRET={SECRET}" in {v for one in found.environments for v in one.variables}


def check_all(image: SaveImage, report: Report, *, all_names: bool = True) -> GuestReport:
    """Hold every answer against the guest's own.

    Parameters
    ----------
    image : SaveImage
        Of the guest.
    report : Report
        What it printed.
    all_names : bool
        Whether its kernel keeps the names of variables, too (KALLSYMS_ALL).

    Returns
    -------
    GuestReport
        All answers.
    """
    found = ask(image, "all")
    check_host(found, report, clock=all_names)
    check_processes(found, report)
    check_log(found, report)
    check_files(found, report)
    check_sockets(found, report)
    check_mounts(found, report)
    check_areas(found, report)
    check_environments(found, report)
    if all_names:
        check_modules(found, report)
        assert found.findings == ()
    return found
