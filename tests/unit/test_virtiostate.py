"""The ports in the state of a virtio-serial device are read, and damage is no crash."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from savefmt.guest.virtiostate import SerialPorts, serial_ports


def state(
    numbers: set[int], *, console: bool, vectors: int = 0, express: bool = False, most: int = 31
) -> bytes:
    """Return what a virtio-serial device behind PCI writes."""
    config, at, link = bytearray(4096 if express else 256), 0x40, 0x34
    for kind, wanted, body in (
        (0x10, express, bytes(30)),
        (0x11, bool(vectors), (vectors - 1 & 0x7FF).to_bytes(2, "little") + bytes(8)),
    ):
        if wanted:
            config[link] = at
            config[at : at + 2 + len(body)] = bytes([kind, 0]) + body
            link, at = at + 1, at + 0x30
    words = [0] * -(-most // 32)
    for number in numbers | {0}:
        words[number // 32] |= 1 << number % 32
    queues = 4
    return b"".join(
        (
            b"\0\0\0\2",
            config,
            bytes(16),
            bytes(vectors * 16 + -(-vectors // 8) + 2) if vectors else b"",
            bytes(8),
            struct.pack(">I", 12) + bytes(12),
            struct.pack(">I", queues) + bytes(queues * (16 if vectors else 14)),
            struct.pack(">HHI", 80, 25, most),
            struct.pack(f">{len(words)}I", *words),
            struct.pack(">I", len(numbers) + console),
            bytes(10 * (len(numbers) + console)),
        )
    )


@pytest.mark.parametrize("vectors", [0, 2, 9])
@pytest.mark.parametrize("express", [False, True])
@pytest.mark.parametrize("console", [False, True])
def test_ports_are_read(vectors: int, express: bool, console: bool) -> None:
    data = state({1, 3, 40}, console=console, vectors=vectors, express=express, most=64)

    assert serial_ports(data) == SerialPorts(frozenset({1, 3, 40}), console)


def test_another_transport_tells_nothing() -> None:
    assert serial_ports(b"\0\0\0\1" + bytes(1000)) is None
    assert serial_ports(state({1}, console=True, most=512)) is None


@given(st.data())
def test_damage_is_no_crash(data: st.DataObject) -> None:
    whole = bytearray(state({1, 2}, console=True, vectors=2))
    for at in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=8)):
        whole[at] = data.draw(st.integers(0, 255))
    found = serial_ports(bytes(whole[: data.draw(st.integers(0, len(whole)))]))

    assert found is None or len(found.numbers) <= 511
