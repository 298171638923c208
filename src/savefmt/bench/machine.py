"""The machine that was measured: processor, memory, file system, disk."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from pathlib import Path

from savefmt.model import StrPath

_SYS_BLOCK = Path("/sys/class/block")


def cpu_model() -> str:
    """Name the processor as the kernel does; the architecture where it says no more."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def memory_length() -> int:
    """Bytes of memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def available_memory() -> int:
    """Bytes of memory that can be had without swapping."""
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def file_system_of(path: StrPath) -> str:
    """Name the type of the file system that a path lies on, as ``/proc`` calls it."""
    return _mount_of(path)[0]


def disk_of(path: StrPath) -> str | None:
    """Name the disk that a path lies on.

    Parameters
    ----------
    path : str or os.PathLike
        A file or folder.

    Returns
    -------
    str or None
        The device and, where the kernel knows them, its maker and model; of a network
        file system what was mounted; None for what lies in memory.
    """
    source = _mount_of(path)[1]
    if not source.startswith("/dev/"):
        return source if ":" in source or "//" in source else None
    node = _SYS_BLOCK / os.path.basename(os.path.realpath(source))
    if (node / "partition").exists():
        node = node.resolve().parent
    words = [node.name]
    for name in ("vendor", "model"):
        with suppress(OSError):
            words.append((node / "device" / name).read_text(errors="replace").strip())
    return " ".join(word for word in words if word and not word.startswith("0x"))


def _mount_of(path: StrPath) -> tuple[str, str]:
    """Find type and source of the mount that a path lies on.

    Its number is what leads there: btrfs and overlays have devices that no mount names.
    """
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        state = Path(f"/proc/self/fdinfo/{fd}").read_text()
    finally:
        os.close(fd)
    number = next(line.split()[1] for line in state.splitlines() if line.startswith("mnt_id:"))
    for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
        fields, _, rest = line.partition(" - ")
        if fields.split()[0] == number:
            kind, source = rest.split()[:2]
            return kind, source
    return "unknown", "unknown"
