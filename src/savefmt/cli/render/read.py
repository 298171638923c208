"""What ``savefmt read`` prints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from savefmt.errors import SavefmtError

_LINE = 16


def hexdump(pieces: Iterable[bytes], address: int) -> Iterator[str]:
    """Show bytes in the form of ``hexdump -C``.

    Parameters
    ----------
    pieces : iterable of bytes
        In order.
    address : int
        Of the first byte.

    Yields
    ------
    str
        Sixteen bytes a line; lines like the one before are one ``*``; last the address
        behind the last byte.
    """
    before: bytes | None = None
    squeezed = False
    for line in _lines(pieces):
        if line == before and len(line) == _LINE:
            if not squeezed:
                yield "*"
            squeezed = True
        else:
            yield _hexdump_line(address, line)
            squeezed = False
        before = line
        address += len(line)
    if before is not None:
        yield f"{address:08x}"


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    held = b""
    try:
        for piece in pieces:
            held += piece
            whole = len(held) // _LINE * _LINE
            for at in range(0, whole, _LINE):
                yield held[at : at + _LINE]
            held = held[whole:]
    except SavefmtError:
        if held:  # what came before the error gets shown
            yield held
        raise
    if held:
        yield held


def _hexdump_line(address: int, line: bytes) -> str:
    left, right = line[:8].hex(" "), line[8:].hex(" ")
    text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in line)
    return f"{address:08x}  {left:<23}  {right:<23}  |{text}|"
