"""A QEMU monitor as plain calls, over the library qemu.qmp."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import threading
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from savefmt.errors import MissingPackageError, SavefmtError

if TYPE_CHECKING:
    from qemu.qmp import QMPClient

T = TypeVar("T")

SLOW_SECONDS = 60.0
"""What a command may take: QEMU answers them one by one, with its big lock held."""


class MonitorError(SavefmtError):
    """No monitor answers there, or it refuses a command."""


class CommandError(MonitorError):
    """QEMU answered a command with an error."""


class MonitorLostError(MonitorError):
    """The monitor went away: QEMU ended, or somebody closed its socket."""


class Monitor:
    """One connection to a QEMU, with its capabilities negotiated.

    It lives in a thread of its own: Ctrl-C ends our waiting for an answer, and leaves the
    connection as good as it was.

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

    Raises
    ------
    MonitorError
        If nobody answers there in time, or not in QMP.
    UnsupportedError
        If the extra ``qmp`` is not installed.
    """

    def __init__(self, address: str | socket.socket, *, timeout: float = 10.0) -> None:
        self.name = address if isinstance(address, str) else "QEMU"
        self.patience: float | None = SLOW_SECONDS
        self.lost = False
        self.silent = False
        self._address = address
        self._client = _new_client()
        self._loop = asyncio.new_event_loop()
        # A lost connection is told by the next command; asyncio would print it, too.
        self._loop.set_exception_handler(lambda loop, context: None)
        self._thread = threading.Thread(target=self._loop.run_forever, name="qmp", daemon=True)
        try:
            self._thread.start()
            self._connect(address, timeout)
        except BaseException:
            self.close()
            raise

    def _connect(self, address: str | socket.socket, timeout: float) -> None:
        from qemu.qmp import QMPError

        try:
            self._run(asyncio.wait_for(self._client.connect(address), timeout))
        except TimeoutError as error:
            self.silent = True
            raise MonitorError(
                f"nobody greeted in QMP within {timeout:g} s; another client may hold this "
                "socket, or it speaks something else, such as TLS",
                path=self.name,
            ) from error
        except (QMPError, OSError) as error:
            raise MonitorError(_why_unconnected(error), path=self.name) from error

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

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
        if self._loop.is_closed():
            return
        if self._thread.is_alive():  # else a signal came before it had begun
            with contextlib.suppress(Exception):
                self._run(asyncio.wait_for(self._client.disconnect(), 2))
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()

    @property
    def greeting(self) -> Mapping[str, Any]:
        """What QEMU said when it answered."""
        greeting = self._client.greeting
        return greeting._asdict() if greeting is not None else {}

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
        from qemu.qmp import ExecuteError, QMPError

        joined = dict(arguments or {}) | {key.replace("_", "-"): v for key, v in more.items()}
        try:
            return self._run(
                asyncio.wait_for(self._client.execute(command, joined or None), self.patience)
            )
        except ExecuteError as error:
            raise CommandError(f"QEMU refuses {command}: {error}", path=self.name) from error
        except TimeoutError as error:
            self.lost = self.silent = True
            raise MonitorError(
                f"QEMU gave no answer to {command} within {self.patience:g} s", path=self.name
            ) from error
        except (QMPError, OSError, EOFError) as error:
            self.lost = True
            raise MonitorLostError("QEMU went away", path=self.name) from error

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
            with contextlib.suppress(Exception):
                self._run(asyncio.wait_for(self._client.disconnect(), timeout))
            self._client = _new_client()
            self.silent = False
            with contextlib.suppress(MonitorError):
                self._connect(self._address, timeout)
                self.lost = False
        return not self.lost

    def send_fd(self, fd: int) -> None:
        """Send a descriptor, which the next command of QMP takes; ours stays open."""
        from qemu.qmp import QMPError

        try:
            self._client.send_fd_scm(fd)
        except (QMPError, OSError) as error:
            self.lost = True
            raise MonitorLostError("QEMU went away", path=self.name) from error

    def add_fd(self, fd: int, fdset: int | None = None) -> int:
        """Put a copy of a descriptor into a set and return the number of the set."""
        self.send_fd(fd)
        chosen = {} if fdset is None else {"fdset-id": fdset}
        return int(self.execute("add-fd", chosen)["fdset-id"])

    @property
    def peer(self) -> int | None:
        """Process id of who listens on the socket, None where the kernel does not tell."""
        writer = getattr(self._client, "_writer", None)
        connected = writer.get_extra_info("socket") if writer is not None else None
        if connected is None or connected.family != socket.AF_UNIX:
            return None
        return int.from_bytes(
            connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 4), sys.byteorder
        )

    @property
    def status(self) -> str:
        """The run state, such as ``running`` or ``paused``."""
        return str(self.execute("query-status")["status"])


def _new_client() -> QMPClient:
    try:
        from qemu.qmp import QMPClient
    except ImportError as error:
        raise MissingPackageError("talking to QEMU", "qemu.qmp") from error
    import logging

    # A library must not print: what matters comes as an exception.
    logging.getLogger("qemu.qmp").addHandler(logging.NullHandler())
    return QMPClient("savefmt")


def _why_unconnected(error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, FileNotFoundError):
            return "there is no such socket; start QEMU with -qmp unix:PATH,server=on,wait=off"
        if isinstance(cause, PermissionError):
            return "this user may not use the socket; become the user that QEMU runs as, or root"
        if isinstance(cause, ConnectionRefusedError):
            return "nobody listens on the socket any more; the QEMU behind it has ended"
        if isinstance(cause, OSError) and cause.errno:
            return f"no monitor answers: {os.strerror(cause.errno)}"
        inner = getattr(cause, "exc", None)
        cause = inner if inner is not None else cause.__cause__
    return f"what answers does not speak QMP: {str(error).splitlines()[0]}"
