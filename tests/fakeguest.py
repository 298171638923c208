"""A guest without an image: blocks, device sections and an XML, as the guest package asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from savefmt.errors import CorruptError
from savefmt.format.devicetree import Field, Struct, Value
from savefmt.format.ram import ListedBlock
from savefmt.guest.needs import Losses
from savefmt.model import Section
from savefmt.reading.dumpview import Dump

MIB = 1 << 20
GIB = 1 << 30

Tree = Struct | Exception


def struct(name: str = "", **values: Value) -> Struct:
    """Return a structure with these fields, ``__`` in a name standing for a dot."""
    return struct_of({key.replace("__", "."): value for key, value in values.items()}, name)


def struct_of(values: Mapping[str, Value], name: str = "") -> Struct:
    """Return a structure with these fields."""
    return Struct(name, 1, tuple(Field(key, "", 0, 0, value) for key, value in values.items()))


def pci(config: bytes) -> Struct:
    """Return a PCI device with this configuration space."""
    return Struct("pci", 1, (Field("config[0]", "pci config", 0, 256, config.ljust(256, b"\0")),))


def clock(low: int, high: int) -> Struct:
    """Return a clock whose CMOS tells of memory below and above 4 GiB."""
    cmos = bytearray(128)
    extended = min((low - MIB) >> 10, 0xFFFF)
    cmos[0x30:0x32] = extended.to_bytes(2, "little")
    cmos[0x34:0x36] = (max(low - 16 * MIB, 0) >> 16).to_bytes(2, "little")
    cmos[0x5B:0x5E] = (high >> 16).to_bytes(3, "little")
    return struct(cmos_data=bytes(cmos))


def block(idstr: str, length: int, guest_address: int | None = None) -> ListedBlock:
    """Return an entry of the block list."""
    return ListedBlock(idstr, idstr.encode(), length, 4096, None, guest_address, None, 0, None)


class FakeDevices:
    """Device sections from a table; an exception in it is what taking one apart raises."""

    incomplete: str | None = None

    def __init__(self, trees: Mapping[str, Tree]) -> None:
        self._trees = trees
        self.sections = tuple(Section(*self._key(name)) for name in trees)

    @staticmethod
    def _key(name: str) -> tuple[str, int]:
        idstr, _, number = name.partition("#")
        return idstr, int(number or 0)

    def find(self, idstr: str, instance_id: int = 0) -> Section | None:
        """Return the section with this name."""
        return next(
            (s for s in self.sections if (s.idstr, s.instance_id) == (idstr, instance_id)), None
        )

    def tree(self, section: Section) -> Struct:
        """Return the section's fields."""
        for name, tree in self._trees.items():
            if self._key(name) == (section.idstr, section.instance_id):
                if isinstance(tree, Exception):
                    raise tree
                return tree
        raise AssertionError(section)


@dataclass
class FakeMemory:
    """Blocks whose bytes are given, or tell the block and the offset."""

    contents: Mapping[str, bytes]

    def read(self, block: str, offset: int, length: int) -> bytes:
        """Return what is given, or the beginning of a text that only this place has."""
        if block in self.contents:
            return self.contents[block][offset : offset + length]
        return f"{block}+{offset:#x}".encode().ljust(length, b".")[:length]


@dataclass
class FakeGuest:
    """What `GuestSource` asks for; `trees` has ``idstr#instance`` as keys."""

    blocks: Mapping[str, int] = field(default_factory=dict)
    machine: str = "pc-q35-10.0"
    trees: Mapping[str, Tree] = field(default_factory=dict)
    xml: bytes | None = None
    cookie: bytes | None = None
    guest_addresses: Mapping[str, int] = field(default_factory=dict)
    path: Path = Path("fake")
    places: Mapping[str, int] = field(default_factory=dict)
    contents: Mapping[str, bytes] = field(default_factory=dict)
    dump: Dump | None = None
    rescue: Losses | None = None

    def __post_init__(self) -> None:
        listed = [
            block(idstr, length, self.guest_addresses.get(idstr))
            for idstr, length in self.blocks.items()
        ]
        self.head: Any = SimpleNamespace(blocks=SimpleNamespace(blocks=tuple(listed)))
        self.envelope: Any = None
        if self.xml is not None:
            self.envelope = SimpleNamespace(xml=self.xml, cookie=self.cookie)
        self.memory = FakeMemory(self.contents)
        self.devices = FakeDevices(self.trees)


DAMAGED = CorruptError("damaged")
