"""BTF and kallsyms written from scratch, in every layout that kernels have had."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

BASE = 0xFFFF_FFFF_8100_0000
"""Where the pieces of kernels that are made here lie."""

_MARK = 256


@dataclass
class BtfWriter:
    """Collects types; numbers begin at 1, or where a base ends."""

    strings: bytearray = field(default_factory=lambda: bytearray(b"\0"))
    types: bytearray = field(default_factory=bytearray)
    count: int = 1
    first_string: int = 0

    def name(self, text: str) -> int:
        """Return the offset of a name."""
        if not text:
            return 0
        wanted = text.encode() + b"\0"
        at = self.strings.find(b"\0" + wanted)
        if at < 0:
            at = len(self.strings) - 1
            self.strings += wanted
        return at + 1 + self.first_string

    def add(
        self,
        kind: int,
        name: str,
        value: int,
        words: Sequence[int] = (),
        *,
        length: int = 0,
        flag: bool = False,
    ) -> int:
        """Add a type and return its number."""
        info = kind << 24 | flag << 31 | length
        self.types += struct.pack("<III", self.name(name), info, value)
        self.types += struct.pack(f"<{len(words)}I", *words)
        self.count += 1
        return self.count - 1

    def pack(self) -> bytes:
        """Return it whole."""
        head = struct.pack(
            "<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(self.types), len(self.types), len(self.strings)
        )
        return head + bytes(self.types) + bytes(self.strings)


def sample_types() -> BtfWriter:
    """Return a few types of each kind."""
    types = BtfWriter()
    number = types.add(1, "int", 4, [1 << 24 | 32])
    byte = types.add(1, "char", 1, [1 << 24 | 8])
    types.add(1, "_Bool", 1, [4 << 24 | 8])
    text = types.add(3, "", 0, [byte, number, 16])
    node = types.count + 1
    pointer = types.add(2, "", node)
    members = [types.name("next"), pointer, 0, types.name("comm"), text, 64]
    members += [types.name("flags"), number, 3 << 24 | 192]
    assert types.add(4, "node", 32, members, length=3, flag=True) == node
    types.add(5, "either", 4, [types.name("a"), number, 0, types.name("b"), byte, 0], length=2)
    types.add(6, "state", 4, [types.name("OFF"), 0, types.name("ON"), 7], length=2)
    types.add(19, "wide", 8, [types.name("FAR"), 1, 1], length=1)
    types.add(6, "signed", 4, [types.name("BELOW"), 0xFFFF_FFFF], length=1, flag=True)
    alias = types.add(8, "node_t", node)
    types.add(10, "", alias)
    types.add(13, "", number, [types.name("one"), pointer, 0, 0], length=2)
    types.add(7, "unknown", 0)
    return types


LAYOUTS = ("absolute", "4.6", "4.20", "6.1", "6.2", "6.4", "6.4 absolute", "7")


def pack_kallsyms(symbols: Sequence[tuple[int, str]], layout: str, *, base: int = BASE) -> bytes:
    """Return a piece of a kernel with a table of symbols.

    Parameters
    ----------
    symbols : sequence of (int, str)
        Addresses and names, with their kinds as first letters.
    layout : str
        One of `LAYOUTS`.
    base : int
        Where the piece begins.

    Returns
    -------
    bytes
        With noise before and behind.
    """
    letters = sorted({letter for _, name in symbols for letter in name})
    free = iter(code for code in range(256) if chr(code) not in "0123456789")
    pairs = ["init", "sys_", "task", "the"]
    tokens = [
        chr(code) if chr(code) in letters or chr(code).isdigit() else "" for code in range(256)
    ]
    for pair in pairs:
        code = next(code for code in free if not tokens[code])
        tokens[code] = pair
    names, marks = bytearray(), []
    for number, (_, name) in enumerate(symbols):
        if number % _MARK == 0:
            marks.append(len(names))
        codes = bytearray()
        while name:
            token = max((one for one in tokens if one and name.startswith(one)), key=len)
            codes.append(tokens.index(token))
            name = name.removeprefix(token)
        if len(codes) > 0x7F:
            assert layout in ("6.1", "6.2", "6.4", "6.4 absolute", "7")
            names += bytes([len(codes) & 0x7F | 0x80, len(codes) >> 7])
        else:
            names.append(len(codes))
        names += codes
    tokens = [one or "x" * 5 for one in tokens]
    data = bytearray(b"\x5a" * 4096)

    def align(step: int) -> None:
        data.extend(bytes(-len(data) % step))

    narrow = 4 if layout == "7" else 8

    def put_addresses() -> None:
        align(narrow)
        if layout in ("absolute", "6.4 absolute"):
            data.extend(struct.pack(f"<{len(symbols)}Q", *(at for at, _ in symbols)))
            return
        if layout == "7":
            start = base + len(data)
            offsets = [at - start - 4 * place for place, (at, _) in enumerate(symbols)]
            data.extend(struct.pack(f"<{len(symbols)}i", *offsets))
            return
        start = min(at for at, _ in symbols if at >> 63)
        if layout == "4.6":  # every address counts up from the base
            offsets = [at - start for at, _ in symbols]
        else:
            offsets = [at if not at >> 63 else start - 1 - at for at, _ in symbols]
        data.extend(struct.pack(f"<{len(symbols)}i", *offsets))
        align(8)
        data.extend(struct.pack("<Q", start))

    def put_names() -> None:
        wide = layout in ("absolute", "4.6")
        align(narrow)
        data.extend(len(symbols).to_bytes(8 if wide else 4, "little"))
        align(narrow)
        data.extend(names)
        align(narrow)
        data.extend(struct.pack(f"<{len(marks)}{'Q' if wide else 'I'}", *marks))
        if layout == "6.2":
            align(narrow)
            data.extend(b"".join(place.to_bytes(3, "big") for place in range(len(symbols))))

    def put_tokens() -> None:
        align(narrow)
        text, index = bytearray(), []
        for token in tokens:
            index.append(len(text))
            text += token.encode("latin-1") + b"\0"
        data.extend(text)
        align(narrow)
        data.extend(struct.pack("<256H", *index))

    if layout in ("6.4", "6.4 absolute", "7"):
        steps = (put_names, put_tokens, put_addresses)
    else:
        steps = (put_addresses, put_names, put_tokens)
    for step in steps:
        step()
    return bytes(data) + b"\xa5" * 4096
