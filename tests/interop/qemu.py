"""QEMU guests under TCG, driven over QMP; each dies with the process that started it."""

from __future__ import annotations

import array
import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

EMULATOR = os.environ.get("INTEROP_QEMU", "qemu-system-x86_64")
"""The QEMU to judge by: another one with ``INTEROP_QEMU=/path/to/it``."""
OLDER = "/var/lib/savefmt-qemu-7.2/qemu-system-x86_64"
"""QEMU 7.2, where tools/install-qemu-beside puts it."""
TIMEOUT = 60.0


def hidden_emulator() -> str | None:
    """The QEMU to judge by, where it must be named: a script starts it with a loader of its own."""
    path = shutil.which(EMULATOR)
    if path is None:
        return None
    with open(path, "rb") as file:
        return path if file.read(2) == b"#!" else None


class QmpError(RuntimeError):
    """QEMU answered a command with an error."""


class MigrationFailed(RuntimeError):
    """A save or a load ended in state ``failed``."""


class HostBlock(NamedTuple):
    """A RAMBlock as ``info ramblock`` lists it: where QEMU keeps it, and its used length."""

    name: str
    address: int
    length: int


def wait_for(
    condition: Callable[[], bool], what: str, timeout: float = TIMEOUT, step: float = 0.02
) -> None:
    """Poll `condition` until it holds."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"no {what} within {timeout:g} s")
        time.sleep(step)


def parse_ramblocks(listing: str) -> list[HostBlock]:
    """Read the table of the HMP command ``info ramblock``."""
    # Columns: name, page size with unit, offset, used, total, host address, ...
    row = re.compile(
        r"^\s*(\S+)\s+\d+ \S+\s+0x[0-9a-f]+\s+0x([0-9a-f]+)\s+0x[0-9a-f]+\s+0x([0-9a-f]+)", re.M
    )
    return [HostBlock(m[1], int(m[3], 16), int(m[2], 16)) for m in row.finditer(listing)]


def hash_blocks(pid: int, blocks: Iterable[HostBlock]) -> dict[str, str]:
    """Hash each block as it stands in the memory of the QEMU process `pid`."""
    digests = {}
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for block in blocks:
            digest = hashlib.sha256()
            memory.seek(block.address)
            left = block.length
            while left:
                piece = memory.read(min(left, 1 << 20))
                digest.update(piece)
                left -= len(piece)
            digests[block.name] = digest.hexdigest()
    return digests


class Guest:
    """One QEMU process, started paused.

    QMP runs over a socket pair, so no path has to be short enough for one.

    Parameters
    ----------
    directory : Path
        Where console, log and scratch files go.
    arguments : sequence of str
        Machine, memory and devices; accelerator, monitor and displays are given here.
    name : str
        Prefix of the files in `directory`.
    incoming : bool
        Start with ``-incoming defer``, for `load`.
    program : str
        The QEMU to run.
    keyboard : bool
        Whether `type` shall work; QEMU before 8.1 cannot read a file that it does not write.
    """

    def __init__(
        self,
        directory: Path,
        arguments: Sequence[str],
        *,
        name: str = "guest",
        incoming: bool = False,
        program: str = EMULATOR,
        keyboard: bool = True,
    ) -> None:
        self.directory = directory
        self.console = directory / f"{name}.console"
        self.log = directory / f"{name}.log"
        self.events: list[dict[str, Any]] = []
        self._buffer = b""
        self._scratch = directory / f"{name}.pmem"
        self._monitor, far_monitor = socket.socketpair()
        # A FIFO opened both ways, so that neither side waits for the other.  (A socket
        # with logfile= would log characters twice whenever it is full.)
        keys = directory / f"{name}.keyboard"
        keys.unlink(missing_ok=True)
        os.mkfifo(keys, 0o600)
        self._keyboard = os.open(keys, os.O_RDWR | os.O_NONBLOCK)
        serial = f"file,id=ser,path={self.console}" + f",input-path={keys}" * keyboard
        monitor = far_monitor.fileno()
        command = [
            *("setpriv", "--pdeathsig", "KILL", program),
            *("-accel", "tcg", "-nodefaults", "-no-user-config", "-display", "none", "-S"),
            *("-chardev", f"socket,id=qmp,fd={monitor}", "-mon", "chardev=qmp,mode=control"),
            *("-chardev", serial, "-serial", "chardev:ser"),
            *arguments,
            *(("-incoming", "defer") if incoming else ()),
        ]
        try:
            with self.log.open("wb") as log:
                self.process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(monitor,),
                )
        finally:
            far_monitor.close()
        try:
            self._monitor.settimeout(TIMEOUT)
            self._read_message()
            self.qmp("qmp_capabilities")
        except BaseException:
            self.kill()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    def kill(self) -> None:
        """End the process, whatever it is doing."""
        self.process.kill()
        self.process.wait()
        self._monitor.close()
        os.close(self._keyboard)
        self._scratch.unlink(missing_ok=True)

    # Monitor

    def _read_message(self) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            try:
                piece = self._monitor.recv(1 << 16)
            except ConnectionResetError:
                piece = b""
            if not piece:
                self.process.wait(TIMEOUT)
                raise QmpError(
                    f"QEMU went away with code {self.process.returncode}: "
                    + self.log.read_text(errors="replace").strip()
                )
            self._buffer += piece
        line, self._buffer = self._buffer.split(b"\n", 1)
        message: dict[str, Any] = json.loads(line)
        return message

    def qmp(self, command: str, *, fds: Sequence[int] = (), **arguments: Any) -> Any:
        """Execute one command; ``_`` in argument names stands for ``-``."""
        request: dict[str, Any] = {"execute": command}
        if arguments:
            request["arguments"] = {key.replace("_", "-"): v for key, v in arguments.items()}
        ancillary = []
        if fds:
            ancillary.append((socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds)))
        with contextlib.suppress(BrokenPipeError):  # the read below finds out why
            self._monitor.sendmsg([json.dumps(request).encode()], ancillary)
        while True:
            message = self._read_message()
            if "error" in message:
                raise QmpError(f"{command}: {message['error']['desc']}")
            if "return" in message:
                return message["return"]
            self.events.append(message)

    def hmp(self, line: str) -> str:
        """Run a command of the human monitor."""
        answer: str = self.qmp("human-monitor-command", command_line=line)
        return answer

    @property
    def status(self) -> str:
        """The run state, such as ``paused`` or ``running``."""
        state: str = self.qmp("query-status")["status"]
        return state

    def cont(self) -> None:
        """Let the guest run, and see that it does."""
        self.qmp("cont")
        wait_for(lambda: self.status == "running", "running guest")

    def stop(self) -> None:
        """Pause the guest."""
        self.qmp("stop")

    # Migration

    def add_fd(self, fd: int, fdset: int = 0) -> None:
        """Give QEMU a duplicate of `fd` as a member of the set `fdset`."""
        self.qmp("add-fd", fds=[fd], fdset_id=fdset)

    def configure(
        self, capabilities: Mapping[str, bool] | None, parameters: Mapping[str, Any] | None
    ) -> None:
        """Set migration capabilities and parameters."""
        if capabilities:
            pairs = [{"capability": name, "state": on} for name, on in capabilities.items()]
            self.qmp("migrate-set-capabilities", capabilities=pairs)
        if parameters:
            self.qmp("migrate-set-parameters", **parameters)

    def start_migration(
        self,
        uri: str,
        capabilities: Mapping[str, bool] | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        """Begin to save; `wait_migration` sees it through."""
        self.configure(capabilities, parameters)
        self.qmp("migrate", uri=uri)

    def migrate_to(
        self,
        uri: str,
        capabilities: Mapping[str, bool] | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        """Save into `uri`, in full speed unless `parameters` say otherwise."""
        self.start_migration(uri, capabilities, {"max-bandwidth": 1 << 34} | dict(parameters or {}))
        self.wait_migration()

    def load(
        self,
        uri: str,
        capabilities: Mapping[str, bool] | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        """Load from `uri` into a guest made with ``incoming=True``."""
        self.configure(capabilities, parameters)
        self.qmp("migrate-incoming", uri=uri, exit_on_error=False)
        self.wait_migration()

    def migration(self) -> dict[str, Any]:
        """What ``query-migrate`` says."""
        state: dict[str, Any] = self.qmp("query-migrate")
        return state

    def wait_migration(self, timeout: float = TIMEOUT) -> None:
        """Wait for the end of a save or a load, and for the run state to settle."""

        def done() -> bool:
            state = self.migration()
            if state.get("status") in ("failed", "cancelled"):
                reason = state.get("error-desc", "no reason given")
                log = self.log.read_text(errors="replace").strip()
                raise MigrationFailed(f"{reason}; {log}")
            return state.get("status") == "completed"

        wait_for(done, "end of migration", timeout)
        wait_for(lambda: self.status not in ("inmigrate", "finish-migrate"), "settled run state")

    # Evidence

    def pmem(self, start: int, length: int) -> bytes:
        """Guest physical memory."""
        self.qmp("pmemsave", val=start, size=length, filename=str(self._scratch))
        return self._scratch.read_bytes()

    def ram_hash(self, ranges: Iterable[tuple[int, int]]) -> str:
        """Hash guest physical memory; `ranges` are (start, length)."""
        digest = hashlib.sha256()
        for start, length in ranges:
            digest.update(self.pmem(start, length))
        return digest.hexdigest()

    def ram_blocks(self) -> list[HostBlock]:
        """Every RAMBlock, main memory and ROMs alike."""
        return parse_ramblocks(self.hmp("info ramblock"))

    def block_hashes(self) -> dict[str, str]:
        """Hash every RAMBlock in QEMU's own memory; the guest should be paused."""
        return hash_blocks(self.process.pid, self.ram_blocks())

    def registers(self) -> str:
        """Registers of all vCPUs."""
        return self.hmp("info registers -a")

    def type(self, text: str) -> None:
        """Send `text` to the guest's serial port."""
        os.write(self._keyboard, text.encode())

    def console_text(self) -> str:
        """Everything the guest wrote on its serial port."""
        return self.console.read_text(errors="replace")

    def wait_console(self, text: str, timeout: float = TIMEOUT) -> None:
        """Wait until the guest has written `text`."""
        wait_for(lambda: text in self.console_text(), f"{text!r} on the console", timeout)


def open_direct(path: Path, flags: int) -> int:
    """Open `path` past the page cache."""
    return os.open(path, flags | os.O_DIRECT | os.O_CLOEXEC)
