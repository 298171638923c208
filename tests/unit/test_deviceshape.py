"""What an image tells of the inside of its devices, held against what a QEMU tells."""

from __future__ import annotations

from typing import Any

import pytest
from golden import load
from hypothesis import given
from hypothesis import strategies as st

import savefmt
from savefmt.model import Section
from savefmt.qemu.deviceshape import Shape, compare_shapes, told_by

USB = ("0000:00:07.0/xhci", "0000:00:07.0/2/usb-ptr", "0000:00:07.0/1.3/usb-kbd")
SCSI = ("0000:00:09.0/virtio-scsi", "0000:00:09.0/0:1:2/scsi-disk")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with savefmt.open(load.unpack("q35-smp", tmp_path_factory.mktemp("image"))) as opened:
        yield opened


def told(
    image: Any, idstrs: tuple[str, ...], shape: Shape, config: bytes | None = None
) -> list[str]:
    sections = [Section(idstr, 0, 1) for idstr in idstrs]
    found = compare_shapes(image, sections, shape, lambda place: config)
    return [f"{what}; {remedy}" for what, remedy in found]


def space(*capabilities: bytes) -> bytes:
    """Return a configuration space with capabilities, each given without its link."""
    made, at, link = bytearray(256), 0x40, 0x34
    for capability in capabilities:
        made[link] = at
        made[at : at + len(capability)] = capability
        link, at = at + 1, at + (len(capability) + 7 & ~3)
    return bytes(made)


def msix(vectors: int) -> bytes:
    return bytes([0x11, 0]) + (vectors - 1).to_bytes(2, "little") + bytes(8)


def express(port: int, slot: int, *, hotplug: bool) -> bytes:
    head = bytes([0x10, 0]) + bytes(13) + bytes([port]) + bytes(4)
    return head + (slot << 19 | hotplug << 5).to_bytes(4, "little") + bytes(8)


@pytest.mark.parametrize(
    ("ports", "words"),
    [
        (("2", "1.3"), None),
        (None, None),
        (("2",), None),  # how many there are is told elsewhere
        (("2", "1.4"), "at the ports 1.3, 2 and this QEMU at 1.4, 2; give each device the port="),
    ],
)
def test_ports_of_usb(image: Any, ports: tuple[str, ...] | None, words: str | None) -> None:
    found = told(image, USB, Shape(usb_ports=ports))

    assert len(found) == (words is not None)
    assert words is None or words in found[0]


@pytest.mark.parametrize(
    ("there", "wrong"),
    [
        ({"0000:00:09.0/0:1:2": "scsi-hd"}, False),
        ({}, False),
        ({"0000:00:09.0/0:1:3": "scsi-hd"}, True),
        ({"0000:00:08.0/0:1:2": "scsi-hd"}, True),
    ],
)
def test_places_behind_scsi(image: Any, there: dict[str, str], wrong: bool) -> None:
    found = told(image, SCSI, Shape(scsi=there))

    assert [text.endswith("give it channel=0,scsi-id=1,lun=2") for text in found] == [True] * wrong


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"vectors": 3, "port": 1, "slot": 5, "hotplug": True}, ""),
        ({"vectors": 4}, "vectors=3 in the image and vectors=4"),
        ({"port": 0}, "port=1 in the image and port=0 in this QEMU; give it port=1"),
        ({"slot": 0}, "slot=5 in the image"),
        ({"hotplug": False}, "give it hotplug=on"),
        ({"p2": 4, "p3": 4}, ""),  # no XHCI controller is there
    ],
)
def test_what_a_configuration_space_tells(image: Any, values: dict[str, Any], words: str) -> None:
    place = "0000:00:05.0"
    config = space(express(1, 5, hotplug=True), msix(3))

    found = told(image, (), Shape(functions={place: values}), config)

    assert len(found) == bool(words)
    assert all(words in text for text in found)
    assert told(image, (), Shape(functions={place: values}), None) == []


def test_capabilities_in_a_circle(image: Any) -> None:
    config = bytearray(space(msix(3)))
    config[0x41] = 0x40

    shape = Shape(functions={"0000:00:05.0": {"vectors": 3}})

    assert told(image, (), shape, bytes(config)) == []


@given(config=st.binary(min_size=64, max_size=300))
def test_any_configuration_space(config: bytes) -> None:
    unread: Any = None  # no section is

    shape = Shape(functions={"0000:00:05.0": {"vectors": -1}})
    assert len(list(compare_shapes(unread, [], shape, lambda place: config))) <= 1


def test_slots_for_memory(image: Any) -> None:
    """The guest of the image has none."""
    section = ("0000:00:1f.0/ICH9LPC",)

    assert told(image, section, Shape(slots=0)) == told(image, section, Shape()) == []
    (text,) = told(image, section, Shape(slots=4))
    assert text.endswith(
        "has 0 slots for memory and this QEMU has 4; leave slots= and maxmem= out behind -m"
    )


def test_a_port_is_one_of_a_bridge_with_a_chassis() -> None:
    assert told_by(frozenset({"port", "slot", "vectors"})) == {"vectors"}
    assert told_by(frozenset({"port", "slot", "chassis"})) == {"port", "slot"}
