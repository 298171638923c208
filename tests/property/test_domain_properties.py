"""Whatever a domain XML says of devices is listed or left out, and brings no option along."""

from __future__ import annotations

from xml.sax.saxutils import quoteattr

from hypothesis import given
from hypothesis import strategies as st

from savefmt.errors import CorruptError
from savefmt.format.domain import read_elements
from savefmt.format.outside import Kind, outside_of
from savefmt.format.qcow2 import backing_name
from savefmt.qemu.devicewords import device_words

DEVICES = "disk interface hostdev serial channel rng tpm filesystem input memory controller video"
INSIDE = "source target address driver backend model mac adapter vendor product backingStore host"
ATTRIBUTES = "type mode model bus slot function port index name dev file path dir id pool protocol"
VALUES = st.sampled_from(
    ["pci", "usb", "virtio", "file", "unix", "0x1", "7", "-1", "0x", "a,evil=on", "a\u202eb", ""]
) | st.text("ab,=/:.x0", max_size=8)


@st.composite
def elements(draw: st.DrawFn, names: str, depth: int) -> str:
    """Build elements with attributes and others inside."""
    text = ""
    for name in draw(st.lists(st.sampled_from(names.split()), max_size=4)):
        keys = draw(st.lists(st.sampled_from(ATTRIBUTES.split()), unique=True, max_size=5))
        given_ = "".join(f" {key}={quoteattr(draw(VALUES))}" for key in keys)
        inside = draw(elements(INSIDE, depth - 1)) if depth else ""
        text += f"<{name}{given_}>{inside}</{name}>"
    return text


@given(devices=elements(DEVICES, 2))
def test_any_devices_are_listed_or_left_out(devices: str) -> None:
    xml = f"<domain><devices>{devices}</devices></domain>".encode()

    found = outside_of(xml)
    made = device_words(read_elements(xml, "domain", 0, deepest=5), "pcie.0")

    assert len({(thing.kind, thing.name) for thing in found}) == len(found)
    assert all(thing.name and isinstance(thing.kind, Kind) for thing in found)
    for option, value in made.options:
        assert option in ("-device", "-blockdev", "-netdev", "-chardev", "-object")
        assert ",evil=" not in value.replace(",,", "")


@given(rest=st.binary(max_size=300), version=st.integers(0, 4))
def test_any_head_of_a_disk_has_a_name_or_an_error(rest: bytes, version: int) -> None:
    head = b"QFI\xfb" + version.to_bytes(4, "big") + rest
    try:
        found = backing_name(head)
    except CorruptError:
        return
    assert found is None or found[0].encode("utf-8", "surrogateescape") in head
