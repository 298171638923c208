"""The configuration section: what machine was saved, and how (format.md 3.2)."""

from __future__ import annotations

from savefmt.errors import CorruptError, UnsupportedError
from savefmt.format.cursor import Cursor
from savefmt.format.tee import Recorder
from savefmt.format.wire import (
    MAX_PAGE_SIZE,
    MIN_PAGE_SIZE,
    ItemType,
    decode_name,
    encode_name,
    pack_counted,
)
from savefmt.frozen import dataclass, field, replace

PAGE_BITS_SUBSECTION = "configuration/target-page-bits"
CAPABILITIES_SUBSECTION = "configuration/capabilities"
UUID_SUBSECTION = "configuration/uuid"

MAPPED_RAM = "mapped-ram"
IGNORE_SHARED = "x-ignore-shared"
VALIDATED_CAPABILITIES = (IGNORE_SHARED, MAPPED_RAM)
"""The capabilities that leave a record, in QEMU's order (format.md 3.2)."""

MAX_MACHINE_LENGTH = 1024
MAX_CAPABILITIES = 64


@dataclass(frozen=True, slots=True)
class Configuration:
    """What the saved machine was (format.md 3.2).

    Attributes
    ----------
    machine : str
        Machine type, such as ``pc-q35-10.0``.
    capabilities : tuple of str
        Those that change the stream, in its order.
    page_bits : int or None
        Logarithm of the target page size; None where it is the guest family's minimum.
    uuid : bytes or None
        16 raw bytes.
    offset : int
        Of the section's marker byte.
    """

    machine: str
    capabilities: tuple[str, ...]
    page_bits: int | None
    uuid: bytes | None
    offset: int
    # The section is cut into its head and its subsections, each under its name. What is not
    # edited is written again byte for byte.
    _pieces: tuple[tuple[str, bytes], ...] = field(repr=False)

    @classmethod
    def plain(cls, machine: str) -> Configuration:
        """Make one that tells the machine and nothing else."""
        name = encode_name(machine)
        head = bytes([ItemType.CONFIGURATION]) + len(name).to_bytes(4, "big") + name
        return cls(machine, (), None, None, 0, (("", head),))

    @classmethod
    def read(cls, cursor: Cursor) -> Configuration:
        """Read the section, whose marker byte is next.

        Parameters
        ----------
        cursor : Cursor
            Left behind the last subsection.

        Returns
        -------
        Configuration
            The machine and what it was saved with.
        """
        offset = cursor.tell()
        head = Recorder(cursor)
        head.u8("configuration")
        length = head.u32("machine type")
        if length > MAX_MACHINE_LENGTH:
            raise CorruptError(
                f"the machine type is {length} bytes long, which is too long", offset=offset + 1
            )
        machine = decode_name(head.read(length, "machine type"))
        pieces = {"": bytes(head.kept)}
        capabilities: tuple[str, ...] = ()
        page_bits = uuid = None
        while cursor.peek(1) == bytes([ItemType.SUBSECTION]):
            at = cursor.tell()
            piece = Recorder(cursor)
            piece.u8("configuration subsection")
            name = decode_name(piece.counted("configuration subsection"))
            version = piece.u32(name)
            if name in pieces:
                raise CorruptError(
                    f"the configuration has the subsection {name!r} twice", offset=at
                )
            if version != 1:
                raise UnsupportedError(
                    f"the configuration has the subsection {name!r} in version {version}, "
                    "which this release does not know",
                    offset=at,
                )
            if name == PAGE_BITS_SUBSECTION:
                page_bits = _page_bits(piece)
            elif name == CAPABILITIES_SUBSECTION:
                capabilities = _capabilities(piece)
            elif name == UUID_SUBSECTION:
                uuid = piece.read(16, name)
            else:
                raise UnsupportedError(
                    f"the configuration has the subsection {name!r}, which this release does "
                    "not know",
                    offset=at,
                )
            pieces[name] = bytes(piece.kept)
        return cls(machine, capabilities, page_bits, uuid, offset, tuple(pieces.items()))

    @property
    def raw(self) -> bytes:
        """The section as it is in the stream, including its marker."""
        return b"".join(piece for _, piece in self._pieces)

    @property
    def length(self) -> int:
        """Bytes that the section takes, marker included."""
        return sum(len(piece) for _, piece in self._pieces)

    @property
    def page_size(self) -> int | None:
        """Target page size; None where it is the guest family's minimum."""
        return None if self.page_bits is None else 1 << self.page_bits

    @property
    def unknown_capabilities(self) -> tuple[str, ...]:
        """Capabilities whose effect on the stream this release does not know."""
        return tuple(name for name in self.capabilities if name not in VALIDATED_CAPABILITIES)

    def pack(self) -> bytes:
        """Return the bytes that `read` accepts."""
        return self.raw

    def with_capability(self, name: str, on: bool) -> Configuration:
        """Switch a capability, leaving all else byte for byte (format.md 6.1, 6.2).

        Parameters
        ----------
        name : str
            The capability.
        on : bool
            Whether to list it.

        Returns
        -------
        Configuration
            This very one if nothing changes.
        """
        if on == (name in self.capabilities):
            return self
        if on:
            names = (*self.capabilities, name)
        else:
            names = tuple(other for other in self.capabilities if other != name)
        pieces = dict(self._pieces)
        if not names:
            del pieces[CAPABILITIES_SUBSECTION]
        elif CAPABILITIES_SUBSECTION in pieces:
            pieces[CAPABILITIES_SUBSECTION] = _pack_capabilities(names)
        else:
            # QEMU puts it here: after the page bits, before the UUID.
            order = list(pieces)
            place = order.index(PAGE_BITS_SUBSECTION if PAGE_BITS_SUBSECTION in order else "") + 1
            order.insert(place, CAPABILITIES_SUBSECTION)
            pieces[CAPABILITIES_SUBSECTION] = _pack_capabilities(names)
            pieces = {key: pieces[key] for key in order}
        return replace(self, capabilities=names, _pieces=tuple(pieces.items()))


def _page_bits(cursor: Cursor) -> int:
    at = cursor.tell()
    bits = cursor.u32(PAGE_BITS_SUBSECTION)
    if not MIN_PAGE_SIZE <= 1 << min(bits, 32) <= MAX_PAGE_SIZE:
        raise CorruptError(
            f"the configuration names target pages of 2**{bits} bytes, which no guest has",
            offset=at,
        )
    return bits


def _capabilities(cursor: Cursor) -> tuple[str, ...]:
    at = cursor.tell()
    count = cursor.u32("capability count")
    if count > MAX_CAPABILITIES:
        raise CorruptError(
            f"the configuration lists {count} capabilities, which is too many", offset=at
        )
    names = tuple(decode_name(cursor.counted("capability")) for _ in range(count))
    if len(set(names)) < count:
        raise CorruptError("a capability is listed twice", offset=at)
    return names


def _pack_capabilities(names: tuple[str, ...]) -> bytes:
    return b"".join(
        (
            bytes([ItemType.SUBSECTION]),
            pack_counted(CAPABILITIES_SUBSECTION.encode()),
            (1).to_bytes(4, "big"),
            len(names).to_bytes(4, "big"),
            *(pack_counted(encode_name(name)) for name in names),
        )
    )
