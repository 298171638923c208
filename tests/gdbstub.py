"""QEMU's gdb stub: the only words of QEMU's about system registers of Arm."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Self

from interop.qemu import Guest

_PIECE = 0xF00


class GdbStub:
    """A connection to the stub of a guest, which is told to listen.

    Parameters
    ----------
    guest : Guest
        Stopped.
    path : Path
        Where the socket shall be; no longer than the name of one may be.
    """

    def __init__(self, guest: Guest, path: Path) -> None:
        guest.hmp(f"gdbserver unix:{path},server=on,wait=off")
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(30)
        self._socket.connect(str(path))
        self._ask("qSupported:xmlRegisters=arm")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _ask(self, words: str) -> bytes:
        data = words.encode()
        self._socket.sendall(b"$" + data + b"#%02x" % (sum(data) & 255))
        answer = b""
        while (found := re.search(rb"\$([^#]*)#[0-9a-f]{2}", answer, re.S)) is None:
            piece = self._socket.recv(1 << 16)
            assert piece, "the stub closed the connection"
            answer += piece
        self._socket.sendall(b"+")
        return found[1]

    def _document(self, name: str) -> str:
        text = b""
        while True:
            answer = self._ask(f"qXfer:features:read:{name}:{len(text):x},{_PIECE:x}")
            text += re.sub(rb"\}(.)", lambda m: bytes([m[1][0] ^ 0x20]), answer[1:], flags=re.S)
            if answer[:1] == b"l":
                return text.decode()

    def system_registers(self) -> dict[str, int]:
        """Return what the document of system registers has, by QEMU's names."""
        text = self._document("system-registers.xml")
        found = {}
        for name, number in re.findall(r'<reg name="([^"]+)" [^>]*?regnum="(\d+)"', text):
            answer = self._ask(f"p{int(number):x}").decode()
            if re.fullmatch(r"(?:[0-9a-f]{2})+", answer):
                found[name] = int.from_bytes(bytes.fromhex(answer), "little")
        return found
