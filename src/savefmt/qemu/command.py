"""A QEMU command line that an image could be restored into, as far as the image tells."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from savefmt.compat.cpufit import qemus_name
from savefmt.errors import CorruptError, FormatError, SavefmtError
from savefmt.format.domain import Element, integer, read_elements
from savefmt.guest.arch.table import ARCHES
from savefmt.guest.evidence import evidence_of
from savefmt.guest.needs import read_hardware
from savefmt.image import SaveImage
from savefmt.model import RamBlock
from savefmt.qemu.devicewords import DeviceWords, device_words
from savefmt.qemu.report import CommandSkeleton

_UNKNOWN = "ARCHITECTURE"
_WORD = re.compile(r"[\w.+-]{1,64}")
_WITH_HPET = ("pc-i440fx", "pc-q35")
_LEVELS = ("sockets", "dies", "clusters", "cores", "threads")
_PLAIN = ("sockets", "cores", "threads")
_LISTED = 64
"""Devices that are named at most."""


def command_line(image: SaveImage, *, devices: bool = True) -> CommandSkeleton:
    """Derive a command line from the XML and the stream of an image.

    Parameters
    ----------
    image : SaveImage
        Open.  Its writer chose what it says: nothing from it is run here, and no file name from
        it is used.
    devices : bool
        Add the devices that the XML names.

    Returns
    -------
    CommandSkeleton
        Machine, memory, vCPUs, CPU model and devices; what they cannot hold is a remark.
    """
    xml = _elements(image)
    emulator, doubt = emulator_of(image)
    main = _main_memory(image)
    made = device_words(xml, _root_bus(image)) if devices and xml else None
    memory = sum(block.used_length for block in ([main] if main else image.blocks.values()))
    words = [
        (f"qemu-system-{emulator}",),
        *([("-name", f"guest={_value(name)}")] if (name := _text(xml, "name")) else []),
        *([("-uuid", uuid)] if (uuid := _text(xml, "uuid")) else []),
        ("-machine", _machine(image, xml, main)),
        *_cpu(image, xml),
        *_memory(main, memory),
        ("-smp", _vcpus(image, xml)),
        ("-nodefaults",),
        ("-no-user-config",),
        ("-display", "none"),
        *(made.options if made is not None else ()),
        ("-S",),
        ("-incoming", "defer"),
        ("-qmp", "unix:guest.qmp,server=on,wait=off"),
    ]
    told = (*([doubt] if doubt else []), *_remarks(image, xml, main, made))
    return CommandSkeleton(tuple(words), told)


def _elements(image: SaveImage) -> list[Element]:
    if image.envelope is None:
        return []
    try:
        return read_elements(image.envelope.xml, "domain", 0, deepest=5)
    except FormatError:
        return []


def _find(xml: list[Element], *path: str) -> Element | None:
    return next((element for element in xml if element.path == ("domain", *path)), None)


def _text(xml: list[Element], *path: str) -> str:
    element = _find(xml, *path)
    return element.text.strip() if element is not None else ""


def _value(text: str) -> str:
    """Double the commas, as QEMU wants them in a value."""
    return text.replace(",", ",,")


def emulator_of(image: SaveImage) -> tuple[str, str]:
    """Return QEMU's name for the architecture of an image, and what is in doubt about it."""
    element = _find(_elements(image), "os", "type")
    said = element.attributes.get("arch", "") if element is not None else ""
    evidence = evidence_of(image, devices=image.sections is not None)
    doubt = ""
    try:
        names = sorted(evidence.names)
    except CorruptError as error:  # the stream knows better than the XML
        doubt = error.message
        names = sorted(evidence.without("XML").names)
    except SavefmtError as error:
        return _UNKNOWN, error.message
    if not names:
        return _UNKNOWN, "nothing in the image tells the architecture"
    if names == ["x86_64"] and said == "i686":
        return "i386", doubt
    others = ", ".join(f"qemu-system-{ARCHES[name].emulator}" for name in names[1:])
    return ARCHES[names[0]].emulator, f"it may as well be {others}" if others else doubt


def _machine(image: SaveImage, xml: list[Element], main: RamBlock | None) -> str:
    accelerator = "kvm" if xml and xml[0].attributes.get("type") == "kvm" else "tcg"
    words = [_value(image.machine) or "none", f"accel={accelerator}"]
    if image.machine.startswith(_WITH_HPET) and image.devices.find("hpet") is None:
        words.append("hpet=off")
    if main is not None:
        words.append(f"memory-backend={_value(main.idstr)}")
    return ",".join(words)


def _main_memory(image: SaveImage) -> RamBlock | None:
    """Return what the machine calls its RAM, or else the largest block of nobody else's."""
    own = [block for block in image.blocks.values() if "/" not in block.idstr]
    named = [block for block in own if block.idstr.endswith(".ram")]
    return max(named or own, key=lambda block: block.used_length, default=None)


def _memory(main: RamBlock | None, length: int) -> Iterator[tuple[str, ...]]:
    if main is not None:
        size = main.used_length
        yield "-object", f"memory-backend-ram,id={_value(main.idstr)},size={size}"
    yield "-m", f"size={length >> 10}k"


def _root_bus(image: SaveImage) -> str:
    return "pci.0" if image.machine.startswith("pc-i440fx") else "pcie.0"


def _vcpus(image: SaveImage, xml: list[Element]) -> str:
    counted = sum(section.idstr == "cpu" for section in image.devices.sections)
    said = _text(xml, "vcpu")
    count = counted or (int(said) if re.fullmatch(r"[1-9][0-9]{0,3}", said) else 1)
    element = _find(xml, "cpu", "topology")
    given = element.attributes if element is not None else {}
    levels = {name: integer(given[name]) or 0 for name in _LEVELS if name in given}
    if not levels or math.prod(levels.values()) != count:
        return str(count)
    # One of a level that is not said, as some machines have no such level.
    parts = [f"{name}={number}" for name, number in levels.items() if number > 1 or name in _PLAIN]
    return ",".join((str(count), *parts))


def _cpu(image: SaveImage, xml: list[Element]) -> Iterator[tuple[str, ...]]:
    hardware = read_hardware(image, [])
    model, features = hardware.cpu_model or "", hardware.cpu_features
    if (hardware.cpu_mode or "").startswith("host") and not features:
        yield "-cpu", "host"
    elif _WORD.fullmatch(model):
        asked = features or [
            (element.attributes.get("name", ""), policy not in ("disable", "forbid"))
            for element in xml
            if element.path == ("domain", "cpu", "feature")
            and (policy := element.attributes.get("policy", "require"))
        ]
        switches = [
            f"{qemus_name(name)}={'on' if had else 'off'}"
            for name, had in asked
            if _WORD.fullmatch(name)
        ]
        yield "-cpu", ",".join([model, *switches])


def _remarks(
    image: SaveImage, xml: list[Element], main: RamBlock | None, made: DeviceWords | None
) -> Iterator[str]:
    if not xml:
        yield "without XML, the CPU model and the accelerator are guesses"
    emulator = _text(xml, "devices", "emulator")
    if emulator:
        yield f"the XML names the emulator {emulator}"
    for block in image.blocks.values():
        # Machines give names such as pc.rom; one without a dot came from the command line.
        if block != main and not {"/", "."} & set(block.idstr):
            yield f"the RAM block {block.idstr} of {block.used_length} bytes needs its back end"
    if made is not None:
        yield from made.stand_ins
        for name in made.unknown[:_LISTED]:
            yield f"to be added, at the address that the XML gives: {name}"
        yield "savefmt check --qmp tells what differs from the guest once this QEMU waits"
        return
    devices = sorted({s.idstr for s in image.devices.sections if "/" in s.idstr})
    for name in devices[:_LISTED]:
        yield f"the stream has the device {name}"
    if len(devices) > _LISTED:
        yield f"and {len(devices) - _LISTED} devices more"
    yield "devices that the machine type does not bring along must be added, at the same addresses"
