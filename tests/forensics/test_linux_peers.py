"""`savefmt linux` tells what volatility3 and drgn tell, each by another way than ours.

volatility3 has its types and symbols from pakunoda, drgn from the kernel's debug package; ours come
from our own readers of BTF and kallsyms.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from interop import planted
from interop.conftest import lack_of_qemu

import savefmt as library
from forensics.conftest import FOLDER, Volatility, need_module
from savefmt.drgn import program
from savefmt.image import SaveImage
from savefmt.linux.answers import ask
from savefmt.linux.facts import GuestReport

pytestmark = [pytest.mark.forensics, pytest.mark.timeout(1800)]

Rows = list[dict[str, Any]]
BUFFERED = library.IOOptions(direct=False)
ADDRESSES = (1 << 48) - 1
"""volatility3 leaves out what is the same in all of a kernel's addresses."""
LEVELS = ("emerg", "alert", "crit", "err", "warn", "notice", "info", "debug")
STATES = {"established": "ESTABLISHED", "listening": "LISTEN", "unconnected": "UNCONNECTED"}


def saved(home: Path, directory: Path) -> Path:
    """Boot the planted guest with a kernel, and save it."""
    image = directory / "image"
    with planted.boot(home, directory) as machine:
        machine.migrate_to(f"file:{image}", {"mapped-ram": True})
    return image


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A guest with modules."""
    if lack_of_qemu() or planted.lack_of_kernel("6.1"):
        pytest.skip(lack_of_qemu() or planted.lack_of_kernel("6.1"))
    return saved(planted.KERNELS / "6.1", tmp_path_factory.mktemp("peers"))


@pytest.fixture(scope="module")
def vol(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Rows]:
    """Runs a plugin of volatility3 on the image."""
    volatility = Volatility(tmp_path_factory.mktemp("volatility"))
    core = image.with_name("core")
    library.export(image, core)
    volatility.take_symbols(core)
    core.unlink()
    return lambda plugin: json.loads(volatility.run(image, "-r", "json", f"linux.{plugin}"))


@pytest.fixture(scope="module")
def told(image: Path) -> Iterator[GuestReport]:
    """What we tell of it."""
    with library.open(image, io=BUFFERED) as opened:
        yield ask(opened, "all")


def test_processes(vol: Callable[[str], Rows], told: GuestReport) -> None:
    rows = vol("pslist.PsList")

    names = ("OFFSET (V)", "PID", "PPID", "COMM", "UID", "GID")
    assert len(rows) > 50
    assert [tuple(row[name] for name in names) for row in rows] == [
        (one.address & ADDRESSES, one.pid, one.parent, one.name[:15], one.uid, one.gid)
        for one in told.processes or ()
    ]
    for row, one in zip(rows, told.processes or (), strict=True):
        assert one.started is not None
        # To it, the guest began at a whole second.
        later = one.started - datetime.fromisoformat(row["CREATION TIME"]).timestamp()
        assert -0.01 < later < 1.01


def test_open_files(vol: Callable[[str], Rows], told: GuestReport) -> None:
    rows = [row for row in vol("lsof.Lsof") if row["PID"] == row["TID"]]

    theirs = {(row["PID"], row["FD"]): row for row in rows}
    ours = {(one.pid, one.descriptor): one for one in told.files or ()}
    assert len(ours) > 20
    assert set(theirs) == set(ours)
    for key, one in ours.items():
        row = theirs[key]
        assert row["Inode"] == one.inode
        assert row["Path"].removesuffix(" (deleted)").lstrip() == one.path
        if row["Type"] == "REG":
            assert (row["Size"], one.kind) == (one.size, "file")


def _port(row: dict[str, Any]) -> str:
    return "0" if row["Family"] == "AF_UNIX" else str(row["Source Port"] or 0)


def test_sockets(vol: Callable[[str], Rows], told: GuestReport) -> None:
    rows = [row for row in vol("sockstat.Sockstat") if row["PID"] == row["TID"]]

    theirs = {
        (
            *(row["NetNS"], row["PID"], row["FD"], row["Family"], row["Type"]),
            # Of a path, the port is the number of the inode.
            *(row["Source Addr"] or "", _port(row), row["State"]),
        )
        for row in rows
    }
    ours = {
        (
            *(one.namespace, one.pid, one.descriptor, f"AF_{one.family.upper()}", one.type.upper()),
            *(one.local, str(one.local_port), STATES[one.state]),
        )
        for one in told.sockets or ()
        if one.pid is not None
    }
    assert len(ours) >= 6
    assert theirs == ours


def test_mounts(vol: Callable[[str], Rows], told: GuestReport) -> None:
    rows = vol("mountinfo.MountInfo")

    names = ("MNT_NS_ID", "MOUNT ID", "PARENT_ID", "MOUNT_POINT", "FSTYPE", "MOUNT_SRC")
    theirs = {tuple(row[name] for name in names) for row in rows}
    ours = {
        (one.namespace, one.id, one.parent, one.target, one.filesystem, one.source)
        for one in told.mounts or ()
    }
    assert len(theirs) > 10
    assert theirs == ours


def test_modules(vol: Callable[[str], Rows], told: GuestReport) -> None:
    rows = vol("lsmod.Lsmod")

    ours = [(one.name, one.size) for one in told.modules or ()]
    assert {name for name, _ in ours} >= {"dummy", "loop"}
    assert [(row["Module Name"], row["Code Size"]) for row in rows] == ours


def test_writable_code(vol: Callable[[str], Rows], told: GuestReport) -> None:
    rows = vol("malfind.Malfind")

    ours = [(one.pid, one.start, one.end) for one in told.areas or () if one.writable_code]
    assert len(ours) == 1
    assert [(row["PID"], row["Start"], row["End"]) for row in rows] == ours


def test_the_log(vol: Callable[[str], Rows], told: GuestReport) -> None:
    rows = vol("kmsg.Kmsg")

    # It prints what a driver says of itself as lines of their own.
    theirs = [
        (row["timestamp"], row["level"], row["line"])
        for row in rows
        if not row["line"].startswith((" SUBSYSTEM=", " DEVICE="))
    ]
    ours = [
        (f"{int(one.uptime * 10**6 + 1e-3) / 10**6:.6f}", LEVELS[one.level], line)
        for one in told.log or ()
        for line in one.text.split("\n")
    ]
    assert len(ours) > 200
    # volatility3 leaves out the last record.
    assert theirs == ours[: len(theirs)]
    assert len(ours) - len(theirs) <= 1


def test_addresses(vol: Callable[[str], Rows], told: GuestReport) -> None:
    rows = vol("ip.Addr")

    theirs = {(row["NetNS"], row["Interface"], f"{row['IP']}/{row['Prefix']}") for row in rows}
    ours = {
        (one.namespace, one.name, address)
        for one in told.interfaces or ()
        for address in one.addresses
    }
    assert len(theirs) > 3
    assert theirs == ours


# --- drgn, with debug information ---


@pytest.fixture(scope="module")
def debugged(tmp_path_factory: pytest.TempPathFactory, vmlinux: Path) -> Iterator[SaveImage]:
    """A guest whose kernel has a debug package."""
    need_module("drgn")
    if lack_of_qemu():
        pytest.skip(lack_of_qemu())
    with library.open(saved(FOLDER, tmp_path_factory.mktemp("debugged")), io=BUFFERED) as opened:
        yield opened


@pytest.fixture(scope="module")
def by_vmlinux(debugged: SaveImage, vmlinux: Path) -> Any:
    """Drgn's program, with types and symbols of the debug package alone."""
    made = program(debugged)
    made.load_debug_info([vmlinux], main=True)
    return made


def test_processes_by_drgn(debugged: SaveImage, by_vmlinux: Any) -> None:
    from drgn.helpers.linux.mm import cmdline
    from drgn.helpers.linux.pid import for_each_task

    theirs = {
        (
            *(task.tgid.value_(), task.real_parent.tgid.value_(), task.comm.string_().decode()),
            *(task.value_(), task.cred.uid.val.value_()),
            tuple(word.decode() for word in (cmdline(task) or () if task.mm else ())),
        )
        for task in for_each_task(by_vmlinux)
        if task.pid == task.tgid
    }

    ours = {
        (one.pid, one.parent, one.name, one.address, one.uid, one.command_line)
        for one in ask(debugged, "ps").processes or ()
    }
    named = {one[0]: one for one in ours}
    assert len(theirs) > 50
    assert {one[0] for one in theirs} == set(named)
    for one in theirs:
        # Workers of the kernel have longer names than the kernel's own field.
        mine = named[one[0]]
        assert (*one[:2], *one[3:]) == (*mine[:2], *mine[3:])
        assert mine[2].startswith(one[2]) or one[2].startswith("kworker")


def test_files_by_drgn(debugged: SaveImage, by_vmlinux: Any) -> None:
    from drgn.helpers.linux.fs import d_path, for_each_file
    from drgn.helpers.linux.pid import for_each_task

    theirs = {
        (task.pid.value_(), number): (file.f_inode.i_ino.value_(), d_path(file.f_path).decode())
        for task in for_each_task(by_vmlinux)
        if task.pid == task.tgid
        for number, file in for_each_file(task)
    }

    ours = {
        (one.pid, one.descriptor): (one.inode, one.path)
        for one in ask(debugged, "files").files or ()
    }
    assert len(ours) > 20
    assert {key: one[0] for key, one in theirs.items()} == {k: one[0] for k, one in ours.items()}
    for key, (_, path) in theirs.items():
        if path.startswith("/"):
            assert path == ours[key][1], key


def test_mounts_by_drgn(debugged: SaveImage, by_vmlinux: Any) -> None:
    from drgn.helpers.linux.fs import for_each_mount, mount_dst, mount_fstype, mount_src

    theirs = {
        (one.mnt_id.value_(), mount_src(one), mount_dst(one), mount_fstype(one))
        for one in for_each_mount(by_vmlinux)
    }

    found = ask(debugged, "mounts").mounts or ()
    first = min(one.namespace for one in found)
    ours = {
        (one.id, one.source.encode(), one.target.encode(), one.filesystem.encode())
        for one in found
        if one.namespace == first
    }
    assert len(theirs) > 4
    assert theirs == ours


def test_the_log_by_drgn(debugged: SaveImage, by_vmlinux: Any) -> None:
    from drgn.helpers.linux.printk import get_printk_records

    theirs = [
        (one.text.decode(errors="replace"), one.level, one.facility, one.timestamp)
        for one in get_printk_records(by_vmlinux)
    ]

    ours = [
        (one.text, one.level, one.facility, round(one.uptime * 10**9))
        for one in ask(debugged, "log").log or ()
    ]
    assert len(ours) > 200
    assert ours == theirs


def test_symbols_and_types_by_drgn(debugged: SaveImage, by_vmlinux: Any) -> None:
    ours = program(debugged, symbols="memory")

    for name in ("init_task", "schedule", "sys_call_table", "prb", "tcp_hashinfo", "jiffies"):
        assert ours.symbol(name).address == by_vmlinux.symbol(name).address
    for kind in ("task_struct", "file", "inode", "dentry", "sock", "mount", "page", "module"):
        mine, theirs = (one.type(f"struct {kind}") for one in (ours, by_vmlinux))
        assert mine.size == theirs.size
        members = [
            [(part.name, part.bit_offset, part.bit_field_size) for part in one.members]
            for one in (mine, theirs)
        ]
        assert members[0] == members[1]
