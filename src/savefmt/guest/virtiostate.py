"""The state of virtio devices, which no vmdescription describes (format.md 7.4)."""

from __future__ import annotations

from collections.abc import Iterator

from savefmt.errors import TruncatedError
from savefmt.format.cursor import ChunkCursor, Cursor
from savefmt.frozen import dataclass
from savefmt.guest.pci import MSIX, PCIE, VIRTIO_VERSION, capabilities, msix_vectors

_PCI_SPACE, _PCIE_SPACE = 256, 4096
_IRQ_STATE = 16
_MSIX_ENTRY = 16
_QUEUE, _VECTOR = 4 + 8 + 2, 2
_MOST_PORTS = 511


@dataclass(frozen=True, slots=True)
class SerialPorts:
    """The ports of a virtio-serial device.

    Attributes
    ----------
    numbers : frozenset of int
        Of those that have a number of their own: 1 and above.
    console : bool
        Whether there is a port 0, too.
    """

    numbers: frozenset[int]
    console: bool


def serial_ports(state: bytes) -> SerialPorts | None:
    """Return the ports in the state of a virtio-serial device behind PCI.

    Parameters
    ----------
    state : bytes
        The field ``virtio`` of a section ``virtio-console``.

    Returns
    -------
    SerialPorts or None
        None where the state is damaged, or of another kind.
    """
    cursor = ChunkCursor(iter((state,)), 0)
    try:
        if not _skip_common(cursor):
            return None
        cursor.skip(4)  # columns and rows
        most = cursor.u32()
        if most > _MOST_PORTS:
            return None
        numbers = frozenset(_bits(cursor, most)) - {0}
        active = cursor.u32()
    except TruncatedError:
        return None
    return SerialPorts(numbers, active > len(numbers))


def _bits(cursor: Cursor, count: int) -> Iterator[int]:
    for first in range(0, count, 32):
        word = cursor.u32()
        yield from (first + bit for bit in range(32) if word >> bit & 1)


def _skip_common(cursor: Cursor) -> bool:
    """Skip what all virtio devices behind PCI have; False if this is not such a device."""
    if cursor.read(len(VIRTIO_VERSION)) != VIRTIO_VERSION:
        return False
    config = cursor.peek(_PCI_SPACE)
    if len(config) < _PCI_SPACE:
        return False
    kinds = dict(capabilities(config))
    cursor.skip((_PCIE_SPACE if PCIE in kinds else _PCI_SPACE) + _IRQ_STATE)
    if MSIX in kinds:
        vectors = msix_vectors(kinds[MSIX])
        cursor.skip(vectors * _MSIX_ENTRY + -(-vectors // 8) + _VECTOR)
    cursor.skip(8)  # status, interrupt, selected queue, features
    cursor.skip(cursor.u32())  # the device's own configuration
    cursor.skip(cursor.u32() * (_QUEUE + _VECTOR * (MSIX in kinds)))
    return True
