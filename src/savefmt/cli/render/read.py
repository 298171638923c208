"""What ``savefmt read`` prints."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from savefmt.errors import AddressError, SavefmtError

_LINE = 16

FindLost = Callable[[int, int], list[tuple[int, int]]]


def hexdump(pieces: Iterable[bytes], address: int, lost: FindLost | None = None) -> Iterator[str]:
    """Show bytes in the form of ``hexdump -C``.

    Parameters
    ----------
    pieces : iterable of bytes
        In order.
    address : int
        Of the first byte.
    lost : callable, optional
        Tells, for an address and a length, from where to where bytes are lost: they are
        shown as question marks.

    Yields
    ------
    str
        Sixteen bytes a line; lines like the one before are one ``*``; last the address
        behind the last byte.
    """
    before: tuple[bytes, frozenset[int]] | None = None
    squeezed = False
    marks = _Marks(lost)
    for line in _lines(pieces):
        gone = marks.of(address, len(line))
        if (line, gone) == before and len(line) == _LINE:
            if not squeezed:
                yield "*"
            squeezed = True
        else:
            yield _hexdump_line(address, line, gone)
            squeezed = False
        before = line, gone
        address += len(line)
    if before is not None:
        yield f"{address:08x}"


class _Marks:
    """Which bytes of a line are lost; asked for many lines at a time."""

    _STEP = 1 << 16

    def __init__(self, lost: FindLost | None) -> None:
        self._lost = lost
        self._end = -1
        self._stretches: list[tuple[int, int]] = []

    def of(self, address: int, length: int) -> frozenset[int]:
        """Return which of so many bytes at an address are lost, by number."""
        if self._lost is None:
            return frozenset()
        if address + length > self._end:
            try:
                self._stretches = self._lost(address, self._STEP)
                self._end = address + self._STEP
            except AddressError:  # the end of memory is not far
                self._stretches = self._lost(address, length)
                self._end = address + length
        return frozenset(
            byte - address
            for first, end in self._stretches
            for byte in range(max(first, address), min(end, address + length))
        )


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


def _hexdump_line(address: int, line: bytes, lost: frozenset[int] = frozenset()) -> str:
    digits = ["??" if i in lost else f"{byte:02x}" for i, byte in enumerate(line)]
    left, right = " ".join(digits[:8]), " ".join(digits[8:])
    shown = (chr(byte) if 0x20 <= byte < 0x7F else "." for byte in line)
    text = "".join("?" if i in lost else char for i, char in enumerate(shown))
    return f"{address:08x}  {left:<23}  {right:<23}  |{text}|"
