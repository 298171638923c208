"""One side of a conversation in QMP, with all kinds of others."""

from __future__ import annotations

import json
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fakeqemu
import pytest

from savefmt import qmp
from savefmt.qmp import CommandError, Monitor, MonitorError, MonitorLostError

GREETING = b'{"QMP": {"version": {}, "capabilities": []}}\r\n'


@contextmanager
def talking(answer: Callable[[socket.socket, dict[str, Any]], None]) -> Iterator[Monitor]:
    """A monitor whose other side greets, and then answers as told."""
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with theirs:
            theirs.sendall(GREETING)
            for request in fakeqemu.requests(theirs):
                if request["execute"] == "qmp_capabilities":
                    say(theirs, {"return": {}, "id": request["id"]})
                else:
                    answer(theirs, request)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with Monitor(ours, timeout=5) as monitor:
            yield monitor
    finally:
        ours.close()
        thread.join()


def say(connection: socket.socket, message: object) -> None:
    connection.sendall(json.dumps(message).encode() + b"\r\n")


def test_answers_go_to_their_questions() -> None:
    """Whatever comes in between: events, and answers that nobody waited for."""

    def answer(connection: socket.socket, request: dict[str, Any]) -> None:
        say(connection, {"event": "STOP"})
        say(connection, {"return": "another's", "id": 10**6})
        say(connection, {"return": request["arguments"]["n"], "id": request["id"]})

    with talking(answer) as monitor:
        assert [monitor.execute("echo", n=n) for n in range(3)] == [0, 1, 2]


def test_a_refusal_leaves_the_connection_good() -> None:
    def answer(connection: socket.socket, request: dict[str, Any]) -> None:
        known = request["arguments"]["n"]
        error = {"error": {"class": "GenericError", "desc": "no two"}}
        say(connection, {**(error if known == 2 else {"return": known}), "id": request["id"]})

    with talking(answer) as monitor:
        with pytest.raises(CommandError, match="QEMU refuses echo: no two"):
            monitor.execute("echo", n=2)
        assert monitor.execute("echo", n=7) == 7
        assert not monitor.lost


def test_ctrl_c_leaves_the_connection_good() -> None:
    """The late answer comes to nobody."""
    waiting = threading.Event()

    def answer(connection: socket.socket, request: dict[str, Any]) -> None:
        if request["execute"] == "slow":
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            waiting.wait(5)
        say(connection, {"return": request["execute"], "id": request["id"]})

    with talking(answer) as monitor:
        with pytest.raises(KeyboardInterrupt):
            monitor.execute("slow")
        waiting.set()
        assert monitor.execute("quick") == "quick"
        assert not monitor.lost


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"[]\n",
        b"[" * 100_000 + b"\n",
        b'{"return": ',
        b"\xff\n",
        b'{"id": 2}\n',
        b'{"error": "none", "id": 2}\n',
    ],
)
def test_no_answer_at_all(line: bytes) -> None:
    def answer(connection: socket.socket, request: dict[str, Any]) -> None:
        connection.sendall(line)
        connection.shutdown(socket.SHUT_WR)

    with talking(answer) as monitor:
        with pytest.raises(MonitorLostError, match="QEMU went away"):
            monitor.execute("query-status")
        assert monitor.lost
        assert not monitor.reconnect()


def test_a_flood_is_no_conversation() -> None:
    """What nobody asked for does not fill the memory."""
    ours, theirs = socket.socketpair()
    line = qmp._Line(ours)
    with theirs:
        for _ in range(100):
            say(theirs, {"return": {}})
    line.start()
    line._threads[0].join()

    taken = 0
    with pytest.raises(EOFError):
        while taken < 100:
            line.next(None)
            taken += 1
    assert taken == qmp._MOST_WAITING + 1
    line.close()


def test_no_answer_in_time() -> None:
    with talking(lambda connection, request: None) as monitor:
        monitor.patience = 0.05
        with pytest.raises(MonitorError, match=r"no answer to query-status within 0.05 s"):
            monitor.execute("query-status")
        assert monitor.silent


@pytest.mark.parametrize("words", [b"SSH-2.0\r\n", b'{"QEMU": 1}\n', b""])
def test_another_language(words: bytes) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(words)
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(MonitorError, match="does not speak QMP"):
            Monitor(ours)
    assert ours.fileno() == -1


def test_a_descriptor_goes_along() -> None:
    ours, theirs = socket.socketpair()

    def serve() -> None:
        theirs.sendall(GREETING)
        next(fakeqemu.requests(theirs))
        say(theirs, {"return": {}, "id": 1})
        _, fds, *_ = socket.recv_fds(theirs, 1, 1)
        request = next(fakeqemu.requests(theirs))
        os.write(fds[0], b"through")
        os.close(fds[0])
        say(theirs, {"return": {"fdset-id": 3}, "id": request["id"]})

    thread = threading.Thread(target=serve)
    thread.start()
    reader, writer = os.pipe()
    with theirs, open(reader, "rb") as far, Monitor(ours, timeout=5) as monitor:
        assert monitor.add_fd(writer) == 3
        os.close(writer)
        assert far.read() == b"through"
        assert monitor.peer == os.getpid()
        thread.join()


def test_it_comes_back_after_a_break() -> None:
    with (
        tempfile.TemporaryDirectory() as short,  # pytest's folder is too long for a socket
        fakeqemu.listening(Path(short) / "qmp", fakeqemu.answers()) as name,
        Monitor(name) as monitor,
    ):
        monitor.close()
        with pytest.raises(MonitorLostError):
            monitor.execute("query-status")
        assert monitor.reconnect()
        assert monitor.status == "running"
