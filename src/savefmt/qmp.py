"""A QEMU monitor as plain calls, in its own language (QMP)."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Self

from savefmt.errors import SavefmtError

SLOW_SECONDS = 60.0
"""What a command may take: QEMU answers them one by one, with its big lock held."""

_POLL_SECONDS = 0.05
_LONGEST_LINE = 10 << 20
_MOST_WAITING = 16
"""Answers that nobody has taken yet, before the other side is taken for mad."""

Message = dict[str, Any]


class MonitorError(SavefmtError):
    """No monitor answers there, or it refuses a command."""


class CommandError(MonitorError):
    """QEMU answered a command with an error."""


class MonitorLostError(MonitorError):
    """The monitor went away: QEMU ended, or somebody closed its socket."""


class Monitor:
    """One connection to a QEMU, with its capabilities negotiated.

    Parameters
    ----------
    address : str or socket
        Path of a UNIX socket, or a connected one.
    timeout : float
        Seconds for the connection and the greeting.

    Attributes
    ----------
    patience : float or None
        Seconds for an answer; None waits as long as QEMU lives.
    lost : bool
        The connection is broken, and no command can be run any more.
    silent : bool
        QEMU is there and does not answer.
    greeting : mapping
        What QEMU said when it answered.

    Raises
    ------
    MonitorError
        If nobody answers there in time, or not in QMP.
    """

    def __init__(self, address: str | socket.socket, *, timeout: float = 10.0) -> None:
        self.name = address if isinstance(address, str) else "QEMU"
        self.patience: float | None = SLOW_SECONDS
        self.lost = False
        self.silent = False
        self.greeting: Mapping[str, Any] = {}
        self._address = address
        self._last = 0
        self._line: _Line | None = None
        try:
            self._connect(timeout)
        except BaseException:
            self.close()
            raise

    def _connect(self, timeout: float) -> None:
        end = time.monotonic() + timeout
        try:
            self._line = _Line(_connected(self._address, timeout))
            self._line.start()
            greeting = self._line.next(end)
            if "QMP" not in greeting:
                raise ValueError("its first words are not a greeting")
            self.greeting = greeting
            self._answer(self._send("qmp_capabilities", {}), "qmp_capabilities", end)
        except (TimeoutError, BlockingIOError, Empty) as error:
            self.silent = True
            raise MonitorError(
                f"no greeting in QMP came within {timeout:g} s; another client may hold this "
                "socket, or the program behind it speaks something else, such as TLS",
                path=self.name,
            ) from error
        except (OSError, EOFError, ValueError) as error:
            raise MonitorError(_why_unconnected(error), path=self.name) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; harmless when repeated, or when QEMU has gone."""
        if self._line is not None:
            self._line.close()

    def execute(
        self, command: str, arguments: Mapping[str, object] | None = None, **more: object
    ) -> Any:
        """Run one command.

        Parameters
        ----------
        command : str
            QMP's name for it.
        arguments : mapping, optional
            By QMP's names.
        **more
            The same, with ``_`` for ``-``.

        Returns
        -------
        object
            What QEMU returned.

        Raises
        ------
        CommandError
            If QEMU refuses.
        MonitorLostError
            If it went away.
        """
        joined = dict(arguments or {}) | {key.replace("_", "-"): v for key, v in more.items()}
        end = None if self.patience is None else time.monotonic() + self.patience
        try:
            return self._answer(self._send(command, joined), command, end)
        except Empty as error:
            self.lost = self.silent = True
            raise MonitorError(
                f"QEMU gave no answer to {command} within {self.patience:g} s", path=self.name
            ) from error
        except (OSError, EOFError, ValueError) as error:
            self.lost = True
            raise MonitorLostError("QEMU went away", path=self.name) from error

    def _send(self, command: str, arguments: Mapping[str, object]) -> int:
        self._last += 1
        words: Message = {"execute": command, "id": self._last}
        if arguments:
            words["arguments"] = arguments
        if self._line is None:
            raise EOFError
        self._line.send(json.dumps(words).encode() + b"\n")
        return self._last

    def _answer(self, number: int, command: str, end: float | None) -> Any:
        """Wait for the answer to a command; those that nobody waited for come first."""
        if self._line is None:
            raise EOFError
        message: Message = {}
        while message.get("id") != number:
            message = self._line.next(end)
        if isinstance(error := message.get("error"), dict):
            raise CommandError(f"QEMU refuses {command}: {error.get('desc')}", path=self.name)
        if "return" not in message:
            raise ValueError("its answer is not valid")
        return message["return"]

    @contextmanager
    def unhurried(self) -> Iterator[None]:
        """Wait for answers as long as it takes: QEMU may have to read or write first."""
        patience, self.patience = self.patience, None
        try:
            yield
        finally:
            self.patience = patience

    def reconnect(self, *, timeout: float = 2.0) -> bool:
        """Try to get a broken connection back, and tell whether that worked.

        Parameters
        ----------
        timeout : float
            Seconds for the connection and the greeting.

        Returns
        -------
        bool
            False where QEMU has ended or is `silent`, or the connection was a socket given
            to us.
        """
        if isinstance(self._address, str):
            self.close()
            self.silent = False
            with contextlib.suppress(MonitorError):
                self._connect(timeout)
                self.lost = False
        return not self.lost

    def send_fd(self, fd: int) -> None:
        """Send a descriptor, which the next command of QMP takes; ours stays open."""
        if self._line is not None:
            self._line.send(b" ", os.dup(fd))

    def add_fd(self, fd: int, fdset: int | None = None) -> int:
        """Put a copy of a descriptor into a set and return the number of the set."""
        self.send_fd(fd)
        chosen = {} if fdset is None else {"fdset-id": fdset}
        return int(self.execute("add-fd", chosen)["fdset-id"])

    @property
    def peer(self) -> int | None:
        """Process id of who listens on the socket, None where the kernel does not tell."""
        return self._line.peer if self._line is not None else None

    @property
    def status(self) -> str:
        """The run state, such as ``running`` or ``paused``."""
        return str(self.execute("query-status")["status"])


class _Line:
    """A connected socket, with a thread that reads it and one that writes.

    So Ctrl-C ends the wait for an answer, and never cuts a message into two.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._incoming: SimpleQueue[Message | None] = SimpleQueue()
        self._outgoing: SimpleQueue[tuple[bytes, int | None] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=work, name="qmp", daemon=True)
            for work in (self._read, self._write)
        ]

    def start(self) -> None:
        """Begin to read and to write."""
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        bad = (OSError, ValueError, RecursionError, MemoryError)
        with contextlib.suppress(*bad), self._socket.makefile("rb") as file:
            while line := file.readline(_LONGEST_LINE):
                message = json.loads(line)
                if not isinstance(message, dict) or self._incoming.qsize() > _MOST_WAITING:
                    break
                if "event" not in message:
                    self._incoming.put(message)
        self._incoming.put(None)

    def _write(self) -> None:
        while (item := self._outgoing.get()) is not None:
            data, fd = item
            with contextlib.suppress(
                OSError
            ):  # the thread that waits for the answer gets the error
                if fd is None:
                    self._socket.sendall(data)
                else:
                    try:
                        socket.send_fds(self._socket, [data], [fd])
                    finally:
                        os.close(fd)

    def send(self, data: bytes, fd: int | None = None) -> None:
        """Send bytes together with a descriptor, and close the descriptor."""
        self._outgoing.put((data, fd))

    def next(self, end: float | None) -> Message:
        """Return the next message; `Empty` if none comes in time, `EOFError` at the end."""
        while True:
            try:
                message = self._incoming.get(timeout=_POLL_SECONDS)
                break
            except Empty:  # a signal that came just before we slept is seen now
                if end is not None and time.monotonic() > end:
                    raise
        if message is None:
            self._incoming.put(None)  # for who asks again
            raise EOFError("it hung up")
        return message

    @property
    def peer(self) -> int | None:
        """Process id of who made the other end, None where the kernel does not tell."""
        if self._socket.family != socket.AF_UNIX:
            return None
        return int.from_bytes(
            self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 4), sys.byteorder
        )

    def close(self) -> None:
        """Hang up; harmless when repeated."""
        with contextlib.suppress(OSError):  # it is closed already, by us or from there
            self._socket.shutdown(socket.SHUT_RDWR)
        self._outgoing.put(None)
        for thread in self._threads:
            if thread.is_alive():  # else a signal came before it had begun
                thread.join()
        self._socket.close()


def _connected(address: str | socket.socket, timeout: float) -> socket.socket:
    if not isinstance(address, str):
        return address
    made = socket.socket(socket.AF_UNIX)
    try:
        made.settimeout(timeout)
        made.connect(address)
        made.settimeout(None)
    except BaseException:
        made.close()
        raise
    return made


def _why_unconnected(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such socket; start QEMU with -qmp unix:PATH,server=on,wait=off"
    if isinstance(error, PermissionError):
        return "this user may not use the socket; become the user that QEMU runs as, or root"
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens on the socket any more; the QEMU behind it has ended"
    if isinstance(error, OSError):
        return f"no monitor answers: {error.strerror or error}"
    return f"what answers does not speak QMP: {error}"
