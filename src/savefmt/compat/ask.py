"""What a QEMU says about itself over QMP (format.md 10.2)."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from savefmt.compat.policy import Abilities
from savefmt.compat.releases import Release
from savefmt.format.configuration import MAPPED_RAM
from savefmt.frozen import dataclass
from savefmt.qmp import CommandError, Monitor, MonitorError

if TYPE_CHECKING:
    import subprocess

_END_SECONDS = 5


@dataclass(frozen=True, slots=True)
class MachineEntry:
    """A machine type that a QEMU offers."""

    name: str
    deprecated: bool
    default_ram_id: str | None


@dataclass(frozen=True, slots=True)
class QemuAnswers:
    """What one QEMU can do.

    Attributes
    ----------
    release : Release
        Its version.
    capabilities : frozenset of str
        Migration capabilities it knows.
    parameters : frozenset of str
        Migration parameters it knows.
    machines : dict of str to MachineEntry
        By name and by alias.
    direct_io_set : bool
        Whether it would bypass the page cache with mapped-ram now.
    """

    release: Release
    capabilities: frozenset[str]
    parameters: frozenset[str]
    machines: Mapping[str, MachineEntry]
    direct_io_set: bool = False

    @property
    def abilities(self) -> Abilities:
        """What the policy asks."""
        return Abilities(
            mapped_ram=MAPPED_RAM in self.capabilities,
            direct_io="direct-io" in self.parameters,
            multifd="multifd" in self.capabilities,
            direct_io_set=self.direct_io_set,
        )


def ask(monitor: Monitor) -> QemuAnswers:
    """Put all questions to a QEMU, running or started for the purpose.

    Parameters
    ----------
    monitor : Monitor
        Connected.

    Returns
    -------
    QemuAnswers
        Nothing of it changes while the QEMU lives.

    Raises
    ------
    MonitorError
        If it goes away, or answers what no QEMU would.
    """
    try:
        return _ask(monitor)
    except (KeyError, TypeError, AttributeError) as error:
        raise MonitorError(
            "the program behind this socket does not answer like QEMU", path=monitor.name
        ) from error


def _ask(monitor: Monitor) -> QemuAnswers:
    machines: dict[str, MachineEntry] = {}
    for listed in monitor.execute("query-machines"):
        entry = MachineEntry(
            listed["name"], bool(listed.get("deprecated")), listed.get("default-ram-id")
        )
        machines[entry.name] = entry
        if alias := listed.get("alias"):
            machines[alias] = entry
    parameters: dict[str, Any] = monitor.execute("query-migrate-parameters")
    return QemuAnswers(
        release=read_release(monitor),
        capabilities=frozenset(read_capabilities(monitor)),
        parameters=frozenset(parameters),
        machines=machines,
        direct_io_set=parameters.get("direct-io") is True,
    )


def read_release(monitor: Monitor) -> Release:
    """Return the version of a QEMU."""
    version = monitor.execute("query-version")["qemu"]
    return Release(version["major"], version["minor"], version["micro"])


def read_capabilities(monitor: Monitor) -> dict[str, bool]:
    """Return QEMU's migration capabilities and whether each is on."""
    listed: list[dict[str, Any]] = monitor.execute("query-migrate-capabilities")
    return {entry["capability"]: bool(entry["state"]) for entry in listed}


def has_kvm(monitor: Monitor) -> bool:
    """Whether a QEMU runs its guest with KVM."""
    try:
        return bool(monitor.execute("query-kvm")["enabled"])
    except CommandError:  # built without
        return False


@contextmanager
def started(binary: str, *, accelerator: str = "tcg", timeout: float = 10.0) -> Iterator[Monitor]:
    """Start a QEMU without a guest and talk to it.

    Parameters
    ----------
    binary : str
        The program.  It is run: know where the name comes from.
    accelerator : str
        ``kvm:tcg`` takes KVM where that can be had.
    timeout : float
        Seconds for it to answer.

    Yields
    ------
    Monitor
        Connected; QEMU ends with the ``with`` block.

    Raises
    ------
    MonitorError
        If the program cannot be run, or is no QEMU.
    """
    ours, theirs = socket.socketpair()
    with contextlib.ExitStack() as stack:
        stack.callback(ours.close)
        with theirs:
            fd = theirs.fileno()
            process = _run(binary, accelerator, fd)
        stack.callback(_end, process)
        try:
            monitor = Monitor(ours, timeout=timeout)
        except MonitorError as error:
            raise MonitorError("this program does not answer like QEMU", path=binary) from error
        monitor.name = binary
        yield stack.enter_context(monitor)


def _run(binary: str, accelerator: str, fd: int) -> subprocess.Popen[bytes]:
    import subprocess

    command = [binary, "-machine", f"none,accel={accelerator}", "-nodefaults"]
    command += ["-no-user-config", "-display", "none"]
    command += ["-S", "-chardev", f"socket,id=qmp,fd={fd}", "-mon", "chardev=qmp,mode=control"]
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(fd,),
            start_new_session=True,  # Ctrl-C reaches savefmt alone, which then ends this process
        )
    except OSError as error:
        reason = error.strerror or str(error)
        raise MonitorError(f"the program cannot be run: {reason}", path=binary) from error


def _end(process: subprocess.Popen[bytes]) -> None:
    from subprocess import TimeoutExpired

    process.terminate()
    try:
        process.wait(_END_SECONDS)
    except TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
