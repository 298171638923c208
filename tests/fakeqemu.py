"""A program that answers over QMP like a QEMU of a given kind, and a socket that does."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

CAPABILITIES = ("mapped-ram", "multifd", "xbzrle")
PARAMETERS = ("direct-io", "multifd-channels")
MACHINE = {"name": "pc-q35-10.0", "default-ram-id": "pc.ram"}
PROGRAM = """\
#!{python}
import re, socket, sys
sys.path.insert(0, {tests!r})
from fakeqemu import converse
found = re.search(r"socket,id=qmp,fd=(\\d+)", " ".join(sys.argv))
converse(socket.socket(fileno=int(found[1])), {answers!r})
"""


def answers(
    version: Sequence[int] = (10, 0, 2),
    capabilities: Sequence[str] = CAPABILITIES,
    parameters: Sequence[str] = PARAMETERS,
    machine: Mapping[str, object] = MACHINE,
) -> dict[str, Any]:
    """Return what such a QEMU says to each question."""
    numbers = dict(zip(("major", "minor", "micro"), version, strict=True))
    return {
        "qmp_capabilities": {},
        "query-version": {"qemu": numbers, "package": ""},
        "query-migrate-capabilities": [{"capability": c, "state": False} for c in capabilities],
        "query-migrate-parameters": dict.fromkeys(parameters, False),
        "query-status": {"status": "running", "running": True},
        "query-machines": [{"cpu-max": 1, "hotpluggable-cpus": True, **machine}],
    }


def requests(connection: socket.socket) -> Iterator[dict[str, Any]]:
    """Yield what a client sends, which need not end its lines."""
    text = ""
    while data := connection.recv(1 << 16):
        text += data.decode()
        with suppress(json.JSONDecodeError):
            yield json.loads(text)
            text = ""


def converse(connection: socket.socket, known: Mapping[str, Any]) -> None:
    """Speak QMP until the other side hangs up."""
    package = {"version": answers()["query-version"]}

    def say(message: Mapping[str, Any]) -> None:
        connection.sendall(json.dumps(message).encode() + b"\r\n")

    with suppress(OSError), connection:
        say({"QMP": {**package, "capabilities": []}})
        for request in requests(connection):
            name = request["execute"]
            same = {"id": request["id"]} if "id" in request else {}
            if name in known:
                say({"return": known[name], **same})
            else:
                error = {"class": "CommandNotFound", "desc": f"no command {name}"}
                say({"error": error, **same})


def write_program(path: Path, known: Mapping[str, Any]) -> str:
    """Make a program of it that can be run."""
    tests = str(Path(__file__).parent)
    path.write_text(PROGRAM.format(python=sys.executable, tests=tests, answers=dict(known)))
    path.chmod(0o755)
    return str(path)


@contextmanager
def listening(path: Path, known: Mapping[str, Any]) -> Iterator[str]:
    """Let a thread answer one client after the other on a UNIX socket."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(1)

        def serve() -> None:
            with suppress(OSError):
                while True:
                    converse(server.accept()[0], known)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield str(path)
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)
